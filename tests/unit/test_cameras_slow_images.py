"""An image that keeps its decoder too long is named while it does, and not read again after a restart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import structlog

from agent.cameras.sources.images.all_images import ImageFolder
from agent.cameras.sources.images.slow_images import FOLDER, SlowImages
from agent.config.sections.sources import ImagesSource
from agent.runtime.clock import SystemClock
from tests.fixtures.deadlines import wait_until
from tests.unit.test_engines_images import progressive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One image that takes a second or so, and one that takes no time."""
    made = tmp_path / "images"
    made.mkdir()
    (made / "a-slow.jpg").write_bytes(progressive(7000, 7000, 20))
    cv2.imwrite(str(made / "b-quick.png"), np.zeros((8, 8, 3), np.uint8))
    return made


def _all_of(folder: Path, state: Path | None, *, noticed_after_s: float) -> tuple[list[tuple[int, ...]], int]:
    """The shapes of all images, and how many were skipped."""
    slow = SlowImages(folder, state, noticed_after_s=noticed_after_s)
    config = ImagesSource(type="images", path=str(folder))
    source = ImageFolder(config, base_dir=folder, clock=SystemClock(), slow=slow)
    shapes = []
    source.open()
    while (capture := source.read()) is not None:
        shapes.append(capture.image.shape)
    source.close()
    return shapes, source.statistics().skipped


def test_a_slow_image_is_named_at_once_and_left_out_after_a_restart(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with structlog.testing.capture_logs() as logs:
        first, skipped = _all_of(folder, state, noticed_after_s=0.05)
        # A decoder that never comes back would be ended with its process here; the record is written already.
        assert (len(first), skipped) == (2, 0)
        again, skipped = _all_of(folder, state, noticed_after_s=60.0)
    assert (again, skipped) == ([(8, 8, 3)], 1)
    (named,) = [line for line in logs if line["event"] == "image.slow"]
    (left_out,) = [line for line in logs if line["event"] == "image.skipped"]
    assert named["path"] == left_out["path"] == str(folder / "a-slow.jpg")
    assert "is not read again" in left_out["reason"]


def test_the_record_is_written_while_the_decoder_still_works(tmp_path: Path) -> None:
    state, image = tmp_path / "state", tmp_path / "image.png"
    state.mkdir()
    image.write_bytes(b"1234")
    slow = SlowImages(tmp_path, state, noticed_after_s=0.02)
    slow.start()
    with slow.reading(image):
        wait_until(lambda: any((state / FOLDER).glob("*.json")))
        assert SlowImages(tmp_path, state).is_known(image)  # another process, which has just started
    slow.stop()
    assert not SlowImages(tmp_path / "elsewhere", state).is_known(image)
    image.write_bytes(b"12345")
    assert not SlowImages(tmp_path, state).is_known(image)
    assert not SlowImages(tmp_path, None).is_known(image)


def test_an_image_that_is_quick_is_not_remembered_and_a_damaged_record_is_none(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / FOLDER).mkdir(parents=True)
    (folder / "a-slow.jpg").unlink()
    assert _all_of(folder, state, noticed_after_s=5.0) == ([(8, 8, 3)], 0)
    assert not any((state / FOLDER).iterdir())
    slow = SlowImages(folder, state, noticed_after_s=0.0)
    slow._remember(folder / "b-quick.png")
    (record,) = (state / FOLDER).iterdir()
    record.write_text('{"form": 1, "facts": {}, "value": [[1]]}')
    assert not SlowImages(folder, state).is_known(folder / "b-quick.png")
