"""Randomised delivery drills and their report; started by ``scripts/drills/drill``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.system.delivery.report import drills, summary


def main() -> int:
    parser = argparse.ArgumentParser(description="Randomised delivery drills")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="first seed; the time where left out")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--broker", choices=("mosquitto", "amqtt"), default=None)
    options = parser.parse_args()
    first = int(time.time()) if options.seed is None else options.seed
    began = time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="drill-") as directory:
        seeds = range(first, first + options.runs)
        for outcome in drills(seeds, Path(directory), at_once=options.at_once, broker=options.broker):
            outcomes.append(outcome)
            word = "ok    " if outcome.is_good else "FAILED"
            print(f"{word} {outcome.plan}: {outcome.verdict}, recovery {outcome.recovery_s:.1f} s", flush=True)
            for problem in outcome.problems:
                print(f"       {problem}", flush=True)
    print(summary(outcomes, time.monotonic() - began))
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
