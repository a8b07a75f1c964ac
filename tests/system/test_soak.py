"""A short soak, in which everything holds but what was broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.soak_harness.soak import Plan, soak

pytestmark = pytest.mark.timeout(180)


def test_a_soak_survives_its_faults_and_finds_the_planted_leak_alone(tmp_path: Path) -> None:
    """The leak is the one problem: everything else that a soak looks at held, through a fault too."""
    report = soak(Plan(seconds=18.0, has_faults=True, every_s=1.0, seed=3, leak_bytes=120_000), tmp_path, tell=print)
    assert [problem for problem in report.problems if "grew by" not in problem] == [], "\n".join(report.lines())
    assert any("grew by" in problem for problem in report.problems), "\n".join(report.lines())
    assert report.drills
    assert min(report.results.values()) > 20
