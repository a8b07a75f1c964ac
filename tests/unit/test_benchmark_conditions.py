"""What a benchmark notes of the machine's heat while it measures."""

from __future__ import annotations

from dataclasses import replace

from agent.thermal.sensors.base import ThrottleCause
from agent.tools.benchmark.conditions import Conditions, ConditionsWatch, Window
from tests.fixtures.thermal_samples import ScriptedSensor, sample


def conditions(*causes: dict[ThrottleCause, str]) -> Conditions:
    """Those of a window that begins with the first of ``causes`` and ends with the last."""
    sensor = ScriptedSensor()
    watch = ConditionsWatch(sensor)
    moments = []
    for each in causes:
        seen = replace(sample(1, gpu=60.0), throttle_states={"gpu-throttle-alert": 0}, throttle_causes=each)
        sensor.sample = replace(seen, hints={"hot-surface-alert": 1})
        moments.append(watch.look())
    return watch.over([Window(moments[0].at_ns, moments[-1].at_ns, 0.0, moments[0], moments[-1])])


def test_throttling_at_any_moment_is_kept_with_its_cause() -> None:
    found = conditions({"over_current": "oc3 +41 events/s"}, {"heat": "gpu-throttle-alert"})
    assert found.has_throttled is True
    assert found.throttle_causes == {"over_current": "oc3 +41 events/s", "heat": "gpu-throttle-alert"}


def test_alert_of_the_hot_case_does_not_mark_a_run() -> None:
    found = conditions({}, {})
    assert (found.has_throttled, found.throttle_causes) == (False, {})
