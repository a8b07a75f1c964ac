"""Drills with brokers that misbehave while they live, and their table; started by ``scripts/drills/broker-drill``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.system.delivery.broker_drill import Kind, Outcome, run_broker_drill
from tests.system.delivery.fleet import run_fleet_drill
from tests.system.delivery.kinds import BROKERS, KINDS, is_possible, missing_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if a drill failed."""
    parser = argparse.ArgumentParser(prog="scripts/drills/broker-drill", description=__doc__)
    parser.add_argument("--broker", action="append", choices=tuple(BROKERS), help="default: recording and mosquitto")
    parser.add_argument(
        "--kind", action="append", help=f"start of a name; all: {', '.join(one.name for one in KINDS)}"
    )
    parser.add_argument("--runs", type=int, default=1, help="how often each")
    parser.add_argument(
        "--fleet", type=int, metavar="N", help="N agents on a bridged mosquitto instead, hub cut for 60 s"
    )
    parser.add_argument("--quick", action="store_true", help="faults of seconds, as in the test suite")
    options = parser.parse_args(arguments)
    if options.fleet is not None:
        return _fleet(options.fleet, cut_s=5.0 if options.quick else 60.0)
    brokers = options.broker or ["recording", "mosquitto"]
    kinds = [one for one in KINDS if not options.kind or one.name.startswith(tuple(options.kind))]
    if not kinds:
        parser.error(f"--kind {options.kind} names none; there are {', '.join(one.name for one in KINDS)}")
    for broker in brokers:
        if (program := missing_program(broker)) is not None:
            parser.error(f"{program} is not installed, but --broker {broker} needs it: apt-get install {program}")
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="broker-drill-") as directory:
        for outcome in _outcomes(kinds, brokers, Path(directory), runs=options.runs, is_quick=options.quick):
            outcomes.append(outcome)
            print(f"{'ok    ' if outcome.is_good else 'FAILED'} {outcome}", flush=True)
    print("".join(table(outcomes)))
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def _fleet(agents: int, *, cut_s: float) -> int:
    """Few processes with several agents each: as many whole agents would need a machine each."""
    with tempfile.TemporaryDirectory(prefix="fleet-drill-") as directory:
        outcome = run_fleet_drill(Path(directory), agents=agents, processes=4, cut_s=cut_s, events_per_s=1.0)
    print(f"{agents} agents, hub cut for {cut_s:g} s: {outcome}")
    return 0 if outcome.verdict.is_good else 1


def _outcomes(
    kinds: Iterable[Kind], brokers: Iterable[str], directory: Path, *, runs: int, is_quick: bool
) -> Iterator[Outcome]:
    for broker in brokers:
        for kind in (one for one in kinds if is_possible(one, broker)):
            for run in range(runs):
                name = f"{broker}-{kind.name}-{run}".replace("/", "-").replace(" ", "-").replace(":", "")
                yield run_broker_drill(kind, BROKERS[broker], directory / name, is_quick=is_quick)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Runs, events, losses, worst recovery and worst age of each kind with each broker, in Markdown."""
    yield (
        "| fault | broker | runs | failed | events | lost | duplicates | recovered after | oldest event | results "
        "| all messages | memory |\n"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    for key in dict.fromkeys((one.kind, one.broker) for one in outcomes):
        some = [one for one in outcomes if (one.kind, one.broker) == key]
        yield (
            f"| {key[0]} | {key[1]} | {len(some)} | {sum(not one.is_good for one in some)} "
            f"| {sum(one.verdict.committed for one in some)} | {sum(len(one.verdict.lost) for one in some)} "
            f"| {sum(one.verdict.duplicates for one in some)} | {max(one.recovery_s for one in some):.1f} s "
            f"| {max(one.worst_age_s for one in some):.1f} s | {sum(one.figures['results'] for one in some)} "
            f"| {sum(one.figures['bytes'] for one in some) / 1000:.0f} kB "
            f"| {max(one.figures.get('peak_rss_mib', 0.0) for one in some):.0f} MiB |\n"
        )


if __name__ == "__main__":
    sys.exit(main())
