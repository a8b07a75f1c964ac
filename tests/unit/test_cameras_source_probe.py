"""What `agent doctor` learns about a source from one frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.cameras.sources.choose import ProbeResult, for_probe, make_source, probe_source
from agent.cameras.sources.images.folder import WatchedFolder
from agent.config.model import CameraConfig
from agent.config.sections.sources import (
    FileSource,
    FolderSource,
    ImagesSource,
    PatternSource,
    SourceConfig,
    V4l2Source,
)
from agent.runtime.clock import SystemClock
from agent.tools.doctor.checks import camera_finding
from agent.tools.doctor.findings import Finding
from tests.fixtures.videos import write_video


def _probe(directory: Path, config: SourceConfig, *, deadline_s: float = 30.0) -> ProbeResult:
    return probe_source(make_source(config, base_dir=directory, clock=SystemClock()), deadline_s=deadline_s)


def test_a_good_source_reports_size_and_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", frames=3)
    assert _probe(tmp_path, FileSource(type="file", path="clip.avi")) == ProbeResult(
        ok=True, width=64, height=48, fps=25.0, detail="64x48 at 25 fps"
    )


def test_a_source_without_a_rate_reports_only_its_size(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((6, 8, 3), np.uint8))
    assert _probe(tmp_path, ImagesSource(type="images", path="a.png")).detail == "8x6"


@pytest.mark.parametrize(
    ("config", "detail"),
    [
        (FileSource(type="file", path="absent.mp4"), "there is no file"),
        (ImagesSource(type="images", path="broken"), "no image can be read"),
        (V4l2Source(type="v4l2", device="/dev/null"), "is not a video device"),
    ],
    ids=["absent", "unreadable", "no-camera"],
)
def test_a_bad_source_reports_the_remedy_and_raises_nothing(tmp_path: Path, config: SourceConfig, detail: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    result = _probe(tmp_path, config)
    assert not result.ok
    assert detail in result.detail


def test_probe_gives_up_at_its_deadline(tmp_path: Path) -> None:
    slow = PatternSource(type="pattern", width=64, height=48, fps=0.001)
    source = make_source(slow, base_dir=tmp_path, clock=SystemClock())
    source.open()
    assert source.read() is not None
    result = probe_source(source, deadline_s=0.2)
    assert not result.ok
    assert result.detail == "no frame within 0.2 s from pattern 64x48 at 0.001 fps"


@pytest.mark.parametrize("after", [{"after": "delete"}, {"after": "move", "move_to": "done"}], ids=["delete", "move"])
def test_probe_of_a_watched_folder_takes_no_image_out_of_it(tmp_path: Path, after: dict[str, str]) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    image = cv2.imencode(".png", np.zeros((6, 8, 3), np.uint8))[1].tobytes()
    (inbox / "a.png").write_bytes(image)
    source = FolderSource.model_validate({"type": "folder", "path": "inbox", "settle_s": 0.0, **after})
    assert _probe(tmp_path, for_probe(source, 8.0)).detail == "8x6"
    assert (inbox / "a.png").read_bytes() == image
    assert [one.name for one in tmp_path.iterdir()] == ["inbox"]


@pytest.mark.parametrize(
    ("content", "ok", "detail"),
    [(None, True, "no image is there yet"), (b"text", False, "folder inbox holds no image that can be read")],
    ids=["empty", "damaged"],
)
def test_probe_of_a_watched_folder_without_an_image(
    tmp_path: Path, content: bytes | None, *, ok: bool, detail: str
) -> None:
    (tmp_path / "inbox").mkdir()
    if content is not None:
        (tmp_path / "inbox" / "a.png").write_bytes(content)
    config = FolderSource(type="folder", path="inbox", settle_s=0.0, poll_s=0.01)
    source = WatchedFolder(config, base_dir=tmp_path, clock=SystemClock(), state_dir=None, idle_s=0.05)
    result = probe_source(source, deadline_s=30.0)
    assert (result.ok, result.detail) == (ok, detail)


def test_doctor_names_the_folder_that_images_cannot_be_moved_to(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "done").write_bytes(b"")
    (tmp_path / "inbox" / "a.png").write_bytes(cv2.imencode(".png", np.zeros((6, 8, 3), np.uint8))[1].tobytes())

    def found(move_to: str) -> Finding:
        source = {"type": "folder", "path": "inbox", "settle_s": 0.0, "after": "move", "move_to": move_to}
        camera = CameraConfig.model_validate({"source": source, "classify": [{"model": "m"}]})
        return camera_finding("in", camera, tmp_path)

    assert found("new/done").state == "ok"
    bad = found("done/new")
    assert bad.state == "failed"
    assert f"may write to, but {tmp_path / 'done'} is none" in bad.detail
    assert sorted(one.name for one in tmp_path.iterdir()) == ["done", "inbox"]
