"""Runs a soak and prints what came of it; see scripts/soak."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from scripts.soak_harness.soak import Plan, Report, soak


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when every promise held."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--nemesis", action="store_true", help="draw faults at random; without it nothing is broken")
    parser.add_argument("--every", type=float, default=15.0, help="seconds of peace between two faults")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's faults (default: drawn and told)")
    parser.add_argument("--plant-leak", type=int, default=0, metavar="BYTES", help="let the agent lose this per frame")
    parser.add_argument("--report", type=Path, default=None, help="write the report here as JSON")
    options = parser.parse_args(arguments)
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    plan = Plan(options.minutes * 60.0, options.nemesis, options.every, seed, options.plant_leak)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        report = soak(plan, Path(directory), tell=lambda text: print(text, file=sys.stderr, flush=True))
    if options.report is not None:
        options.report.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    _show(report)
    return 1 if report.problems else 0


def _show(report: Report) -> None:
    for line in report.lines():
        print(line)


if __name__ == "__main__":
    sys.exit(main())
