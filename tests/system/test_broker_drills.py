"""The delivery promise with brokers that live and misbehave: what was put arrives, in order and in time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.drills.broker_drills import table
from tests.system.delivery.broker_drill import Kind, Outcome, run_broker_drill
from tests.system.delivery.fleet import run_fleet_drill
from tests.system.delivery.kinds import BROKERS, QUICK, REFUSAL

pytestmark = pytest.mark.timeout(120)

AT_ONCE = 6


def test_a_broker_that_misbehaves_or_a_hub_that_is_cut_off_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(kind: Kind) -> Outcome:
        return run_broker_drill(kind, BROKERS["recording"], tmp_path / str(QUICK.index(kind)))

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="drill") as pool:
        running = pool.map(run, QUICK)
        fleet = pool.submit(
            run_fleet_drill, tmp_path / "fleet", agents=4, processes=2, cut_s=2.0, events_per_s=4.0, around_s=1.0
        )
        outcomes = list(running)
    with capsys.disabled():
        os.write(1, "".join(["\n", *table(outcomes)]).encode())
    assert [str(outcome) for outcome in outcomes if not outcome.is_good] == []
    assert all(outcome.verdict.committed >= 10 for outcome in outcomes)
    assert fleet.result().verdict.is_good, str(fleet.result())
    assert fleet.result().verdict.committed == 4 * 12


def test_an_agent_that_takes_a_refusal_for_a_confirmation_is_caught(tmp_path: Path) -> None:
    eager = replace(REFUSAL, options={"is_eager": True})
    outcome = run_broker_drill(eager, BROKERS["recording"], tmp_path / "eager", settle_s=1.0)
    assert outcome.verdict.lost
    assert not outcome.is_good
