"""Tries every kind and writes the table. Exit code 1 if one did not do what is expected of it."""

from __future__ import annotations

import argparse
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2

from agent.runtime import logs
from agent.runtime.secrets import redact
from scripts.camera_kinds.cameras import camera_kinds
from scripts.camera_kinds.faults import fault_kinds
from scripts.camera_kinds.files import file_kinds
from scripts.camera_kinds.images import image_kinds
from scripts.camera_kinds.kinds import Kind, Result
from scripts.camera_kinds.streams import stream_kinds
from scripts.camera_kinds.trial import tried

_HEAD = """\
# Kinds of cameras and files that were tried

Written by `python -m scripts.camera_kinds`, which makes each file with the program ffmpeg and serves each stream by a
real server: GStreamer's RTSP server, the program ffmpeg, and those of the tests. Each kind has an expectation: frames
whose colours are in their places, or an error with its reason. "Loss" is from the end of the server until the camera
counts as lost, "return" from its new start, 5 s later, until the next frame, with the start of the server itself.

Not tried here, for want of a device or a server: a real USB camera (V4L2), a CSI camera, Aravis with a real camera,
and MediaMTX.

Last tried on {versions}. {total} kinds: {expected} as expected, {differing} not.
"""


def main() -> int:
    """Try them, print each row, write the page."""
    parser = argparse.ArgumentParser(prog="python -m scripts.camera_kinds", description=__doc__)
    parser.add_argument("--only", default="", help="a part of the group or the name")
    parser.add_argument("--output", type=Path, help="the page to write; kinds that are not tried keep their rows")
    options = parser.parse_args()
    logs.configure(level="error")
    results = []
    for kind in _kinds():
        if options.only.lower() in f"{kind.group}: {kind.name}".lower():
            with tempfile.TemporaryDirectory() as folder:
                result = _cleaned(tried(kind, Path(folder)), folder)
            results.append(result)
            print(_row(result), flush=True)
    differing = [result for result in results if result.differs]
    if options.output is not None:
        options.output.write_text(_page(results, options.output), encoding="utf-8")
    print(f"{len(results) - len(differing)} as expected, {len(differing)} not", file=sys.stderr)
    return 1 if differing or not results else 0


def _kinds() -> Iterator[Kind]:
    for group in (file_kinds, image_kinds, camera_kinds, stream_kinds, fault_kinds):
        yield from group()


def _cleaned(result: Result, folder: str) -> Result:
    message = re.sub(
        r":\d{4,5}/#[0-9a-f]{8}",
        ":PORT/#HASH",
        redact(result.message).replace(f"{folder}/", "").replace(folder, "FOLDER"),
    )
    message = re.sub(r"(127\.0\.0\.1|localhost|\[::1\]):\d{4,5}", r"\1:PORT", message)
    return replace(result, message=message)


def _row(result: Result) -> str:
    def seconds(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    outcome = f"**{result.differs}**" if result.differs else "as expected"
    cells = [result.kind.name, result.came, seconds(result.first_s), seconds(result.loss_s), seconds(result.return_s)]
    text = result.message.replace("|", "\\|").replace("\n", " ") or "–"
    return "| " + " | ".join([*cells, text, outcome]) + " |"


def _page(results: list[Result], before: Path) -> str:
    """The page with the rows of ``results``, and those of the page ``before`` for all other kinds."""
    rows = _rows_of(before.read_text(encoding="utf-8")) if before.exists() else {}
    rows |= {(result.kind.group, result.kind.name): _row(result) for result in results}
    known = [(kind.group, kind.name) for kind in _kinds() if (kind.group, kind.name) in rows]
    expected = sum(rows[key].endswith("| as expected |") for key in known)
    versions = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}, "
    versions += f"PyAV {av.__version__}, OpenCV {cv2.__version__}"
    head = _HEAD.format(versions=versions, total=len(known), expected=expected, differing=len(known) - expected)
    lines = [head.rstrip()]
    for group in dict.fromkeys(group for group, _ in known):
        lines += [f"\n## {group}\n", "| kind | what came | first frame, s | loss, s | return, s | message | outcome |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [rows[key] for key in known if key[0] == group]
    return "\n".join(lines) + "\n"


def _rows_of(page: str) -> dict[tuple[str, str], str]:
    """The rows of a page by group and name of the kind."""
    rows, group = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif group and line.startswith("| "):
            rows[group, line.split(" | ", 1)[0].removeprefix("| ")] = line
    return rows


if __name__ == "__main__":
    sys.exit(main())
