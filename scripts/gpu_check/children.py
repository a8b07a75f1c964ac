"""Runs each check in a process of its own: one that crashes the library costs its own result, not the report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LAST_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One check: what it found, or why it found nothing. ``is_optional``: its failure does not count."""

    name: str
    has_passed: bool
    text: str
    took_s: float
    values: Mapping[str, object] = field(default_factory=dict)
    is_optional: bool = False


def run_case(name: str, job: Mapping[str, object], *, timeout_s: float, is_optional: bool = False) -> Outcome:
    """Run ``python -m scripts.gpu_check.cases`` with a job; its last line is JSON with ``passed`` and ``text``."""
    command = [sys.executable, "-m", "scripts.gpu_check.cases", json.dumps(dict(job))]
    code, output, took_s = run(command, timeout_s=timeout_s)
    values = _last_object(output)
    if code != 0 or values is None:
        return Outcome(name=name, has_passed=False, text=_ended(code, output), took_s=took_s, is_optional=is_optional)
    return Outcome(
        name=name,
        has_passed=bool(values.get("passed")),
        text=str(values.get("text", "")),
        took_s=took_s,
        values=values,
        is_optional=is_optional,
    )


def run_command(name: str, command: list[str], *, timeout_s: float, env: Mapping[str, str]) -> Outcome:
    """Run a program whose exit code says whether it passed; its last line is the text."""
    code, output, took_s = run(command, timeout_s=timeout_s, env=env)
    lines = [line for line in output.splitlines() if line.strip()]
    text = (lines[-1] if lines else "no output") if code == 0 else _ended(code, output)
    return Outcome(name=name, has_passed=code == 0, text=text, took_s=took_s)


def run(
    command: list[str], *, timeout_s: float, env: Mapping[str, str] | None = None
) -> tuple[int | None, str, float]:
    """Exit code (None where the time ran out), both outputs together, and the seconds it took."""
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=None if env is None else dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        output = exc.output.decode(errors="replace") if isinstance(exc.output, bytes) else str(exc.output or "")
        return None, output, time.monotonic() - began_s
    return done.returncode, done.stdout, time.monotonic() - began_s


def _ended(code: int | None, output: str) -> str:
    how = "ran out of time" if code is None else f"ended with signal {-code}" if code < 0 else f"exit code {code}"
    lines = [line for line in output.splitlines() if line.strip()][-_LAST_LINES:]
    return "\n".join([how, *lines])


def _last_object(output: str) -> dict[str, object] | None:
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None
