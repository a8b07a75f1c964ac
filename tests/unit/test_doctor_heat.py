"""What `agent doctor` says about heat: the board's state, and each limit with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.runtime.clock import SystemClock
from agent.thermal.sensors.choose import read_once
from agent.tools.doctor import heat
from agent.tools.doctor.findings import Finding
from tests.fixtures.boards import ORIN_NANO_SUPER, THOR, BoardTree, tree_of

SYSFS = ThermalConfig(source="sysfs", interval_s=0.2)


@pytest.fixture
def nano(tmp_path: Path) -> Iterator[BoardTree]:
    with tree_of(ORIN_NANO_SUPER, tmp_path / "sys") as tree:
        yield tree


def findings_of(tree: BoardTree) -> dict[str, Finding]:
    return {finding.name: finding for finding in heat.heat_findings(SYSFS, sysfs_root=tree.root)}


def test_each_limit_has_its_source_and_the_alert_of_the_case_stands_apart(nano: BoardTree) -> None:
    nano.set_state("hot-surface-alert", 1)
    found = findings_of(nano)
    assert found["temperatures"].state == "ok"
    assert "oc2 15, oc3 27390" in found["temperatures"].detail
    assert "hot-surface-alert is up (lowers no clock)" in found["temperatures"].detail
    assert found["limit of gpu"].detail == (
        "clocks fall at 99 °C (trip 0 at 99 °C, the lowest bound to cpufreq-cpu0); "
        "soft limit 95, hard limit 98.5; information only: hot-surface-alert at 70"
    )
    assert found["limit of tj"].facts["source"] == (
        "no trip point lowers clocks: 5.5 K below the critical one at 104.5 °C"
    )
    assert {name for name in found if name.startswith("limit of")} == {
        f"limit of {zone}" for zone in ORIN_NANO_SUPER.throttles_at
    }


def test_throttling_is_a_warning_with_its_cause_and_what_helps(nano: BoardTree) -> None:
    nano.set_state("gpu-throttle-alert", 1)
    nano.set_state("cpufreq-cpu0", 2)
    found = findings_of(nano)["temperatures"]
    assert found.state == "warning"
    assert "the board throttles (heat: gpu-throttle-alert 1 of 2; power cap: cpufreq-cpu0 2 of 2)" in found.detail
    assert found.remedy == "cool it better; find what holds the clocks down: no zone is near its limit"


def test_board_with_over_current_counters_is_read_until_their_rate_is_known(nano: BoardTree) -> None:
    sample, _ = read_once(SYSFS, clock=SystemClock(), sysfs_root=nano.root)
    assert sample is not None
    assert sample.over_current_hz == {"oc1": 0.0, "oc2": 0.0, "oc3": 0.0}
    assert sample.is_throttling is False


def limit_of_gpu(tree: BoardTree, **governor: float) -> Finding:
    config = SYSFS.model_copy(update={"governor": GovernorConfig.model_validate(governor)})
    found = {finding.name: finding for finding in heat.heat_findings(config, sysfs_root=tree.root)}
    return found["limit of gpu"]


@pytest.mark.parametrize(
    ("governor", "says", "remedy"),
    [
        ({"hard_celsius": 35.0}, "°C now, which is not below the hard limit 35: inference pauses", "hard_celsius"),
        ({"soft_celsius": 35.0}, "°C now, which is not below the soft limit 35: the rate is cut", "soft_celsius"),
        (
            {"soft_celsius": 115.0},
            "soft_celsius 115 is not below the hard limit 98.5, so 97.5 is used",
            "set thermal.governor.soft_celsius to 97.5 or less",
        ),
    ],
)
def test_limit_that_acts_at_once_or_is_lowered_is_a_warning_with_both_figures(
    nano: BoardTree, governor: dict[str, float], says: str, remedy: str
) -> None:
    found = limit_of_gpu(nano, **governor)
    assert found.state == "warning"
    assert says in found.detail
    assert remedy in found.remedy


def test_fixed_limits_above_the_temperature_are_good(nano: BoardTree) -> None:
    assert limit_of_gpu(nano, soft_celsius=90.0, hard_celsius=97.0).state == "ok"


def test_board_without_a_passive_trip_point_says_that_it_is_a_default(tmp_path: Path) -> None:
    with tree_of(THOR, tmp_path / "sys") as tree:
        detail = findings_of(tree)["limit of tj"].detail
    assert detail.startswith(
        "clocks fall at 109 °C (no trip point lowers clocks: 5.5 K below the critical one at 114.5"
    )
