"""Folders of images: order, image formats, and unreadable images."""

from __future__ import annotations

import os
import struct
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
import structlog

from agent.cameras.sources.images.all_images import ImageFolder
from agent.config.sections.sources import ImagesSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable


def _folder(directory: Path, *, path: str = ".", loop: bool = False, bits: int | None = None) -> ImageFolder:
    config = ImagesSource(type="images", path=path, loop=loop, bits=bits)
    return ImageFolder(config, base_dir=directory, clock=SystemClock())


def _grey_level(directory: Path, name: str, level: int) -> Path:
    path = directory / name
    assert cv2.imwrite(str(path), np.full((6, 8, 3), level, np.uint8))
    return path


def _levels(source: ImageFolder, count: int) -> list[int]:
    captures = [source.read() for _ in range(count)]
    return [-1 if capture is None else int(capture.image[0, 0, 0]) for capture in captures]


def test_images_come_in_the_order_of_their_names_and_then_end(tmp_path: Path) -> None:
    for name, level in (("b.png", 2), ("a.png", 1), ("C.PNG", 0), ("d.bmp", 3)):
        _grey_level(tmp_path, name, level)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"not shown")
    (tmp_path / "folder.png").mkdir()
    with closing(_folder(tmp_path)) as source:
        source.open()
        assert _levels(source, 5) == [0, 1, 2, 3, -1]


def test_looping_folder_starts_again_and_sees_new_images(tmp_path: Path) -> None:
    _grey_level(tmp_path, "a.png", 1)
    with closing(_folder(tmp_path, loop=True)) as source:
        source.open()
        assert _levels(source, 2) == [1, 1]
        _grey_level(tmp_path, "b.png", 2)
        assert _levels(source, 3) == [1, 2, 1]


def test_an_image_of_12_bits_is_named_until_the_configuration_says_so(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((6, 8), 200 * 16, np.uint16))
    _grey_level(tmp_path, "night.png", 2)
    for bits, levels, named in ((None, [12, 2], ["deep.png"]), (12, [200, 2], [])):
        with structlog.testing.capture_logs() as lines, closing(_folder(tmp_path, bits=bits)) as source:
            source.open()
            assert _levels(source, 2) == levels
        assert [line["detail"] for line in lines if line["event"] == "image.low_values"] == named


def test_values_above_the_configured_bits_are_skipped_with_both_facts(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((6, 8), 5000, np.uint16))
    with closing(_folder(tmp_path, bits=12)) as source:
        source.open()
        with pytest.raises(SourceLost, match="holds the value 5000, but `bits` says 12, whose highest is 4095"):
            source.read()


def test_only_a_folder_that_is_read_once_has_an_end(tmp_path: Path) -> None:
    assert _folder(tmp_path).has_end
    assert not _folder(tmp_path, loop=True).has_end


def test_one_image_is_a_source(tmp_path: Path) -> None:
    _grey_level(tmp_path, "one.png", 9)
    with closing(_folder(tmp_path, path="one.png")) as source:
        source.open()
        assert _levels(source, 2) == [9, -1]


