"""Many drills in parallel, and a summary of their results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.system.delivery.drill import Outcome, draw_plan, run_drill


def drills(seeds: range, directory: Path, *, at_once: int = 4, broker: str | None = None) -> Iterator[Outcome]:
    """The outcome of each seed, in order; ``at_once`` run in parallel."""
    plans = [draw_plan(seed) for seed in seeds]
    if broker is not None:
        plans = [replace(plan, broker=broker) for plan in plans]
    with ThreadPoolExecutor(at_once, thread_name_prefix="drill") as pool:
        yield from pool.map(lambda plan: run_drill(plan, directory / str(plan.seed)), plans)


def summary(outcomes: list[Outcome], elapsed_s: float) -> str:
    """The report of all runs."""
    faults = Counter(fault for outcome in outcomes for _, fault, _ in outcome.plan.faults)
    brokers = Counter(outcome.plan.broker for outcome in outcomes)
    slowest = max(outcomes, key=lambda outcome: outcome.recovery_s)
    sums = {
        "events committed": sum(outcome.verdict.committed for outcome in outcomes),
        "lost": sum(len(outcome.verdict.lost) for outcome in outcomes),
        "unexpected": sum(len(outcome.verdict.unexpected) for outcome in outcomes),
        "out of order": sum(len(outcome.verdict.out_of_order) for outcome in outcomes),
        "duplicates": sum(outcome.verdict.duplicates for outcome in outcomes),
        "reconnects": sum(outcome.reconnects for outcome in outcomes),
    }
    lines = [
        f"{len(outcomes)} runs in {elapsed_s:.0f} s, {sum(not outcome.is_good for outcome in outcomes)} failed",
        "brokers: " + ", ".join(f"{name} {count}" for name, count in sorted(brokers.items())),
        "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())),
        ", ".join(f"{name} {count}" for name, count in sums.items()),
        f"worst recovery {slowest.recovery_s:.1f} s ({slowest.plan})",
    ]
    return "\n".join(lines)
