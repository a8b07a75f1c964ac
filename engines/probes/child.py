"""Runs probes: a library that crashes, hangs or prints does so in a child process."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.sandbox.isolated import module_command, script_command
from engines.sandbox.json_child import JsonChild, signal_name

_MAX_LATE_READS = 64
_QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
_SCRIPTS = Path(__file__).parent
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_PREFIX = re.compile(r"^\S+ \S+ \[(?:[EWF]):[^]]*\]\s*")


@dataclass(frozen=True, slots=True)
class ChildAnswer:
    """A probe's answer. ``failure`` is None, or one sentence on why there is no answer."""

    values: Mapping[str, object] = field(default_factory=dict)
    failure: str | None = None
    last_error: str = ""

    def text(self, name: str) -> str | None:
        """Return a value as text, None if the probe did not give one."""
        value = self.values.get(name)
        return value if isinstance(value, str) else None


def run_child(probe: str, *arguments: str, timeout_s: float = 60.0) -> ChildAnswer:
    """Run one probe and return its answer; see ``run_children``."""
    return run_children([(probe, *arguments)], timeout_s=timeout_s)[0]


def run_children(commands: Sequence[tuple[str, ...]], *, timeout_s: float) -> list[ChildAnswer]:
    """Run probes in parallel and return their answers in order.

    A command is the name of a script in this folder, or the dotted name of a module anywhere, and its arguments. The
    probe prints one JSON object as its last line of standard output. A probe that has not ended ``timeout_s`` seconds
    after the first start is killed.
    """
    deadline_s = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        probes = []
        for command in commands:
            probes.append(_Probe(command))
            stack.callback(probes[-1].child.close)
        return [probe.answer(deadline_s, timeout_s) for probe in probes]


class _Probe:
    """One running probe; its last message is its answer."""

    def __init__(self, command: tuple[str, ...]) -> None:
        name, *arguments = command
        is_module = "." in name
        script = _SCRIPTS / f"{name}.py"
        start = module_command(name, *arguments) if is_module else script_command(script, *arguments)
        self._values: dict[str, object] | None = None
        # Warnings on standard error would be taken for the reason of a failure.
        start[1:1] = ["-W", "ignore"]
        self.child = JsonChild(start, environ=_QUIET, on_message=self._take)

    def _take(self, message: dict[str, object]) -> None:
        self._values = message

    def answer(self, deadline_s: float, timeout_s: float) -> ChildAnswer:
        late_reads = 0
        while self.child.read(max(0.0, deadline_s - time.monotonic())):
            if time.monotonic() < deadline_s:
                continue
            if self.child.exit_code is None:
                return ChildAnswer(failure=f"the probe gave no answer in {timeout_s:.0f} s")
            # The probe ended in time but is collected late, after a slow one: drain its pipes. Only so often, since a
            # process that it left behind may hold them open.
            late_reads += 1
            if late_reads > _MAX_LATE_READS:
                break
        last_error = _last_error(self.child.error_lines)
        code = self.child.exit_code or 0
        if code < 0:
            return ChildAnswer(failure=f"the probe was ended by {signal_name(-code)}", last_error=last_error)
        if code:
            return ChildAnswer(failure=last_error or f"the probe ended with code {code}", last_error=last_error)
        if self._values is None:
            return ChildAnswer(failure="the probe ended without an answer", last_error=last_error)
        return ChildAnswer(values=self._values, last_error=last_error)


def _last_error(lines_of_child: Iterable[str]) -> str:
    """Return the last line of an error text, without colours, time stamps and source positions."""
    lines = [_COLOUR.sub("", line).strip() for line in lines_of_child]
    lines = [_LOG_PREFIX.sub("", line) for line in lines if line]
    return lines[-1][:500] if lines else ""
