"""Draws one part (a metal housing with a printed label) and its defect, seen from above."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .scene import Part, PartKind

Image = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]

SCALE = 2
"""A part is drawn at twice its size in the image, then turned and shrunk."""
PART_WIDTH_PX = 224
PART_HEIGHT_PX = 164
MARGIN_PX = 8
_W = SCALE * (PART_WIDTH_PX + 2 * MARGIN_PX)
_H = SCALE * (PART_HEIGHT_PX + 2 * MARGIN_PX)
_EDGE = SCALE * MARGIN_PX
_LABEL = (56, 72, 268, 272)
"""The sticker's place on the drawn part: left, top, right, bottom."""
_FREE_METAL = ((326, 84, 412, 262), (90, 294, 412, 304), (110, 50, 380, 60))
"""Places (left, top, right, bottom) a dent's centre may take beside the sticker."""


def _rounded(mask: Image, box: tuple[int, int, int, int], radius: int, value: int) -> None:
    left, top, right, bottom = box
    cv2.rectangle(mask, (left + radius, top), (right - radius, bottom), value, -1)
    cv2.rectangle(mask, (left, top + radius), (right, bottom - radius), value, -1)
    for x in (left + radius, right - radius):
        for y in (top + radius, bottom - radius):
            cv2.circle(mask, (x, y), radius, value, -1, cv2.LINE_AA)


@lru_cache(maxsize=1)
def _outline() -> tuple[Image, Plane]:
    """The housing's mask, and the shading of its bevelled edge (grey levels to add)."""
    mask = np.zeros((_H, _W), np.uint8)
    _rounded(mask, (_EDGE, _EDGE, _W - _EDGE - 1, _H - _EDGE - 1), 30, 255)
    wall = np.minimum(cv2.distanceTransform(mask, cv2.DIST_L2, 5), 14.0).astype(np.float32)
    height = cv2.GaussianBlur(wall, (0, 0), 2.0)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    return mask, np.asarray(24.0 * slope_x + 46.0 * slope_y, np.float32)


