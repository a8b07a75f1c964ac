"""Starts the probe scripts: a library that crashes, hangs or prints takes its own process with it, not the agent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SCRIPTS = Path(__file__).parent
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_PREFIX = re.compile(r"^\S+ \S+ \[(?:[EWF]):[^]]*\]\s*")


@dataclass(frozen=True, slots=True)
class ChildAnswer:
    """What a probe script found. ``failure`` is None, or one sentence on why there is no answer."""

    values: Mapping[str, object] = field(default_factory=dict)
    failure: str | None = None
    last_error: str = ""

    def text(self, name: str) -> str | None:
        """Give a value as text, None where the script did not give one."""
        value = self.values.get(name)
        return value if isinstance(value, str) else None


def run_child(script: str, *arguments: str, timeout_s: float = 60.0) -> ChildAnswer:
    """Run one probe script to its end and give its answer; see ``run_children``."""
    return run_children([(script, *arguments)], timeout_s=timeout_s)[0]


def run_children(commands: Sequence[tuple[str, ...]], *, timeout_s: float) -> list[ChildAnswer]:
    """Run probe scripts side by side and give their answers in order.

    A script prints one JSON object as its last line of standard output. One that has not answered ``timeout_s``
    seconds after the start of all is killed; none outlives the call.
    """
    deadline = time.monotonic() + timeout_s
    processes: list[subprocess.Popen[str]] = []
    try:
        processes.extend(_start(command) for command in commands)
        return [_collect(process, deadline, timeout_s) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def _start(command: tuple[str, ...]) -> subprocess.Popen[str]:
    quiet = {"PYTHONFAULTHANDLER": "", "PYTHONWARNINGS": "ignore", "ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen(
        [sys.executable, str(_SCRIPTS / f"{command[0]}.py"), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **quiet},
    )


def _collect(process: subprocess.Popen[str], deadline: float, timeout_s: float) -> ChildAnswer:
    # One that has ended beside a slow one has answered, however late it is asked.
    remaining = None if process.poll() is not None else max(0.0, deadline - time.monotonic())
    try:
        output, errors = process.communicate(timeout=remaining)
    except subprocess.TimeoutExpired:
        return ChildAnswer(failure=f"the probe gave no answer in {timeout_s:.0f} s")
    last_error = _last_error(errors)
    if process.returncode < 0:
        name = _signal_name(-process.returncode)
        return ChildAnswer(failure=f"the probe was ended by {name}", last_error=last_error)
    if process.returncode:
        reason = last_error or f"the probe ended with code {process.returncode}"
        return ChildAnswer(failure=reason, last_error=last_error)
    values = _last_object(output)
    if values is None:
        return ChildAnswer(failure="the probe ended without an answer", last_error=last_error)
    return ChildAnswer(values=values, last_error=last_error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_object(output: str) -> dict[str, object] | None:
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def _last_error(errors: str) -> str:
    """Give the last line a reader would want: without colours, time stamps and source positions."""
    lines = [_COLOUR.sub("", line).strip() for line in errors.splitlines()]
    lines = [_LOG_PREFIX.sub("", line) for line in lines if line]
    return lines[-1][:500] if lines else ""