def test_unreadable_images_are_skipped_and_counted(tmp_path: Path) -> None:
    good = _grey_level(tmp_path, "a.jpg", 100).read_bytes()
    (tmp_path / "b.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "d.png").write_bytes(b"\x00" * 100)
    _grey_level(tmp_path, "e.png", 7)
    with closing(_folder(tmp_path)) as source:
        source.open()
        assert _levels(source, 3) == [100, 7, -1]
        assert source.statistics().delivered == 2
        assert source.statistics().skipped == 3


def test_a_link_without_end_is_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("a.png")
    _grey_level(tmp_path, "b.png", 5)
    with closing(_folder(tmp_path)) as source:
        source.open()
        assert _levels(source, 2) == [5, -1]
        assert source.statistics().skipped_by_reason == {"unreadable_image": 1}


def test_file_names_that_are_not_utf_8_can_be_logged_and_sent(tmp_path: Path) -> None:
    bad = os.fsdecode(b"caf\xe9.png")
    (tmp_path / bad).write_bytes(b"broken")
    with closing(_folder(tmp_path)) as source, structlog.testing.capture_logs() as logs:
        source.open()
        with pytest.raises(SourceLost, match=r"caf\\udce9\.png") as caught:
            source.read()
    orjson.dumps([caught.value.message, logs])
    assert [line["event"] for line in logs] == ["image.skipped"]


@pytest.mark.parametrize("loop", [False, True])
def test_a_folder_without_a_readable_image_is_lost_not_ended(tmp_path: Path, loop: bool) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    (tmp_path / "b.png").write_bytes(b"")
    with closing(_folder(tmp_path, loop=loop)) as source:
        source.open()
        with pytest.raises(SourceLost, match=r"b\.png") as caught:
            source.read()
        assert caught.value.fields["reason"] == "unreadable"


def test_an_image_deleted_while_the_folder_is_read_is_skipped(tmp_path: Path) -> None:
    _grey_level(tmp_path, "a.png", 1)
    second = _grey_level(tmp_path, "b.png", 2)
    _grey_level(tmp_path, "c.png", 3)
    with closing(_folder(tmp_path)) as source:
        source.open()
        assert _levels(source, 1) == [1]
        second.unlink()
        assert _levels(source, 2) == [3, -1]
        assert source.statistics().skipped == 1


def test_looping_folder_that_vanishes_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    only = _grey_level(folder, "a.png", 1)
    with closing(_folder(tmp_path, path="images", loop=True)) as source:
        source.open()
        assert _levels(source, 1) == [1]
        only.unlink()
        folder.rmdir()
        with pytest.raises(SourceLost, match="cannot loop"):
            source.read()


def test_grey_alpha_and_16_bit_images_become_bgr_bytes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a_grey.png"), np.full((4, 6), 50, np.uint8))
    transparent = np.full((4, 6, 4), 60, np.uint8)
    transparent[..., 3] = 0
    cv2.imwrite(str(tmp_path / "b_alpha.png"), transparent)
    cv2.imwrite(str(tmp_path / "c_16bit.png"), np.full((4, 6), 70 * 257, np.uint16))
    with closing(_folder(tmp_path)) as source:
        source.open()
        for expected in (50, 60, 70):
            capture = source.read()
            assert capture is not None
            assert capture.image.shape == (4, 6, 3)
            assert capture.image.dtype == np.uint8
            assert np.all(np.abs(capture.image.astype(int) - expected) <= 1)


def test_exif_orientation_turns_the_image(tmp_path: Path) -> None:
    good, encoded = cv2.imencode(".jpg", np.zeros((10, 20, 3), np.uint8))
    assert good
    # One entry: tag 0x0112 (orientation), type SHORT, value 6: turn a quarter to the right.
    tiff = b"MM\x00\x2a\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\x00\x00" + tiff
    jpeg = encoded.tobytes()
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    with closing(_folder(tmp_path)) as source:
        source.open()
        capture = source.read()
        assert capture is not None
        assert capture.image.shape == (20, 10, 3)


def test_a_folder_without_images_is_refused_with_the_known_suffixes(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SourceUnavailable, match=r"1 entries but no image .*\.jpg") as caught:
        _folder(tmp_path).open()
    assert caught.value.fields["reason"] == "empty"
    assert caught.value.exit_code == 69


def test_an_interruption_ends_a_pass_over_unreadable_images(tmp_path: Path) -> None:
    _grey_level(tmp_path, "a.png", 1)
    with closing(_folder(tmp_path, loop=True)) as source:
        source.open()
        source.interrupt()
        with pytest.raises(SourceLost) as caught:
            source.read()
        assert caught.value.fields["reason"] == "interrupted"
