"""What a run reads and writes, tried before minutes are spent on measuring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agent.benchmark.accuracy import labelled_pictures
from agent.cameras.sources.base import make_source, probe_source
from agent.config.sources import FileSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import UsageError
from engines.images import read_image
from engines.package import ModelPackage

_CLIP_S = 10.0


def check_pictures(folder: Path, packages: Sequence[ModelPackage]) -> None:
    """Read every labelled picture once.

    Raises:
        ImageRejected: see ``labelled_pictures``; or one cannot be read.
    """
    for path in dict.fromkeys(path for package in packages for path, _ in labelled_pictures(package, folder)):
        read_image(path)


def check_clips(clips: Sequence[Path]) -> None:
    """Read the first picture of each.

    Raises:
        UsageError: one cannot be read as a video.
    """
    for clip in clips:
        source = make_source(FileSource(type="file", path=str(clip.resolve())), base_dir=Path(), clock=SystemClock())
        result = probe_source(source, deadline_s=_CLIP_S)
        if not result.ok:
            raise UsageError(f"--clip {clip}: {result.detail}")


def check_target(path: Path) -> None:
    """Whether ``path`` can be written.

    Raises:
        UsageError: there is no such folder, it is a folder itself, or is not writable.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder} to write {path.name} into")
    if path.is_dir():
        raise UsageError(f"{path} is a folder, the report is written into a file. Give a file's name")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"{path} is not writable. Give another place, or change its permissions")
