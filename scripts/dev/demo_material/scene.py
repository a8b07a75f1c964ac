"""What an image of the conveyor contains, the rule that labels it, and random draws of both.

Coordinates are pixels of the 640x480 image, x along the belt's travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Label = Literal["ok", "scratch", "dent", "missing_label", "empty"]
PartKind = Literal["ok", "scratch", "dent", "missing_label"]
Range = tuple[float, float]

LABELS: tuple[Label, ...] = ("ok", "scratch", "dent", "missing_label", "empty")
PART_KINDS: tuple[PartKind, ...] = ("ok", "scratch", "dent", "missing_label")

WIDTH_PX = 640
HEIGHT_PX = 480
BELT_TOP_PX = 56
BELT_BOTTOM_PX = HEIGHT_PX - 56
BELT_PERIOD_PX = 900
"""The belt's texture repeats after this distance."""

ZONE_PX: Range = (0.2 * WIDTH_PX, 0.8 * WIDTH_PX)
"""A part is judged while its centre lies in here; that is while the whole of it is in the image."""
TRANSITION_PX = 0.05 * WIDTH_PX
"""Within this distance of either end of the zone both answers (the part's label, empty) are right."""
MIN_SPACING_PX = 440.0
"""Closest distance of two parts' centres: wider than the zone, so at most one part is judged."""

TINTS: tuple[tuple[float, float, float], ...] = (
    (188.0, 184.0, 180.0),
    (168.0, 160.0, 150.0),
    (176.0, 150.0, 128.0),
    (150.0, 168.0, 178.0),
    (128.0, 126.0, 124.0),
)
"""Finishes of the housing, BGR: silver, steel, blue anodised, champagne, graphite."""

BELT_STYLES = 6
CLIP_BELT_STYLE = 5
"""The clip's own belt texture: training never sees it."""

LIT_FOR_TRAINING: tuple[Range, ...] = ((0.50, 0.80), (0.90, 1.16))
LIT_HELD_OUT: tuple[Range, ...] = ((0.80, 0.90),)
"""Brightness of the lamp (1 = nominal). The clip passes through the held-out range."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part on the belt; `seed` fixes its finish, its print and the shape of its defect."""

    kind: PartKind
    centre_x_px: float
    centre_y_px: float
    angle_degrees: float
    tint: tuple[float, float, float]
    seed: int


@dataclass(frozen=True, slots=True)
class Light:
    """`warmth` runs from -1 (bluish) to 1 (yellowish); the hot spot is the lamp's reflection."""

    gain: float
    warmth: float
    spot_x_px: float
    spot_y_px: float
    spot_strength: float


@dataclass(frozen=True, slots=True)
class Optics:
    """What the camera adds. `noise` is a standard deviation in grey levels, quality 100 = no JPEG."""

    blur_px: float
    motion_px: int
    noise: float
    jpeg_quality: int
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything one image is drawn from."""

    parts: tuple[Part, ...]
    belt_style: int
    belt_offset_px: float
    belt_shade: float
    light: Light
    optics: Optics


@dataclass(frozen=True, slots=True)
class Truth:
    """The answer for one image; `part_weight` (0..1) is the part's share while it enters or leaves."""

    label: Label
    transition: bool
    part_kind: PartKind | None
    part_weight: float


def truth_of(parts: tuple[Part, ...]) -> Truth:
    """Apply the labelling rule: the part whose centre is in the zone counts, otherwise the belt is empty."""
    nearest: Part | None = None
    nearest_depth = -float("inf")
    for part in parts:
        depth = min(part.centre_x_px - ZONE_PX[0], ZONE_PX[1] - part.centre_x_px)
        if depth > nearest_depth:
            nearest, nearest_depth = part, depth
    if nearest is None or nearest_depth <= -TRANSITION_PX:
        return Truth("empty", transition=False, part_kind=None, part_weight=0.0)
    weight = min(1.0, (nearest_depth + TRANSITION_PX) / (2 * TRANSITION_PX))
    label: Label = nearest.kind if nearest_depth >= 0 else "empty"
    return Truth(label, transition=nearest_depth < TRANSITION_PX, part_kind=nearest.kind, part_weight=weight)


