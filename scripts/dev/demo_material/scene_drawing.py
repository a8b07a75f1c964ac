"""Draws a whole scene: belt, rails, parts with their shadows, then the light and the camera's faults."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .part_drawing import Image, part_sprite, placement
from .scene import (
    BELT_BOTTOM_PX,
    BELT_PERIOD_PX,
    BELT_TOP_PX,
    HEIGHT_PX,
    WIDTH_PX,
    Light,
    Optics,
    Part,
    Scene,
)

_SHADOW_SHIFT_PX = (7.0, 11.0)
_SIZE = (WIDTH_PX, HEIGHT_PX)


@lru_cache(maxsize=8)
def _belt_texture(style: int) -> npt.NDArray[np.uint8]:
    """One period of the belt, `(belt height, BELT_PERIOD_PX, 3) uint8 BGR`, seamless from end to start."""
    rng = np.random.default_rng((2026, style))
    height = BELT_BOTTOM_PX - BELT_TOP_PX
    shape = (height, BELT_PERIOD_PX)
    weave = np.zeros(shape, np.float32)
    for sigma, strength in ((0.7, 2.5 + style % 3), (2.5, 7.0), (22.0, 60.0)):
        noise = np.tile(rng.normal(0, 1, shape).astype(np.float32), (1, 3))
        weave += strength * cv2.GaussianBlur(noise, (0, 0), sigma)[:, BELT_PERIOD_PX : 2 * BELT_PERIOD_PX]
    y, x = np.mgrid[0:height, 0:BELT_PERIOD_PX]
    pitch = (6, 9, 10, 12, 5, 10)[style % 6]
    weave += 1.8 * np.where(((x // pitch) + (y // pitch)) % 2 == 0, 1.0, -1.0)
    seam = (x + np.abs(y - height // 2) // 3) % (BELT_PERIOD_PX // 5)
    weave += np.where(seam < 3, -13.0, 0.0) + np.where((seam >= 3) & (seam < 5), 10.0, 0.0)
    edge = np.minimum(y, height - 1 - y)
    weave -= 16.0 * np.exp(-edge / 10.0)
    base = np.asarray(((62, 66, 60), (58, 60, 62), (72, 64, 56), (60, 70, 62), (66, 66, 66), (66, 70, 60))[style % 6])
    return np.clip(base + weave[:, :, None], 0, 255).astype(np.uint8)


def _rail(height: int) -> Image:
    """The upper side rail, `(height, WIDTH_PX, 3)`: extruded aluminium with a slot, bolts and roller ends."""
    profile = np.interp(
        np.arange(height),
        [0, 5, 12, 20, 23, 30, 33, 40, 41, height - 1],
        [150, 196, 186, 178, 92, 84, 180, 168, 46, 36],
    )
    rail = np.repeat(profile[:, None], WIDTH_PX, axis=1).astype(np.float32)
    scratches = np.random.default_rng(7).normal(0, 8, rail.shape).astype(np.float32)
    rail += np.asarray(cv2.blur(scratches, (61, 1)), np.float32)
    metal = np.clip(rail[:, :, None] * (1.02, 1.0, 0.97), 0, 255)
    image: Any = np.ascontiguousarray(metal, np.uint8)
    for x in range(40, WIDTH_PX, 112):
        cv2.circle(image, (x, 27), 9, (70, 70, 70), -1, cv2.LINE_AA)
        cv2.circle(image, (x, 26), 8, (168, 166, 162), -1, cv2.LINE_AA)
        cv2.circle(image, (x, 26), 4, (58, 58, 58), -1, cv2.LINE_AA)
    for x in range(16, WIDTH_PX, 48):
        for column in range(22):
            bright = 60 + 110 * np.sin(np.pi * (column + 0.5) / 22) ** 1.5
            image[height - 11 : height - 2, x + column : x + column + 1] = bright
    return np.asarray(image, np.uint8)


@lru_cache(maxsize=1)
def _frame_of_conveyor() -> Image:
    """The machine around the belt, `(HEIGHT_PX, WIDTH_PX, 3) uint8 BGR`; the belt's place is black."""
    image: Any = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    upper = _rail(BELT_TOP_PX)
    image[:BELT_TOP_PX] = upper
    image[BELT_BOTTOM_PX:] = upper[::-1] * 0.92
    for top in (0, HEIGHT_PX - 7):
        for x in range(-8, WIDTH_PX, 28):
            stripe = np.asarray([[x, top], [x + 14, top], [x + 20, top + 7], [x + 6, top + 7]], np.int32)
            cv2.fillPoly(image, [stripe], (36, 176, 214), cv2.LINE_AA)
    return np.asarray(image, np.uint8)


