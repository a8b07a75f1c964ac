"""Runs each step in its own process: a crash of the library costs one result, not the report."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.gpu_check.plan import Step

ROOT = Path(__file__).parents[2]
_LAST_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of one step, or why there is none. ``log``: the file with its output."""

    step: Step
    has_passed: bool
    text: str
    took_s: float = 0.0
    values: Mapping[str, object] = field(default_factory=dict)
    log: Path | None = None

    @property
    def counts_as_failed(self) -> bool:
        """Whether it makes the whole check fail."""
        return self.result == "FAILED"

    @property
    def result(self) -> str:
        """The word for the report."""
        if self.step.why_not:
            return "not possible"
        if self.has_passed:
            return "passed"
        return "failed, not counted" if self.step.is_shown_only else "FAILED"


def run_step(step: Step, log: Path, *, variables: Mapping[str, str]) -> Outcome:
    """Run one step with ``variables`` as its environment; the command and its output go to ``log``."""
    if step.why_not:
        return Outcome(step=step, has_passed=False, text=step.why_not)
    command = list(step.command)
    if step.job is not None:
        command = [sys.executable, "-m", "scripts.gpu_check.cases", json.dumps(dict(step.job))]
    began_s = time.monotonic()
    code, output = _run(command, timeout_s=step.timeout_s, environment={**variables, **step.variables})
    took_s = time.monotonic() - began_s
    asked = "".join(f"{name}={shlex.quote(value)} " for name, value in step.variables.items())
    log.write_text(f"$ {asked}{shlex.join(command)}\n{output}\n{_how(code)}\n", encoding="utf-8")
    values = _last_object(output) if step.job is not None else None
    if code != 0 or (step.job is not None and values is None):
        text = _ended(code, output) if code != 0 else f"it ended without a result\n{_last_lines(output)}"
        return Outcome(step=step, has_passed=False, text=text, took_s=took_s, log=log)
    if values is None:
        return Outcome(step=step, has_passed=True, text=_last_lines(output, 1), took_s=took_s, log=log)
    return Outcome(
        step=step,
        has_passed=bool(values.get("passed")),
        text=str(values.get("text", "")),
        took_s=took_s,
        values=values,
        log=log,
    )


def _run(command: list[str], *, timeout_s: float, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit code (None after a time-out) and both outputs together."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        output = exc.output.decode(errors="replace") if isinstance(exc.output, bytes) else str(exc.output or "")
        return None, output
    return done.returncode, done.stdout


def _how(code: int | None) -> str:
    return "ran out of time" if code is None else f"ended with signal {-code}" if code < 0 else f"exit code {code}"


def _ended(code: int | None, output: str) -> str:
    return f"{_how(code)}\n{_last_lines(output)}"


def _last_lines(output: str, count: int = _LAST_LINES) -> str:
    return "\n".join([line for line in output.splitlines() if line.strip()][-count:]) or "no output"


def _last_object(output: str) -> dict[str, object] | None:
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None
