"""The files that a report is written into: the form goes by the extension."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from agent.runtime.errors import UsageError
from agent.tools.benchmark.render.chart import check_can_draw, png_of
from agent.tools.benchmark.render.html import to_html
from agent.tools.benchmark.render.markdown import to_markdown
from agent.tools.benchmark.render.tables import perf_analyzer_csv
from agent.tools.benchmark.report import Report

_FORMS: Mapping[str, Callable[[Report], bytes]] = MappingProxyType(
    {
        ".json": lambda report: report.as_json().encode(),
        ".html": lambda report: to_html(report).encode(),
        ".md": lambda report: to_markdown(report).encode(),
        ".png": png_of,
        ".csv": lambda report: perf_analyzer_csv(report).encode(),
    }
)


def check_output(path: Path) -> None:
    """Whether a report can be written to ``path``, to be asked before minutes are spent on measuring.

    Raises:
        UsageError: no form has this extension, there is no such folder, it is a folder itself, or it is not writable.
        Unavailable: the form needs a library that is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMS:
        raise UsageError(
            f"--output {path}: no form of the report has the extension {suffix or '(none)'}. "
            f"Name the file with one of {', '.join(_FORMS)}"
        )
    if suffix == ".png":
        check_can_draw()
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder} to write {path.name} into. Make it, or name another")
    if path.is_dir():
        raise UsageError(f"{path} is a folder, but the report is written into a file. Give a file's name")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"{path} is not writable. Give another place, or change its permissions")


def write_output(report: Report, path: Path) -> None:
    """Write ``report`` in the form of the extension of ``path``, which ``check_output`` knows.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(_FORMS[path.suffix.lower()](report))
