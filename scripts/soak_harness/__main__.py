"""Runs a soak and prints its report; see scripts/soak."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from scripts.keeper import kept_directory
from scripts.soak_harness.faults import FAULTS
from scripts.soak_harness.report import page, this_machine
from scripts.soak_harness.soak import Plan, soak


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 if every promise held."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--nemesis", action="store_true", help="inject random faults; without it there are none")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's faults (default: drawn and printed)")
    parser.add_argument(
        "--plant-leak", type=int, default=0, metavar="BYTES", help="make the agent leak this much per frame"
    )
    parser.add_argument("--report", type=Path, default=None, help="write the report here as JSON")
    parser.add_argument("--md", type=Path, default=None, help="write the report here as a page in Markdown")
    parser.add_argument("--list", action="store_true", help="list the faults and exit")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{fault.row}  {fault.name}" for fault in sorted(FAULTS, key=lambda one: one.row)))
        return 0
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    plan = Plan(options.minutes * 60.0, options.nemesis, options.every, seed, options.plant_leak)
    began_at = datetime.now(timezone.utc)
    try:
        # The agent, the broker and the camera are processes of their own. A signal may come between starting one and
        # taking note of it; the keeper ends what that leaves.
        with kept_directory("soak-") as directory:
            signal.signal(signal.SIGTERM, _end)
            report = soak(plan, directory, log=lambda text: print(text, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("interrupted: nothing is judged", file=sys.stderr)
        return 128 + signal.SIGINT
    report.began_at, report.machine = f"{began_at:%Y-%m-%d %H:%M} UTC", this_machine()
    report.command = _command(options, seed)
    if options.md is not None:
        options.md.write_text("\n".join(page(report)) + "\n", encoding="utf-8")
    if options.report is not None:
        options.report.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    for line in report.lines():
        print(line)
    return 1 if report.problems else 0


def _end(number: int, _frame: FrameType | None) -> None:
    """Start the clean-up; a second signal must not interrupt it."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _command(options: argparse.Namespace, seed: int) -> str:
    """What repeats this run."""
    leak = [f"--plant-leak {options.plant_leak}"] if options.plant_leak else []
    nemesis = [f"--nemesis --every {options.every:g} --seed {seed}"] if options.nemesis else []
    return " ".join([f"scripts/soak --minutes {options.minutes:g}", *nemesis, *leak])


if __name__ == "__main__":
    sys.exit(main())
