"""The delivery promise under faults: what was committed arrives, in order, whatever dies on the way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.system.delivery.drill import Plan, run_drill
from tests.system.delivery.report import drills, summary

pytestmark = pytest.mark.timeout(180)

RUNS = 20


def test_twenty_random_drills_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = int(os.environ.get("DRILL_SEED") or (1 if os.environ.get("CI") == "true" else time.time()))
    began = time.monotonic()
    outcomes = list(drills(range(first, first + RUNS), tmp_path))
    with capsys.disabled():
        report = summary(outcomes, time.monotonic() - began)
        os.write(1, f"\ndrills from DRILL_SEED={first}: {report}\n".encode())
    bad = [f"{outcome.plan}: {outcome.verdict} {outcome.problems}" for outcome in outcomes if not outcome.is_good]
    assert bad == []
    assert sum(outcome.verdict.delivered for outcome in outcomes) >= RUNS * 40


@pytest.mark.parametrize("broker", ["mosquitto", "amqtt"])
def test_an_agent_that_is_killed_while_its_broker_is_away_loses_nothing(tmp_path: Path, broker: str) -> None:
    plan = Plan(1, broker, ((0.2, "broker_kill", 1.4), (0.6, "agent_kill", 0.1)))
    outcome = run_drill(plan, tmp_path / "drill")
    assert outcome.is_good, f"{outcome.verdict} {outcome.problems}"
    assert outcome.verdict.committed >= 20


def test_an_agent_that_forgets_what_it_has_only_sent_is_caught(tmp_path: Path) -> None:
    faults = ((0.1, "latency", 1.0), (0.7, "reset", 0.1))
    honest = run_drill(Plan(1, "mosquitto", faults), tmp_path / "honest")
    eager = run_drill(Plan(1, "mosquitto", faults, is_eager=True, settle_s=2.0), tmp_path / "eager")
    assert honest.is_good, f"{honest.verdict} {honest.problems}"
    assert eager.verdict.lost
    assert not eager.is_good
