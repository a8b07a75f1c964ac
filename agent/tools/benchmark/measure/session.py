"""One child process, from the parent's side."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import agent
from agent.runtime.errors import Unavailable
from agent.tools.benchmark.measure.target import Target

Answer = Mapping[str, object]

_END_WITHIN_S = 5.0
_TICK_S = 0.2


class ChildFailed(Unavailable):
    """A child could not open its engine, or has ended; ``fields`` hold ``reason`` and ``remedy``."""


class Session:
    """One child process with one engine; closing ends it. Used by one thread."""

    def __init__(self, target: Target, *, python: str = sys.executable) -> None:
        self.target = target
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._pending = b""

    def __enter__(self) -> Session:
        """Start the process; it waits for its first request."""
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [self._python, "-m", "agent.tools.benchmark.measure.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=child_environment(),
            bufsize=0,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process: close its input, then kill it if it does not exit."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                process.wait(0.0 if error is not None else _END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._stderr is not None:
            self._stderr.close()

    def ask(self, request: Mapping[str, object], *, timeout_s: float) -> Answer:
        """Send one request and wait for its answer.

        Raises:
            ChildFailed: it reported a failure, ended, or did not answer in time.
        """
        process = self._process
        if process is None or process.stdin is None:
            raise RuntimeError("a Session can only be used inside its with block")
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError as exc:
            raise self._ended() from exc
        deadline = time.monotonic() + timeout_s
        while True:
            answer = cast("Answer", json.loads(self._line(deadline, timeout_s)))
            if answer["event"] == "failed":
                raise ChildFailed(
                    f"{self.target.label} cannot be measured: {answer['reason']}",
                    reason=answer["reason"],
                    remedy=answer["remedy"],
                )
            if answer["event"] != "progress":
                return answer

    def _line(self, deadline: float, timeout_s: float) -> bytes:
        process = self._process
        if process is None or process.stdout is None:
            raise RuntimeError("a Session can only be used inside its with block")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(_TICK_S):
                    if time.monotonic() > deadline:
                        raise ChildFailed(
                            f"{self.target.label} did not answer within {timeout_s:.0f} s",
                            reason=f"no answer within {timeout_s:.0f} s",
                            remedy="measure it alone, with --engines",
                        )
                    continue
                part = os.read(process.stdout.fileno(), 1 << 20)
                if not part:
                    raise self._ended()
                self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _ended(self) -> ChildFailed:
        process = self._process
        code = process.wait() if process is not None else None
        reason = f"its process ended with code {code}: {self._last_line()}"
        return ChildFailed(f"{self.target.label}: {reason}", reason=reason, remedy="see its last line of output")

    def _last_line(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:400] if lines else "(no output)"


def child_environment() -> dict[str, str]:
    """The environment of a child, which finds this program even under another interpreter."""
    root = str(Path(agent.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, known]) if known else root, "PYTHONUNBUFFERED": "1"}
