"""One child process, from the parent's side."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from agent.runtime.errors import Unavailable
from agent.tools.benchmark.measure.target import Target
from engines import JsonChild, module_command

Answer = Mapping[str, object]

LIBRARIES = ("numpy", "onnx", "opencv-python-headless", "pydantic", "PyYAML")
"""What the child needs of another environment, beside its engine's own libraries."""
_END_WITHIN_S = 5.0
_TICK_S = 0.2


class ChildFailed(Unavailable):
    """A child could not open its engine, or has ended; ``fields`` hold ``reason`` and ``remedy``."""


class Session:
    """One child process with one engine; closing ends it. Used by one thread."""

    def __init__(self, target: Target, *, python: str = sys.executable) -> None:
        self.target = target
        self._python = python
        self._child: JsonChild | None = None
        self._answers: deque[Answer] = deque()

    def __enter__(self) -> Session:
        """Start the process; it waits for its first request."""
        command = module_command("agent.tools.benchmark.measure.child", python=self._python)
        self._child = JsonChild(command, on_message=self._answers.append, keeps_input=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process: close its input, then kill it if it does not exit."""
        child, self._child = self._child, None
        if child is not None:
            child.close(grace_s=0.0 if error is not None else _END_WITHIN_S)

    def ask(self, request: Mapping[str, object], *, timeout_s: float) -> Answer:
        """Send one request and wait for its answer.

        Raises:
            ChildFailed: it reported a failure, ended, or did not answer in time.
        """
        child = self._child
        if child is None:
            raise RuntimeError("a Session can only be used inside its with block")
        deadline = time.monotonic() + timeout_s
        # A child that has ended is noticed below, with its exit code.
        with contextlib.suppress(BrokenPipeError):
            child.send(request)
        while True:
            answer = self._next(child, deadline, timeout_s)
            if answer["event"] == "failed":
                raise ChildFailed(
                    f"{self.target.label} cannot be measured: {answer['reason']}",
                    reason=answer["reason"],
                    remedy=answer["remedy"],
                )
            if answer["event"] != "progress":
                return answer

    def _next(self, child: JsonChild, deadline: float, timeout_s: float) -> Answer:
        while not self._answers:
            if not child.read(_TICK_S) and not self._answers:
                last = child.error_lines[-1] if child.error_lines else "(no output)"
                reason = f"its process ended with code {child.exit_code}: {last}"
                raise ChildFailed(f"{self.target.label}: {reason}", reason=reason, remedy=self._remedy(last))
            if time.monotonic() > deadline and not self._answers:
                raise ChildFailed(
                    f"{self.target.label} did not answer within {timeout_s:.0f} s",
                    reason=f"no answer within {timeout_s:.0f} s",
                    remedy="measure it alone, with --engines",
                )
        return self._answers.popleft()

    def _remedy(self, last_line: str) -> str:
        if self._python != sys.executable and last_line.startswith("ModuleNotFoundError"):
            # The agent's own libraries are not lent: they would replace those that are to be measured.
            needed = " ".join(LIBRARIES)
            return f"give that environment what the agent needs: {shlex.quote(self._python)} -m pip install {needed}"
        return "see its last line of output"
