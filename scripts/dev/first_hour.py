"""Walks the tutorial: makes one script of its blocks and runs it; see scripts/dev/first-hour."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from scripts.dev.markdown_blocks import SHELLS, Block, blocks_of

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "tutorial.md"
_LIMIT_S = 1800.0
_PORTS = ("1883", "8554")
"""Those of the tutorial's broker and camera. A machine may have them in use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 where every block ended with 0, or with 1 where its mark allows that."""
    parser = argparse.ArgumentParser(prog="scripts/dev/first-hour", description=__doc__)
    parser.add_argument("--as-root", action="store_true", help="also the blocks that need root and no systemd")
    parser.add_argument(
        "--on-this-machine",
        action="store_true",
        help="also the blocks for a device, which install the service here; --service of the script has a view for it",
    )
    parser.add_argument("--page", type=Path, default=_PAGE, help="the page to walk (default: docs/tutorial.md)")
    options = parser.parse_args(arguments)
    blocks = [block for block in blocks_of(options.page.read_text(encoding="utf-8")) if _is_walked(block, options)]
    if not blocks:
        parser.error(f"{options.page} has no block to run: write <!-- run --> above those that a laptop can run")
    with ExitStack() as resources:
        home = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="first-hour-")))
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        script = with_ports(script_of(blocks, needs_broker=not options.as_root), ports)
        return _run(script, home)


def _is_walked(block: Block, options: argparse.Namespace) -> bool:
    if block.file is not None:
        return True
    kinds = {"run", *(["elsewhere"] if options.as_root else []), *(["board"] if options.on_this_machine else [])}
    return block.language in SHELLS and block.what in kinds


def script_of(blocks: Iterable[Block], *, needs_broker: bool = True) -> str:
    """One script for bash. What a reader types into one terminal runs in one shell.

    The broker is the one that the package of the distribution would have started.
    """
    lines = ["set -euo pipefail", 'sudo() { "$@"; }' if os.geteuid() == 0 else ""]
    if needs_broker:
        lines.append("mosquitto -p 1883 > /dev/null 2>&1 &")
    for block in blocks:
        lines.append(f"echo '== line {block.line}' >&2")
        if block.file is not None:
            lines.append(f"printf %s {shlex.quote(block.body)} > {shlex.quote(block.file)}")
        elif block.may_fail:
            lines.append(f"code=0\n{{\n{block.script}}} || code=$?\n[ $code -le 1 ]")
        else:
            lines.append(block.script)
        if not needs_broker and "mosquitto-clients" in block.script:
            lines.append("mosquitto -p 1883 > /dev/null 2>&1 &")  # no systemd starts it here
    return "\n".join([*lines, "echo '== the end' >&2", ""])


def with_ports(script: str, ports: dict[str, int]) -> str:
    """The script with other ports; a camera without an address listens at the new one."""
    script = re.sub(r"\b(1883|8554)\b", lambda match: str(ports[match[1]]), script)
    script = re.sub(r"agent demo --rtsp(?! --listen)", f"agent demo --rtsp --listen 127.0.0.1:{ports['8554']}", script)
    return re.sub(r"\b(mosquitto_(?:sub|pub|rr))(?! -p)", rf"\1 -p {ports['1883']}", script)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as listeners:
        found = [listeners.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in found]


def _run(script: str, home: Path) -> int:
    """Run it in a process group of its own, of which nothing is left at the end; print each block's time."""
    environment = {**os.environ, "HOME": str(home)}
    cache = Path.home() / ".cache" / "pip"
    environment.setdefault("PIP_CACHE_DIR", str(cache))
    began_s = time.monotonic()
    command = ["bash", "-c", script]
    with subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        limit = threading.Timer(_LIMIT_S, _end, args=(process.pid,))
        limit.start()
        is_whole = _follow(process, began_s)
        limit.cancel()
        _end(process.pid)
    took_s = time.monotonic() - began_s
    print(f"the first hour: {'walked' if is_whole else 'FAILED'} in {took_s:.0f} s", flush=True)
    return 0 if is_whole else 1


def _follow(process: subprocess.Popen[bytes], began_s: float) -> bool:
    """Show what it says, with times; whether the end was reached."""
    is_whole = False
    for line in process.stderr or ():
        text = line.decode("utf-8", "replace").rstrip("\n")
        if text.startswith("== "):
            text = f"{text}  ({time.monotonic() - began_s:.0f} s)"
            is_whole = text.startswith("== the end")
        print(text, flush=True)
        if is_whole:
            break
    return is_whole


def _end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
