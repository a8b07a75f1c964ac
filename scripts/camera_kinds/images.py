"""Image files: kinds, depths, orientation, damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from agent.config.sections.sources import ImagesSource
from scripts.camera_kinds.kinds import Kind, Stage

_SIZE = (320, 240)


def image_kinds() -> Iterator[Kind]:
    """All of them."""
    for suffix in ("jpg", "png", "bmp", "webp", "tif", "gif"):
        yield Kind("image", suffix.upper(), _saved(f"a.{suffix}"), frames=1)
    yield Kind("image", "progressive JPEG", _saved("a.jpg", progressive=True), frames=1)
    yield Kind("image", "JPEG, CMYK", _saved("a.jpg", mode="CMYK"), frames=1)
    yield Kind("image", "JPEG, grey", _saved("a.jpg", mode="L"), scene="", frames=1)
    yield Kind("image", "PNG with transparency", _saved("a.png", mode="RGBA"), frames=1)
    yield Kind("image", "PNG with a palette", _saved("a.png", mode="P"), frames=1)
    for orientation, scene in ((3, "right-left"), (6, "top-bottom"), (8, "bottom-top")):
        yield Kind("image", f"JPEG, EXIF orientation {orientation}", _oriented(orientation), scene=scene, frames=1)
    yield Kind("image", "PNG, 16 bits", _deep("a.png", 257), frames=1)
    yield Kind("image", "TIFF, 16 bits", _deep("a.tif", 257), frames=1)
    yield Kind("image", "PNG, 12 bits in 16, `bits: 12`", _deep("a.png", 16, bits=12), frames=1)
    yield Kind("image", "TIFF, 12 bits in 16, `bits: 12`", _deep("a.tif", 16, bits=12), frames=1)
    yield Kind("image", "values above `bits`", _deep("a.png", 257, bits=12), "unreadable")
    yield Kind("image", "JPEG, cut off", _cut("a.jpg"), "unreadable")
    yield Kind("image", "PNG, cut off", _cut("a.png"), "unreadable")


def _scene() -> Pillow.Image:
    array = np.zeros((_SIZE[1], _SIZE[0], 3), np.uint8)
    array[:, : _SIZE[0] // 2, 0], array[:, _SIZE[0] // 2 :, 2] = 255, 255
    return Pillow.fromarray(array)


def _stage(name: str, bits: int | None = None) -> Stage:
    return Stage(ImagesSource(type="images", path=name, bits=bits))


def _saved(name: str, *, mode: str = "RGB", progressive: bool = False) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        _scene().convert(mode).save(folder / name, progressive=progressive)
        return _stage(name)

    return make


def _oriented(orientation: int) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        image = _scene()
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(folder / "a.jpg", exif=exif)
        return _stage("a.jpg")

    return make


def _deep(name: str, factor: int, bits: int | None = None) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        array: npt.NDArray[np.uint16] = np.asarray(_scene(), np.uint16)[:, :, ::-1] * np.uint16(factor)
        cv2.imwrite(str(folder / name), array)
        return _stage(name, bits)

    return make


def _cut(name: str) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        _scene().save(folder / name)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) * 2 // 3])
        return _stage(name)

    return make
