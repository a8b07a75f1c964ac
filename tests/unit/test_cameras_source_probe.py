"""What `agent doctor` learns about a source from one frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cameras.sources.choose import ProbeResult, make_source, probe_source
from agent.config.sections.sources import FileSource, ImagesSource, PatternSource, SourceConfig, V4l2Source
from agent.runtime.clock import SystemClock
from tests.fixtures.videos import write_video


def _probe(directory: Path, config: SourceConfig, *, deadline_s: float = 30.0) -> ProbeResult:
    return probe_source(make_source(config, base_dir=directory, clock=SystemClock()), deadline_s=deadline_s)


def test_a_good_source_reports_size_and_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", frames=3)
    assert _probe(tmp_path, FileSource(type="file", path="clip.avi")) == ProbeResult(
        ok=True, width=64, height=48, fps=25.0, detail="64x48 at 25 fps"
    )


def test_a_source_without_a_rate_reports_only_its_size(tmp_path: Path) -> None:
    import cv2
    import numpy as np

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
