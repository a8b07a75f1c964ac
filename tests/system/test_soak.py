"""A short soak: with faults it passes, and with a planted leak it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.soak_harness.soak import Plan, soak

pytestmark = pytest.mark.timeout(180)


def test_a_soak_with_faults_keeps_every_promise(tmp_path: Path) -> None:
    told: list[str] = []
    report = soak(Plan(seconds=19.0, has_faults=True, every_s=1.0, seed=3), tmp_path, tell=told.append)
    assert report.problems == [], "\n".join(report.lines())
    assert report.drills
    assert min(report.results.values()) > 20


def test_a_planted_leak_is_caught(tmp_path: Path) -> None:
    plan = Plan(seconds=14.0, has_faults=False, every_s=1.0, seed=0, leak_bytes=120_000)
    report = soak(plan, tmp_path, tell=lambda _: None)
    assert any("grew by" in problem for problem in report.problems), "\n".join(report.lines())
