"""Agreement against cost: each interpolation against Pillow's pipeline, with a real model on real photos.

    python -m scripts.performance.interpolation_rows MODEL PHOTOS

MODEL is SqueezeNet 1.0 (Caffe preprocessing, softmax in the graph), PHOTOS a folder. Each photo counts as a whole and
as nine overlapping parts of two thirds of its sides. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from engines.graph.resize import Resizer
from engines.package.specs import InputSpec, Interpolation

_SIDE, _TO = 224, 256
_MEAN_BGR = (104.0, 117.0, 123.0)
_PILLOW = {"cubic_antialias": Image.Resampling.BICUBIC}
_FRAMES = 60

Pixels = npt.NDArray[np.uint8]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    session = onnxruntime.InferenceSession(str(given.model), providers=["CPUExecutionProvider"])
    photos = list(_views(given.photos))
    by_pillow = {kind: [_by_pillow(photo, kind) for photo in photos] for kind in set(_PILLOW.values()) | {_bilinear()}}
    answers = {kind: [_answer(session, image) for image in images] for kind, images in by_pillow.items()}
    print(f"| interpolation | against Pillow's | same top-1 of {len(photos)} | mean difference of 255 | us (720p) |")
    print("| --- | --- | --- | --- | --- |")
    for name in get_args(Interpolation):
        kind = _PILLOW.get(name, _bilinear())
        images = [_by_agent(photo, name) for photo in photos]
        same = sum(_answer(session, ours) == theirs for ours, theirs in zip(images, answers[kind], strict=True))
        differences = [
            np.abs(ours.astype(int) - theirs).mean() for ours, theirs in zip(images, by_pillow[kind], strict=True)
        ]
        share = f"{same / len(photos):.1%}"
        print(f"| `{name}` | {kind.name} | {share} | {statistics.mean(differences):.2f} | {_cost_us(name):,.0f} |")


def _bilinear() -> Image.Resampling:
    return Image.Resampling.BILINEAR


def _views(folder: Path) -> Iterator[Pixels]:
    for path in sorted(folder.glob("*.jpg")):
        photo = cv2.imread(str(path))
        if photo is None:
            raise SystemExit(f"{path} cannot be read")
        image = np.asarray(photo, np.uint8)
        yield image
        height, width = image.shape[0] * 2 // 3, image.shape[1] * 2 // 3
        for row in range(3):
            for column in range(3):
                top, left = row * height // 4, column * width // 4
                yield np.ascontiguousarray(image[top : top + height, left : left + width])


def _spec(interpolation: Interpolation) -> InputSpec:
    return InputSpec(width=_SIDE, height=_SIDE, resize="shorter_side", resize_to=_TO, interpolation=interpolation)


def _by_agent(photo: Pixels, interpolation: Interpolation) -> Pixels:
    out = np.empty((_SIDE, _SIDE, 3), np.uint8)
    Resizer(_spec(interpolation)).fill(photo, out)
    return out


def _by_pillow(photo: Pixels, kind: Image.Resampling) -> Pixels:
    """torchvision's Resize(256) and CenterCrop(224) of a PIL image."""
    height, width = photo.shape[:2]
    scaled = (_TO, int(_TO * height / width)) if width < height else (int(_TO * width / height), _TO)
    image = Image.fromarray(photo).resize(scaled, kind)
    left, top = round((scaled[0] - _SIDE) / 2), round((scaled[1] - _SIDE) / 2)
    return np.asarray(image.crop((left, top, left + _SIDE, top + _SIDE)), np.uint8)


def _answer(session: Any, image: Pixels) -> int:
    planes = (image.astype(np.float32) - np.asarray(_MEAN_BGR, np.float32)).transpose(2, 0, 1)[None]
    return int(session.run(None, {session.get_inputs()[0].name: planes})[0].argmax())


def _cost_us(interpolation: Interpolation) -> float:
    """The fastest of many: what the work takes when nothing else runs."""
    frame = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)
    out, resizer = np.empty((_SIDE, _SIDE, 3), np.uint8), Resizer(_spec(interpolation))
    times = []
    for _ in range(_FRAMES):
        began_ns = time.perf_counter_ns()
        resizer.fill(frame, out)
        times.append(time.perf_counter_ns() - began_ns)
    return min(times) / 1000


if __name__ == "__main__":
    main()