def _brushed_metal(rng: np.random.Generator, tint: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    coarse = rng.standard_normal((_H, _W // 4), np.float32)
    grain = cv2.resize(cv2.blur(coarse, (41, 1)), (_W, _H), interpolation=cv2.INTER_LINEAR)
    across = np.linspace(-1.0, 1.0, _W, dtype=np.float32)
    sheen = 14.0 * np.exp(-(((across - rng.uniform(-0.6, 0.8)) / 0.35) ** 2)).astype(np.float32)
    shade = grain * 22.0 + sheen[None, :] + np.linspace(8.0, -10.0, _H, dtype=np.float32)[:, None]
    return np.asarray(np.asarray(tint, np.float32) + shade[:, :, None], np.float32)


def _dark(colour: tuple[float, float, float], ratio: float) -> tuple[float, float, float]:
    return (colour[0] * ratio, colour[1] * ratio, colour[2] * ratio)


def _print_text(metal: Any, text: str, *, at: tuple[int, int], size: float, colour: Sequence[float]) -> None:
    """Print `text` with its baseline starting at `at`; OpenCV writes on 8-bit images only, hence the mask."""
    mask = np.zeros((_H, _W), np.uint8)
    weight = 2 if size >= 0.62 else 1
    cv2.putText(mask, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, 255, weight, cv2.LINE_AA)
    x, y, width, height = cv2.boundingRect(mask)
    place = metal[y : y + height, x : x + width]
    cover = mask[y : y + height, x : x + width, None].astype(np.float32) / 255.0
    place += (np.asarray(colour, np.float32) - place) * cover


def _screws(metal: Any, rng: np.random.Generator, tint: tuple[float, float, float]) -> None:
    for x in (_EDGE + 32, _W - _EDGE - 33):
        for y in (_EDGE + 30, _H - _EDGE - 31):
            cv2.circle(metal, (x, y + 2), 15, _dark(tint, 0.45), -1, cv2.LINE_AA)
            cv2.circle(metal, (x, y), 13, _dark(tint, 0.8), -1, cv2.LINE_AA)
            cv2.circle(metal, (x - 2, y - 2), 10, _dark(tint, 0.97), -1, cv2.LINE_AA)
            turn = rng.uniform(0, np.pi)
            for angle in (turn, turn + np.pi / 2):
                dx, dy = 8 * np.cos(angle), 8 * np.sin(angle)
                ends = ((int(x - dx), int(y - dy)), (int(x + dx), int(y + dy)))
                cv2.line(metal, ends[0], ends[1], _dark(tint, 0.35), 4, cv2.LINE_AA)


def _engraving(metal: Any, rng: np.random.Generator, tint: tuple[float, float, float]) -> None:
    """A groove around the face and a serial number: what a sound part has on its bare metal."""
    dark, bright = _dark(tint, 0.72), _dark(tint, 1.15)
    serial = f"{int(rng.integers(10, 99))}-{int(rng.integers(1000, 9999))}"
    for shift, colour in ((1, bright), (0, dark)):
        _print_text(metal, serial, at=(300, 292 + shift), size=0.62, colour=colour)
        cv2.line(metal, (284 + shift, 78), (284 + shift, 268), colour, 2, cv2.LINE_AA)
    cv2.circle(metal, (404, 100), 11, _dark(tint, 0.5), -1, cv2.LINE_AA)
    cv2.circle(metal, (404, 99), 8, (96.0, 176.0, 84.0), -1, cv2.LINE_AA)


_INKS = ((150.0, 84.0, 28.0), (48.0, 52.0, 184.0), (92.0, 120.0, 24.0), (40.0, 40.0, 44.0), (30.0, 122.0, 214.0))


def _sticker(metal: Any, rng: np.random.Generator) -> None:
    left, top, right, bottom = _LABEL
    paper = float(rng.uniform(226, 242))
    ink = _INKS[int(rng.integers(len(_INKS)))]
    mask = np.zeros((_H, _W), np.uint8)
    _rounded(mask, _LABEL, 10, 255)
    around = (slice(top - 8, bottom + 8), slice(left - 8, right + 8))
    metal[around] *= 1.0 - cv2.GaussianBlur(mask[around], (9, 9), 3)[:, :, None].astype(np.float32) * (0.2 / 255.0)
    metal[around][mask[around] > 127] = (paper - 6, paper, paper)
    cv2.rectangle(metal, (left + 3, top + 8), (right - 3, top + 54), ink, -1)
    _print_text(metal, "EDGE-7", at=(left + 14, top + 44), size=1.2, colour=(250.0, 250.0, 250.0))
    grey = (52.0, 48.0, 46.0)
    serial = f"SN {int(rng.integers(100000, 999999))}"
    _print_text(metal, serial, at=(left + 14, top + 84), size=0.72, colour=grey)
    _print_text(metal, "24V 2.5A IP65", at=(left + 14, top + 110), size=0.6, colour=grey)
    x = left + 16
    while x < right - 20:
        bar = int(rng.integers(2, 7))
        cv2.rectangle(metal, (x, top + 126), (x + bar, bottom - 16), grey, -1)
        x += bar + int(rng.integers(3, 8))


def _missing_sticker(metal: Any, rng: np.random.Generator) -> None:
    """Where the sticker belongs: a shallow frame and, on some parts, a faint trace of glue."""
    left, top, right, bottom = _LABEL
    frame = np.zeros((_H, _W), np.uint8)
    _rounded(frame, _LABEL, 10, 255)
    inner = cv2.erode(frame, np.ones((5, 5), np.uint8))
    metal[(frame > 127) & (inner <= 127)] *= 0.86
    if rng.random() < 0.5:
        glue = cv2.resize(rng.normal(0, 1, (8, 10)).astype(np.float32), (right - left, bottom - top))
        metal[top:bottom, left:right] -= np.clip(glue, 0, 2)[:, :, None] * 7.0


def _scratch(metal: Any, rng: np.random.Generator) -> None:
    """A long groove with finer strokes beside it: one wall dark, the other bare bright metal."""
    length = rng.uniform(170, 290)
    angle = rng.uniform(-0.9, 0.9) + (np.pi if rng.random() < 0.5 else 0.0)
    centre = np.asarray([rng.uniform(220, 380), rng.uniform(110, 250)])
    along = np.asarray([np.cos(angle), np.sin(angle)])
    across = np.asarray([-along[1], along[0]])
    steps = np.linspace(-0.5, 0.5, 9)
    bend = rng.uniform(-50, 50)
    path = centre + steps[:, None] * length * along + ((steps**2) * bend + rng.normal(0, 0.9, 9))[:, None] * across
    grooves = np.zeros((2, _H, _W), np.uint8)
    for stroke in range(int(rng.integers(2, 5))):
        first, last = (0, 9) if stroke == 0 else sorted(int(v) for v in rng.choice(10, 2, replace=False))
        points = path + across * stroke * rng.uniform(4, 9) * (-1) ** stroke
        points = np.clip(points, (_EDGE + 8, _EDGE + 8), (_W - _EDGE - 9, _H - _EDGE - 9))
        line = np.round(points).astype(np.int32).reshape(-1, 1, 2)
        width = int(rng.integers(5, 7)) if stroke == 0 else int(rng.integers(2, 4))
        for place in range(max(first, 0), min(last, 9) - 1):
            # Deeper in the middle of the stroke, as a slipped tool leaves it.
            depth = max(2, width - abs(place - 4) // 2) if stroke == 0 else width
            for plane, shift in ((0, -depth // 2 - 1), (1, depth // 2)):
                ends = line[place : place + 2] + np.asarray((0, shift), np.int32)
                cv2.polylines(grooves[plane], [ends], isClosed=False, color=255, thickness=depth, lineType=cv2.LINE_AA)
    # The lamp is above: the wall nearer to it lies in shade, the other one shines.
    for plane, colour, strength in ((0, 38.0, 0.85), (1, 252.0, 0.95)):
        metal += (colour - metal) * (grooves[plane][:, :, None].astype(np.float32) * (strength / 255.0))


def _dent(metal: Any, rng: np.random.Generator) -> None:
    """A hollow in the sheet: its near wall falls into shade, its far wall catches the lamp."""
    left, top, right, bottom = _FREE_METAL[int(rng.choice(3, p=(0.8, 0.12, 0.08)))]
    x, y = rng.uniform(left, right), rng.uniform(top, bottom)
    radius = rng.uniform(28, 46)
    stretch, turn = rng.uniform(0.75, 1.3), rng.uniform(0, np.pi)
    reach = int(radius * 2)
    column, row = max(0, int(x) - reach), max(0, int(y) - reach)
    hollow = metal[row : int(y) + reach, column : int(x) + reach]
    grid_y, grid_x = np.mgrid[row : row + hollow.shape[0], column : column + hollow.shape[1]].astype(np.float32)
    u = (grid_x - x) * np.cos(turn) + (grid_y - y) * np.sin(turn)
    v = (-(grid_x - x) * np.sin(turn) + (grid_y - y) * np.cos(turn)) * stretch
    depth = np.exp(-(((u * u + v * v) / (radius * radius)) ** 1.6)).astype(np.float32)
    slope_x = cv2.Sobel(depth, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(depth, cv2.CV_32F, 0, 1, scale=0.125)
    light = -(0.45 * slope_x + 0.9 * slope_y) * radius * float(rng.uniform(70, 110))
    hollow += (light - depth * float(rng.uniform(20, 38)))[:, :, None]


@lru_cache(maxsize=64)
def part_sprite(kind: PartKind, tint: tuple[float, float, float], seed: int) -> tuple[Image, Image]:
    """Return the part lying straight at `SCALE`: colour `(H, W, 3) uint8 BGR` and coverage `(H, W) uint8`.

    The arrays are shared between calls: read them only.
    """
    rng = np.random.default_rng(seed)
    mask, bevel = _outline()
    metal = _brushed_metal(rng, tint)
    _screws(metal, rng, tint)
    _engraving(metal, rng, tint)
    if kind == "missing_label":
        _missing_sticker(metal, rng)
    else:
        _sticker(metal, rng)
    if kind == "dent":
        _dent(metal, rng)
    if kind == "scratch":
        _scratch(metal, rng)
    metal += bevel[:, :, None]
    colour = np.clip(metal, 0, 255).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(colour, (3, 3), 0.8), np.uint8), mask


def placement(part: Part) -> npt.NDArray[np.float64]:
    """The 2x3 matrix that carries the sprite's pixels into the image."""
    matrix = cv2.getRotationMatrix2D((_W / 2, _H / 2), part.angle_degrees, 1.0 / SCALE)
    matrix[0, 2] += part.centre_x_px - _W / 2
    matrix[1, 2] += part.centre_y_px - _H / 2
    return np.asarray(matrix, np.float64)
