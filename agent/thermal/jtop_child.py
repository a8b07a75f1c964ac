"""The program that talks to jtop: one JSON line for each sample on standard output, until standard input closes.

It runs as a process of its own, because jetson-stats is under the AGPL, its import changes how `multiprocessing`
starts processes, its connect can block for ever, and it cannot connect twice in one thread.

The agent reads it with `engines.JsonChild`. `engines.serve_parent` does not fit on this side: `thermal.jtop_python`
may name an interpreter that has jetson-stats and none of our packages, so this file imports the standard library
alone. `serve_parent` would also run it at low priority, and a busy board would look like a silent service.

    python -m agent.thermal.jtop_child --interval 1.0 [--socket /run/jtop.sock]

Lines: {"kind": "hello", "client": "7.2.2"}, {"kind": "sample", "uptime_s": ..., "temperature": {...}, ...} and,
before it ends with code 1, {"kind": "error", "reason": "...", "message": "..."}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from importlib import metadata
from types import TracebackType
from typing import Any, NoReturn


def main() -> int:
    """Print samples until standard input ends, or one error."""
    parser = argparse.ArgumentParser(description="print the values of jtop, one JSON line for each sample")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two samples")
    parser.add_argument("--socket", help="socket of the service, if it is not the usual one")
    arguments = parser.parse_args()
    lines = _Lines()

    def say_why(_: type[BaseException], exc: BaseException, __: TracebackType | None) -> None:
        """Report any exception to the parent, which takes the reason from a message and not from standard error."""
        lines.put({"kind": "error", "reason": _reason(exc), "message": " ".join(str(exc).split())[:500]})
        leave(1)

    sys.excepthook = say_why
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    _print_samples(lines, arguments.interval, arguments.socket)
    return 0


class _Lines:
    """The real standard output; what libraries print goes nowhere."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def put(self, line: dict[str, Any]) -> None:
        """Write one line; end if nobody reads it."""
        try:
            self._out.write(json.dumps(line, default=str) + "\n")
            self._out.flush()
        except BrokenPipeError:
            leave(1)


def leave(code: int) -> NoReturn:
    """End at once: the finalisers of multiprocessing may wait for ever for a manager that hangs."""
    os._exit(code)


def _end_with_parent() -> None:
    """Nobody writes to standard input. It ends with the parent."""
    while os.read(0, 4096):
        pass
    leave(0)


def _print_samples(lines: _Lines, interval_s: float, socket: str | None) -> None:
    import jtop as package
    import jtop.service as service

    if socket is not None:
        service.JTOP_PIPE = socket
    lines.put({"kind": "hello", "client": _client_version()})
    client = package.jtop(interval=interval_s)
    client.start()
    while client.ok():
        lines.put(_sample(client))
    raise TimeoutError("the service has stopped answering")


def _sample(client: Any) -> dict[str, Any]:
    """The properties that the agent reads, unchanged."""
    gpu = {name: dict(value) for name, value in dict(client.gpu).items()}
    mode = client.nvpmodel
    return {
        "kind": "sample",
        "uptime_s": client.uptime.total_seconds(),
        "temperature": client.temperature,
        "power": client.power,
        "gpu": gpu,
        "memory": dict(client.memory).get("RAM"),
        "fan": {name: dict(value) for name, value in dict(client.fan).items()},
        "power_mode": None if mode is None else str(mode.name),
    }


def _client_version() -> str:
    try:
        return metadata.version("jetson-stats")
    except metadata.PackageNotFoundError:
        return "unknown"


def _reason(exc: BaseException) -> str:
    """One word for the kind of failure; some kinds differ only in their message."""
    text = str(exc)
    known = {
        "not active": "not_active",
        "can't access": "no_permission",
        "Mismatch": "wrong_version",
        "Authentication": "wrong_key",
        "Lost connection": "lost",
    }
    for part, reason in known.items():
        if part in text:
            return reason
    if isinstance(exc, TimeoutError):
        return "silent"
    if isinstance(exc, ImportError):
        return "not_installed"
    if isinstance(exc, PermissionError):
        return "no_permission"
    return "lost" if isinstance(exc, (OSError, EOFError)) else "failed"


if __name__ == "__main__":
    sys.exit(main())
