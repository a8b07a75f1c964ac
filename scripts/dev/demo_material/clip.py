"""Draws and encodes the demo's clip: 30 s of belt that joins up with its own start."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .part_drawing import Image
from .scene import (
    BELT_PERIOD_PX,
    CLIP_BELT_STYLE,
    HEIGHT_PX,
    PART_KINDS,
    TINTS,
    WIDTH_PX,
    Light,
    Optics,
    Part,
    PartKind,
    Scene,
    Truth,
    truth_of,
)
from .scene_drawing import draw_scene

RATE_HZ = 30
FRAMES = 900
STEP_PX = 6
"""Belt travel per frame. FRAMES * STEP_PX is a whole number of belt periods, so the clip loops unseen."""
TRACK_PX = FRAMES * STEP_PX
_KINDS: tuple[PartKind, ...] = ("ok", "scratch", "ok", "dent", "missing_label", "ok", "dent", "scratch")
_SPACING_PX = (560, 940, 520, 500, 980, 520, 620, 760)
_START_PX = 150.0
_NOISE = 1.1
_QUALITY_CRF = 21


def clip_parts(seed: int) -> tuple[Part, ...]:
    """The eight parts of the clip, placed along the track at the moment of the first frame."""
    if sum(_SPACING_PX) != TRACK_PX or TRACK_PX % BELT_PERIOD_PX != 0:
        raise ValueError(
            f"the clip's spacings add up to {sum(_SPACING_PX)} px and its track is {TRACK_PX} px: "
            f"both must be one whole multiple of {BELT_PERIOD_PX} px, or the loop shows a jump"
        )
    rng = np.random.default_rng(seed)
    parts = []
    place = _START_PX
    for number, (kind, spacing) in enumerate(zip(_KINDS, _SPACING_PX, strict=True)):
        parts.append(
            Part(
                kind=kind,
                centre_x_px=place,
                centre_y_px=HEIGHT_PX / 2 + float(rng.uniform(-26, 26)),
                angle_degrees=float(rng.uniform(-7, 7)),
                tint=TINTS[(0, 1, 2, 0, 3, 4, 1, 2)[number]],
                seed=int(rng.integers(2**31)),
            )
        )
        place += spacing
    return tuple(parts)


def clip_scene(frame: int, parts: tuple[Part, ...], *, seed: int) -> Scene:
    """What the camera sees in one frame: the parts moved on, the lamp swelling and fading slowly."""
    travel = float(frame * STEP_PX)
    phase = 2 * np.pi * frame / FRAMES
    moved = []
    for part in parts:
        x = (part.centre_x_px + travel + TRACK_PX / 2) % TRACK_PX - TRACK_PX / 2
        if -200 < x < WIDTH_PX + 200:
            moved.append(Part(part.kind, x, part.centre_y_px, part.angle_degrees, part.tint, part.seed))
    light = Light(
        gain=float(0.90 + 0.12 * np.sin(phase + 0.6)),
        warmth=float(0.35 * np.sin(2 * phase)),
        spot_x_px=float(WIDTH_PX * (0.45 + 0.15 * np.sin(phase))),
        spot_y_px=HEIGHT_PX * 0.3,
        spot_strength=0.18,
    )
    optics = Optics(blur_px=0.0, motion_px=2, noise=_NOISE, jpeg_quality=100, seed=seed + frame)
    return Scene(tuple(moved), CLIP_BELT_STYLE, travel, 1.05, light, optics)


def clip_frames(seed: int) -> Iterator[tuple[Image, Truth]]:
    """Draw the clip's frames in order, each with its answer."""
    parts = clip_parts(seed)
    for frame in range(FRAMES):
        scene = clip_scene(frame, parts, seed=seed)
        yield draw_scene(scene), truth_of(scene.parts)


def write_clip(clip: Path, truth_file: Path, *, seed: int) -> None:
    """Draw, encode (H.264, through the `ffmpeg` program and its libx264) and write the answers.

    Raises:
        FileNotFoundError: no `ffmpeg` on PATH.
        subprocess.CalledProcessError: ffmpeg refused.
    """
    size = f"{WIDTH_PX}x{HEIGHT_PX}"
    command = ["ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", size]
    command += ["-r", str(RATE_HZ), "-i", "-", "-an", "-c:v", "libx264", "-preset", "veryslow"]
    # One thread and no version strings: the same ffmpeg then writes the same bytes.
    command += ["-crf", str(_QUALITY_CRF), "-pix_fmt", "yuv420p", "-threads", "1", "-g", "150", "-bf", "2"]
    command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
    command += ["-movflags", "+faststart", str(clip)]
    truths = []
    encoder = subprocess.Popen(command, stdin=subprocess.PIPE)
    if encoder.stdin is None:
        raise RuntimeError("ffmpeg was started without an input pipe")
    try:
        for image, truth in clip_frames(seed):
            encoder.stdin.write(image.tobytes())
            truths.append(truth)
    finally:
        encoder.stdin.close()
        code = encoder.wait(timeout=300)
    if code != 0:
        raise subprocess.CalledProcessError(code, command)
    truth_file.write_text(truth_text(truths), encoding="utf-8")


def truth_text(truths: list[Truth]) -> str:
    """The truth file: a head, then one `[label, transition]` pair per frame and line."""
    head = {
        "schema": "clip-truth/1",
        "clip": "conveyor.mp4",
        "rule": "the label of the part whose centre is in the middle 60 % of the width; otherwise empty",
        "transition": "true while a part's centre is within 5 % of the width of an end of that zone: "
        "both its label and empty are right",
        "width": WIDTH_PX,
        "height": HEIGHT_PX,
        "rate_hz": RATE_HZ,
        "kinds": [*PART_KINDS, "empty"],
    }
    lines = [json.dumps({"label": truth.label, "transition": truth.transition}) for truth in truths]
    return json.dumps(head, indent=1)[:-2] + ',\n "frames": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def read_clip(clip: Path) -> list[npt.NDArray[np.uint8]]:
    """Decode every frame of the clip with OpenCV, `(H, W, 3) uint8 BGR` each."""
    capture = cv2.VideoCapture(str(clip))
    images = []
    while True:
        more, image = capture.read()
        if not more:
            break
        images.append(np.asarray(image, np.uint8))
    capture.release()
    return images
