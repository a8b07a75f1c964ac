"""Draws the view of ``agent watch`` as an SVG; see scripts/dev/screenshot."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from agent.tools.watch.fleet import FleetView
from agent.tools.watch.terminal import render

_PICTURE = Path(__file__).parents[2] / "docs" / "images" / "watch.svg"
_WIDTH = 112
_LASTS_S = 24
"""Two rounds of `health`, so that nothing in the picture is of the start."""

# Rich's own frame loads its letters from another host, which no code host allows in a picture.
_FRAME = """\
<svg viewBox="-9 -25 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>agent watch in a terminal</title>
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}"
  height="{terminal_height}"/></clipPath>{lines}</defs>
<rect fill="#0c1016" x="-9" y="-25" width="{width}" height="{height}" rx="10"/>
<g clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, draw what it published; 1 where it published nothing."""
    parser = argparse.ArgumentParser(prog="scripts/dev/screenshot", description=__doc__)
    parser.add_argument("--output", type=Path, default=_PICTURE, metavar="FILE")
    output: Path = parser.parse_args(arguments).output
    view = FleetView("edge")
    command = [sys.executable, "-m", "agent", "demo", "--print", "--for", f"{_LASTS_S}s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as demo:
        drawn = picture_of(view, demo.stdout or ())
    if drawn is None:
        print("the demo published no result, so there is nothing to draw; run it: agent demo", file=sys.stderr)
        return 1
    output.write_text(drawn, encoding="utf-8")
    print(f"wrote {output}")
    return 0


def picture_of(view: FleetView, lines: Iterable[bytes]) -> str | None:
    """The view after the last result in the JSON lines of ``agent demo --print``, as SVG; None without a result."""
    drawn = None
    for line in lines:
        entry = json.loads(line)
        topic, message = entry["topic"], entry["message"]
        if message.get("state") == "stopped":
            break  # a picture of a running agent
        view.update(topic, json.dumps(message).encode(), now_s=time.monotonic())
        if topic.endswith("/result"):
            drawn = time.monotonic()
    return None if drawn is None else as_svg(view, now_s=drawn)


def as_svg(view: FleetView, *, now_s: float) -> str:
    """The view on a dark terminal of 112 columns."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(render(view, now_s=now_s, width=_WIDTH))
    return console.export_svg(title="agent watch", code_format=_FRAME, unique_id="watch")


if __name__ == "__main__":
    sys.exit(main())
