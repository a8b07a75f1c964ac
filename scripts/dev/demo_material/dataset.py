"""Draws labelled sets of images, in child processes, the same for any number of them."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from .part_drawing import Image
from .scene import LABELS, Range, Scene, random_scene, truth_of
from .scene_drawing import draw_scene

INPUT_WIDTH_PX = 160
INPUT_HEIGHT_PX = 120
TRAINING_BELTS = (0, 1, 2, 3, 4)
_CAMERA_SIZES_PX = ((640, 480), (320, 240), (1280, 960))
_CAMERA_SHARES = (0.65, 0.25, 0.10)


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images at the model's size `(N, H, W, 3) uint8 BGR` with soft answers `(N, classes) float32`."""

    images: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.float32]
    in_transition: npt.NDArray[np.bool_]


def model_sized(image: Image) -> Image:
    """Stretch an image to the model's input as the agent does (`resize: stretch`, linear)."""
    return np.asarray(cv2.resize(image, (INPUT_WIDTH_PX, INPUT_HEIGHT_PX), interpolation=cv2.INTER_LINEAR), np.uint8)


def target_of(scene: Scene) -> npt.NDArray[np.float32]:
    """The answer wanted of the model: one class, or a mixture while the part enters or leaves the zone."""
    truth = truth_of(scene.parts)
    target = np.zeros(len(LABELS), np.float32)
    target[LABELS.index("empty")] = 1.0 - truth.part_weight
    if truth.part_kind is not None:
        target[LABELS.index(truth.part_kind)] = truth.part_weight
    return target


def scene_of(index: int, *, seed: int, lit: tuple[Range, ...], belt_styles: tuple[int, ...]) -> Scene:
    """The scene number `index` of a set; labels alternate."""
    rng = np.random.default_rng((seed, index))
    return random_scene(rng, LABELS[index % len(LABELS)], lit=lit, belt_styles=belt_styles)


def _example(
    index: int, *, seed: int, lit: tuple[Range, ...], belt_styles: tuple[int, ...]
) -> tuple[Image, npt.NDArray[np.float32], bool]:
    scene = scene_of(index, seed=seed, lit=lit, belt_styles=belt_styles)
    image = draw_scene(scene)
    rng = np.random.default_rng((seed, index, 1))
    size = _CAMERA_SIZES_PX[int(rng.choice(len(_CAMERA_SIZES_PX), p=_CAMERA_SHARES))]
    if size != (image.shape[1], image.shape[0]):
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return model_sized(image), target_of(scene), truth_of(scene.parts).transition


def draw_set(
    count: int, *, seed: int, lit: tuple[Range, ...], belt_styles: tuple[int, ...], processes: int
) -> ImageSet:
    """Draw `count` labelled images; example `i` depends on `(seed, i)` alone."""
    draw = partial(_example, seed=seed, lit=lit, belt_styles=belt_styles)
    with multiprocessing.get_context("spawn").Pool(processes, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        examples = pool.map(draw, range(count), chunksize=50)
    return ImageSet(
        images=np.stack([image for image, _, _ in examples]),
        targets=np.stack([target for _, target, _ in examples]),
        in_transition=np.asarray([transition for _, _, transition in examples], np.bool_),
    )
