"""Image files: kinds, depths, orientation, damage; folders that are watched, and files that are rewritten."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from agent.config.sections.sources import FolderSource, ImageSource, ImagesSource
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
    yield Kind("folder", "images that are renamed into it", _folder())
    yield Kind("folder", "images that are written in place", _folder(is_slow=True))
    yield Kind("folder", "on a drive that goes and comes back", _folder(after="move", move_to="done"))
    yield Kind("folder", "missing", lambda _, __: Stage(FolderSource(type="folder", path="absent")), "missing")
    yield Kind("image", "one file that is rewritten by renaming", _rewritten)
    yield Kind("image", "one file, missing", lambda _, __: Stage(ImageSource(type="image", path="a.jpg")), "missing")


class _Writer:
    """Puts an image into a folder every tenth of a second. Gone, the folder is gone with it."""

    def __init__(self, folder: Path, name: str, *, is_slow: bool = False) -> None:
        self._folder, self._name, self._is_slow = folder, name, is_slow
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._number = 0

    def start(self) -> None:
        """See Server."""
        self._folder.mkdir(exist_ok=True)
        self._write()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._main, name="image-writer")
        self._thread.start()

    def stop(self) -> None:
        """See Server."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None
            shutil.rmtree(self._folder)

    def _main(self) -> None:
        while not self._stopping.wait(0.1):
            self._write()

    def _write(self) -> None:
        image = _scene()
        image.putpixel((160, 120), (self._number % 256, self._number // 256, 0))  # no two are the same
        path, hidden = self._folder / self._name.format(self._number), self._folder / ".new.png"
        self._number += 1
        image.save(hidden)
        data = hidden.read_bytes()
        if not self._is_slow:
            hidden.rename(path)
            return
        with path.open("wb") as stream:
            for part in (data[:100], data[100:]):
                stream.write(part)
                stream.flush()
                self._stopping.wait(0.02)


def _folder(*, is_slow: bool = False, **settings: Any) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        config = FolderSource(type="folder", path="inbox", poll_s=0.05, **settings)
        return Stage(config, _Writer(folder / "inbox", "{:05}.png", is_slow=is_slow))

    return make


def _rewritten(folder: Path, _: ExitStack) -> Stage:
    config = ImageSource(type="image", path="www/latest.png", poll_s=0.05)
    return Stage(config, _Writer(folder / "www", "latest.png"))


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