@lru_cache(maxsize=1)
def _noise_bank() -> npt.NDArray[np.float32]:
    return np.random.default_rng(11).normal(0, 1, (HEIGHT_PX + 512, WIDTH_PX + 512, 3)).astype(np.float32)


def _put_part(image: Any, part: Part) -> None:
    """Blend one part and its shadow into `image` (uint8, changed in place)."""
    reach = 150
    left = max(0, int(part.centre_x_px) - reach)
    right = min(WIDTH_PX, int(part.centre_x_px) + reach)
    if left >= right:
        return
    colour, mask = part_sprite(part.kind, part.tint, part.seed)
    matrix = placement(part)
    matrix[0, 2] -= left
    size = (right - left, HEIGHT_PX)
    region = image[:, left:right].astype(np.float32)
    shifted = matrix.copy()
    shifted[:, 2] += _SHADOW_SHIFT_PX
    shadow = cv2.GaussianBlur(cv2.warpAffine(mask, shifted, size), (0, 0), 7.0)
    region *= 1.0 - shadow[:, :, None].astype(np.float32) * (0.62 / 255.0)
    cover = cv2.warpAffine(mask, matrix, size)[:, :, None].astype(np.float32) / 255.0
    drawn = cv2.warpAffine(colour, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    region += (drawn - region) * cover
    image[:, left:right] = np.clip(region, 0, 255).astype(np.uint8)


def _light_field(light: Light) -> npt.NDArray[np.float32]:
    """Factor per pixel and channel, `(HEIGHT_PX, WIDTH_PX, 3)`: lamp, hot spot, vignette, colour."""
    y, x = np.mgrid[0:HEIGHT_PX:8, 0:WIDTH_PX:8].astype(np.float32)
    spot = ((x - light.spot_x_px) / 260) ** 2 + ((y - light.spot_y_px) / 220) ** 2
    corner = ((x - WIDTH_PX / 2) / WIDTH_PX) ** 2 + ((y - HEIGHT_PX / 2) / HEIGHT_PX) ** 2
    level = light.gain * (1.0 + light.spot_strength * np.exp(-spot)) * (1.06 - 0.55 * corner)
    tone = np.asarray([1 - 0.09 * light.warmth, 1.0, 1 + 0.07 * light.warmth], np.float32)
    field = level[:, :, None] * tone
    return np.asarray(cv2.resize(field.astype(np.float32), _SIZE, interpolation=cv2.INTER_CUBIC), np.float32)


def _photograph(image: npt.NDArray[np.float32], optics: Optics) -> Image:
    if optics.motion_px > 1:
        image = np.asarray(cv2.blur(image, (optics.motion_px, 1)), np.float32)
    if optics.blur_px > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), optics.blur_px), np.float32)
    rng = np.random.default_rng(optics.seed)
    y, x = (int(v) for v in rng.integers(0, 512, 2))
    noisy = image + optics.noise * _noise_bank()[y : y + HEIGHT_PX, x : x + WIDTH_PX]
    seen = np.clip(noisy, 0, 255).astype(np.uint8)
    if optics.jpeg_quality >= 100:
        return seen
    _, data = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, optics.jpeg_quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def draw_scene(scene: Scene) -> Image:
    """Draw `scene` as the camera would show it: `(HEIGHT_PX, WIDTH_PX, 3) uint8 BGR`, owned by the caller."""
    image = _frame_of_conveyor().copy()
    texture = _belt_texture(scene.belt_style)
    # The texture moves with the parts, by fractions of a pixel as they do.
    whole = int(np.floor(scene.belt_offset_px))
    columns = (np.arange(WIDTH_PX + 1) - whole - 1) % BELT_PERIOD_PX
    strip = texture[:, columns]
    share = scene.belt_offset_px - whole
    moved = cv2.addWeighted(strip[:, 1:], 1.0 - share, strip[:, :-1], share, 0.0)
    image[BELT_TOP_PX:BELT_BOTTOM_PX] = cv2.convertScaleAbs(moved, alpha=scene.belt_shade)
    for part in scene.parts:
        _put_part(image, part)
    lit = image.astype(np.float32) * _light_field(scene.light)
    return _photograph(lit, scene.optics)