def random_part(rng: np.random.Generator, *, kind: PartKind, centre_x_px: float) -> Part:
    """Draw the rest of a part: its place across the belt, its turn, its finish."""
    tint = np.asarray(TINTS[int(rng.integers(len(TINTS)))]) * rng.uniform(0.9, 1.1) + rng.uniform(-8, 8, 3)
    return Part(
        kind=kind,
        centre_x_px=centre_x_px,
        centre_y_px=HEIGHT_PX / 2 + float(rng.uniform(-40, 40)),
        angle_degrees=float(rng.normal(0.0, 6.0)),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        seed=int(rng.integers(2**31)),
    )


def random_light(rng: np.random.Generator, ranges: tuple[Range, ...]) -> Light:
    """Draw a lamp whose brightness lies in one of `ranges` (picked in proportion to its width)."""
    widths = np.asarray([high - low for low, high in ranges])
    low, high = ranges[int(rng.choice(len(ranges), p=widths / widths.sum()))]
    return Light(
        gain=float(rng.uniform(low, high)),
        warmth=float(rng.uniform(-1, 1)),
        spot_x_px=float(rng.uniform(0.1, 0.9) * WIDTH_PX),
        spot_y_px=float(rng.uniform(0.0, 0.7) * HEIGHT_PX),
        spot_strength=float(rng.uniform(0.05, 0.28)),
    )


def random_optics(rng: np.random.Generator) -> Optics:
    """Draw a camera: focus, motion blur, sensor noise, compression."""
    return Optics(
        blur_px=float(rng.uniform(0.0, 1.1)),
        motion_px=int(rng.integers(1, 6)),
        noise=float(rng.uniform(0.5, 6.0)),
        jpeg_quality=int(rng.integers(45, 100)),
        seed=int(rng.integers(2**31)),
    )


def _wanted_position(rng: np.random.Generator, label: Label) -> float:
    """Where the part nearest to the zone lies so that the scene has `label` (empty: beside the zone)."""
    if label == "empty":
        outside = float(rng.uniform(TRANSITION_PX, 260.0)) if rng.random() < 0.7 else float(rng.uniform(0, 32.0))
        return ZONE_PX[0] - outside if rng.random() < 0.5 else ZONE_PX[1] + outside
    return float(rng.uniform(*ZONE_PX))


def random_scene(
    rng: np.random.Generator, label: Label, *, lit: tuple[Range, ...], belt_styles: tuple[int, ...]
) -> Scene:
    """Draw a scene that the rule labels `label`; parts before and behind come with it as on a real belt."""
    parts: list[Part] = []
    if label != "empty" or rng.random() < 0.65:
        kind = PART_KINDS[int(rng.integers(len(PART_KINDS)))] if label == "empty" else label
        x = _wanted_position(rng, label)
        parts.append(random_part(rng, kind=kind, centre_x_px=x))
        for side in (-1.0, 1.0):
            neighbour = x + side * float(rng.uniform(MIN_SPACING_PX, 900.0))
            if ZONE_PX[0] < neighbour < ZONE_PX[1] and label == "empty":
                continue
            other = PART_KINDS[int(rng.integers(len(PART_KINDS)))]
            parts.append(random_part(rng, kind=other, centre_x_px=neighbour))
    return Scene(
        parts=tuple(parts),
        belt_style=belt_styles[int(rng.integers(len(belt_styles)))],
        belt_offset_px=float(rng.uniform(0, BELT_PERIOD_PX)),
        belt_shade=float(rng.uniform(0.75, 1.35)),
        light=random_light(rng, lit),
        optics=random_optics(rng),
    )
