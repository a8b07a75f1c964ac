"""Checks what a run reads, before minutes are spent on measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.cameras.sources.choose import make_source, probe_source
from agent.config.sections.sources import FileSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import UsageError
from agent.tools.benchmark.measure.accuracy import labelled_images
from engines import ModelPackage, read_image

_CLIP_S = 10.0


def check_images(folder: Path, packages: Sequence[ModelPackage]) -> None:
    """Read every labelled image once.

    Raises:
        ImageRejected: see ``labelled_images``; or one cannot be read.
    """
    for path in dict.fromkeys(path for package in packages for path, _ in labelled_images(package, folder)):
        read_image(path)


def check_clips(clips: Sequence[Path]) -> None:
    """Read the first frame of each.

    Raises:
        UsageError: one cannot be read as a video.
    """
    for clip in clips:
        source = make_source(FileSource(type="file", path=str(clip.resolve())), base_dir=Path(), clock=SystemClock())
        result = probe_source(source, deadline_s=_CLIP_S)
        if not result.ok:
            raise UsageError(f"--clip {clip}: {result.detail}")
