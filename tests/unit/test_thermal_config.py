"""The section `thermal` of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from agent.config.sections.thermal import ThermalConfig

DEMO = Path(__file__).parents[2] / "configs/thermal-demo.yaml"


def test_everything_has_a_default() -> None:
    config = ThermalConfig()
    assert (config.source, config.interval_s) == ("auto", 1.0)
    assert config.governor.enabled
    assert config.governor.soft_celsius == "auto"
    assert config.governor.min_rate_ratio == 0.1
    assert config.governor.power_budget_watts is None


@pytest.mark.parametrize(
    "section",
    [
        {"source": "tegrastats"},
        {"interval_s": 0.0},
        {"interval_s": 60.0},
        {"jtop_python": ""},
        {"unknown": 1},
        {"governor": {"soft_celsius": "cool"}},
        {"governor": {"soft_celsius": 20.0}},
        {"governor": {"soft_celsius": 90.0, "hard_celsius": 90.5}},
        {"governor": {"margin_celsius": 1.0}},
        {"governor": {"min_rate_ratio": 0.0}},
        {"governor": {"recover_after_s": 10.0}},
        {"governor": {"power_budget_watts": -5.0}},
        {"simulated": {"board": "nano"}},
        {"simulated": {"ambient_celsius": 80.0}},
        {"simulated": {"speed": 0.0}},
    ],
    ids=str,
)
def test_value_out_of_range_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ThermalConfig.model_validate(section)


def test_limits_that_disagree_are_named() -> None:
    with pytest.raises(ValidationError, match=r"hard_celsius 85.0 must be at least 1 above soft_celsius 90.0"):
        ThermalConfig.model_validate({"governor": {"soft_celsius": 90.0, "hard_celsius": 85.0}})


def test_demo_configuration_runs_on_the_simulated_board() -> None:
    section = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["thermal"]
    config = ThermalConfig.model_validate(section)
    assert config.source == "simulated"
    assert config.governor.enabled
