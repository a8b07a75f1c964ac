"""Files and folders without read permission: a clear error, no traceback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.cameras.sources.choose import make_source
from agent.config.sections.sources import FileSource, ImagesSource, SourceConfig
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceUnavailable
from tests.fixtures.videos import write_video

_NOBODY = 65534


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder with a video that only its owner may read and a folder that only its owner may enter.

    Root reads everything, so the test goes on as another user; an ordinary user takes the rights from itself.
    """
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_video(folder / "locked.mp4", frames=3).chmod(0o600 if is_root else 0)
        (folder / "closed" / "inside").mkdir(parents=True)
        write_video(folder / "closed" / "clip.mp4", frames=3)
        (folder / "closed").chmod(0o700 if is_root else 0)
        if is_root:
            os.seteuid(_NOBODY)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            (folder / "closed").chmod(0o700)


@pytest.mark.parametrize(
    "config",
    [
        FileSource(type="file", path="locked.mp4"),
        FileSource(type="file", path="closed/clip.mp4"),
        ImagesSource(type="images", path="closed"),
        ImagesSource(type="images", path="closed/inside"),
    ],
    ids=lambda config: str(config.path),
)
def test_a_source_without_read_permission_is_refused_with_its_path(closed_folder: Path, config: SourceConfig) -> None:
    with closing(make_source(config, base_dir=closed_folder, clock=SystemClock())) as source:
        with pytest.raises(SourceUnavailable) as caught:
            source.open()
        assert "Permission denied" in caught.value.message
        assert str(closed_folder) in caught.value.message
