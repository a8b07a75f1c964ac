"""The images that engines are compared on and int8 is calibrated on, at the model's size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.base import Images, Precision
from engines.graph.resize import Resizer
from engines.package.images import image_hashes, read_image
from engines.package.load import ModelPackage

DRAWN = "synthetic"
"""Source of images that this program has drawn, for a package that has none."""

MAX_CALIBRATION_IMAGES = 256
"""More change a MinMax calibration little, and each one costs a run that outputs every tensor."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_SYNTHETIC = 32
# Grey levels. A lens cap or an even wall stays below it; noise of a dim scene does not.
_FLAT_DEVIATION = 4.0


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images at the model's size, ``(K, H, W, 3)`` uint8 BGR, with a name and the sha256 of the file for each."""

    source: str
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    batch: Images

    def telling_rows(self) -> npt.NDArray[np.intp]:
        """Return the rows that can tell something: a flat image cannot, nor a second one with the same pixels."""
        seen: set[bytes] = set()
        rows = []
        for row, image in enumerate(self.batch):
            digest = _pixel_digest(image)
            if digest not in seen and image.std(axis=(0, 1)).max() >= _FLAT_DEVIATION:
                rows.append(row)
            seen.add(digest)
        return np.asarray(rows, np.intp)

    def at(self, rows: npt.NDArray[np.intp]) -> ImageSet:
        """Return the images of ``rows``."""
        names, hashes = (tuple(values[row] for row in rows) for values in (self.names, self.hashes))
        return ImageSet(self.source, names, hashes, self.batch[rows])

    def without(self, other: ImageSet) -> ImageSet:
        """Return the images whose pixels are in no image of ``other``."""
        known = {_pixel_digest(image) for image in other.batch}
        rows = [row for row, image in enumerate(self.batch) if _pixel_digest(image) not in known]
        return self.at(np.asarray(rows, np.intp))


@dataclass(frozen=True, slots=True)
class Division:
    """The images of a package that int8 is calibrated on, and those that it is judged on."""

    calibrated: tuple[Path, ...]
    held_out: tuple[Path, ...]


def divided(package: ModelPackage) -> Division:
    """Divide the images of ``package``; no image that int8 is calibrated on judges it.

    With an evaluation folder all calibration images calibrate, at most ``MAX_CALIBRATION_IMAGES``. Without one every
    second, in the order of their hashes, is held out. Golden images are never calibrated on.

    Raises:
        ImageRejected: an image cannot be read.
    """
    golden = [one.path for one in package.golden]
    hashes = dict(zip(package.images, image_hashes(package.images), strict=True))
    reserved = {hashes[path] for path in (*golden, *package.evaluation)}
    # By content: a copy under another name is the same image.
    own = {hashes[path]: path for path in reversed(package.calibration) if hashes[path] not in reserved}
    ordered = [own[digest] for digest in sorted(own)]
    calibrated = (ordered if package.evaluation else ordered[::2])[:MAX_CALIBRATION_IMAGES]
    chosen = set(calibrated)
    rest = () if package.evaluation else (path for path in ordered if path not in chosen)
    return Division(tuple(calibrated), tuple(dict.fromkeys((*golden, *package.evaluation, *rest))))


def image_set_of(package: ModelPackage, folder: Path | None = None, *, precision: Precision = "fp32") -> ImageSet:
    """Read the images of ``folder``, else the package's own, else draw some.

    For int8 without those that it is calibrated on.

    Raises:
        ImageRejected: an image cannot be read.
        FileNotFoundError: ``folder`` holds no image, or for int8 only calibration images.
    """
    if folder is not None:
        return _folder_images(package, folder, precision)
    paths = divided(package).held_out if precision == "int8" else package.images
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
    return ImageSet(source, tuple(path.name for path in paths), tuple(image_hashes(paths)), batch)


def _folder_images(package: ModelPackage, folder: Path, precision: Precision) -> ImageSet:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(_SUFFIXES)}). Name a folder that does")
    images = image_set_from(package, paths, source="folder")
    if precision != "int8":
        return images
    others = images.without(image_set_from(package, divided(package).calibrated))
    if not others.names:
        raise FileNotFoundError(
            f"{folder} holds {len(paths)} images, but int8 is calibrated on all of them. Name a folder with others"
        )
    return others


def _pixel_digest(image: Images) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


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
    names = tuple(f"drawn {index}" for index in range(_SYNTHETIC))
    return ImageSet(DRAWN, names, tuple(_pixel_digest(image).hex() for image in batch), batch)
