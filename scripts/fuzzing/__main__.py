"""Runs targets for a time, each in a process of its own: a crash of a library is a finding, too.

python -m scripts.fuzzing [--minutes N] [--only TARGET] [--seed N] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from agent.runtime import logs
from scripts.fuzzing.mutation import damaged
from scripts.fuzzing.targets import TARGETS

_EXAMPLES = 1000


class Finding(Exception):
    """What went wrong; the input is in ``data``."""

    def __init__(self, data: bytes, text: str) -> None:
        super().__init__(text)
        self.data = data
        self.executed = 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target")
    parser.add_argument("--only", choices=list(TARGETS), action="append", help="these targets alone")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same seed gives the same input")
    parser.add_argument("--keep", type=Path, help="folder for the input of a finding")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    keep = asked.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    names = asked.only or list(TARGETS)
    if asked.inside:
        return _run(names[0], asked.minutes * 60, asked.seed, keep)
    return max(_child(name, asked.minutes, asked.seed, keep) for name in names)


def _child(name: str, minutes: float, first_seed: int, keep: Path) -> int:
    """Run one target in a child; 1 if it found something or died. Decoders write to standard error as they like."""
    command = [sys.executable, "-m", "scripts.fuzzing", "--inside", "--only", name, "--minutes", str(minutes)]
    done = subprocess.run(
        [*command, "--seed", str(first_seed), "--keep", str(keep)], check=False, stderr=subprocess.DEVNULL
    )
    if done.returncode not in {0, 1}:
        print(f"{name}: the process ended with {done.returncode}; its input is {_newest(name, keep)}")
        return 1
    return done.returncode


def _newest(name: str, keep: Path) -> Path:
    return keep / f"{name}.newest"


def _run(name: str, limit_s: float, first_seed: int, keep: Path) -> int:
    logs.configure(level="error")
    executions, began_s, number = 0, time.monotonic(), first_seed
    try:
        while time.monotonic() - began_s < limit_s:
            executions += fuzz(name, number, _EXAMPLES, newest=_newest(name, keep))
            number += 1
    except Finding as exc:
        path = keep / f"{name}.input"
        path.write_bytes(exc.data)
        print(
            f"{name}: FOUND after {executions + exc.executed} executions, seed {number}: {exc}\n  its input is {path}"
        )
        return 1
    elapsed_s = time.monotonic() - began_s
    print(f"{name}: nothing found in {executions} executions, {elapsed_s:.0f} s, seeds {first_seed} to {number - 1}")
    return 0


def fuzz(name: str, number: int, examples: int, *, newest: Path | None = None) -> int:
    """Give ``examples`` inputs that follow from ``number`` to a target; how many were executed.

    Each input is written to ``newest`` before, for the case that the process dies.

    Raises:
        Finding: with the smallest input that Hypothesis found.
    """
    target = TARGETS[name]()
    executed = 0
    failed: Finding | None = None

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(target.originals))
    def check(data: bytes) -> None:
        nonlocal executed, failed
        executed += 1
        if newest is not None:
            newest.write_bytes(data)
        before_s = time.monotonic()
        try:
            target.check(data)
        except Exception:
            failed = Finding(data, traceback.format_exc(limit=-3))
            raise
        took_s = time.monotonic() - before_s
        if took_s > target.max_s:
            failed = Finding(data, f"it took {took_s:.1f} s")
            raise failed

    try:
        check()
    except Exception as exc:
        if failed is None:
            raise
        failed.executed = executed
        raise failed from exc
    return executed


if __name__ == "__main__":
    sys.exit(main())
