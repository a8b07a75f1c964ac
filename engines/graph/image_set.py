"""The images that engines are compared on and int8 is calibrated on, at the model's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.base import Images
from engines.graph.resize import Resizer
from engines.package.images import read_image
from engines.package.load import ModelPackage

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_SYNTHETIC = 32


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images at the model's size, ``(K, H, W, 3)`` uint8 BGR, with a name for each."""

    source: str
    names: tuple[str, ...]
    batch: Images


def image_set_of(package: ModelPackage, folder: Path | None = None) -> ImageSet:
    """Read the images of ``folder``, else the package's golden and calibration images, else draw some.

    Raises:
        ImageRejected: an image cannot be read.
        FileNotFoundError: ``folder`` holds no image.
    """
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not paths:
            raise FileNotFoundError(f"{folder} holds no image ({', '.join(_SUFFIXES)}). Name a folder that does")
        return image_set_from(package, paths, source="folder")
    paths = list(dict.fromkeys(package.images(first="golden")))
    return image_set_from(package, paths) if paths else _drawn(package)


def image_set_from(package: ModelPackage, paths: Sequence[Path], *, source: str = "package") -> ImageSet:
    """Read images and resize them to the model's size.

    Raises:
        ImageRejected: an image cannot be read.
    """
    size = package.input
    batch = np.empty((len(paths), size.height, size.width, 3), np.uint8)
    resizer = Resizer(size)
    for row, path in enumerate(paths):
        resizer.fill(read_image(path), batch[row])
    return ImageSet(source, tuple(path.name for path in paths), batch)


def _drawn(package: ModelPackage) -> ImageSet:
    """Draw images that differ in colour, shading and texture; the same in every call."""
    size = package.input
    random = np.random.default_rng(7)
    rows, columns = np.mgrid[0 : size.height, 0 : size.width]
    batch = np.empty((_SYNTHETIC, size.height, size.width, 3), np.uint8)
    for index in range(_SYNTHETIC):
        colour, slope = random.uniform(40, 215, 3), random.uniform(-60, 60, (2, 3))
        wave = random.uniform(0, 50) * np.sin((rows + columns * random.uniform(0.2, 2)) / random.uniform(2, 20))
        shade = (rows / size.height)[..., None] * slope[0] + (columns / size.width)[..., None] * slope[1]
        batch[index] = np.clip(colour + shade + wave[..., None], 0, 255)
    return ImageSet("synthetic", tuple(f"drawn {index}" for index in range(_SYNTHETIC)), batch)
