"""From the child's lines to samples; the lines were recorded from jetson-stats over an emulated Orin."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from agent.thermal.sensors.base import FanSample, GpuSample, MemorySample, ThermalSample
from agent.thermal.sensors.jtop_lines import sample_from_line, uptime_of
from agent.thermal.sensors.plausible import ZoneCheck
from tests.fixtures.thermal_samples import message_of

ORIN_NX: dict[str, Any] = {
    "kind": "sample",
    "uptime_s": 1893.74,
    "temperature": {
        "cpu": {"temp": 48.5, "online": True},
        "gpu": {"temp": -256, "online": False},
        "nvme Composite": {"temp": 38.85, "max": 84.8, "crit": 84.8, "online": True},
    },
    "power": {
        "rail": {
            "VDD_CPU_GPU_CV": {"volt": 5000, "curr": 700, "power": 3500, "online": True, "avg": 3500},
            "VDD_SOC": {"volt": 5000, "curr": 400, "power": 2000, "online": True, "avg": 2000},
        },
        "tot": {"volt": 5000, "curr": 1900, "power": 9500, "online": True, "avg": 9500, "name": "VDD_IN"},
    },
    "gpu": {"gpu": {"type": "integrated", "status": {"load": 25.0}, "freq": {"cur": 612000, "max": 918000}}},
    "memory": {"tot": 16_000_000, "used": 4_000_000, "free": 9_000_000},
    "fan": {"pwmfan": {"speed": [50.0], "rpm": [2400], "profile": "quiet"}},
    "power_mode": "MAXN",
}


def sample(**changes: object) -> ThermalSample:
    line = copy.deepcopy(ORIN_NX)
    line.update(changes)
    return sample_from_line(line, 7, ZoneCheck())


def test_every_field_of_jtop_arrives_in_our_units() -> None:
    seen = sample()
    assert seen.temperatures == {"cpu": 48.5, "nvme_composite": 38.85}
    assert seen.absent == {"gpu": "jtop says offline"}
    assert seen.power.rails == {"VDD_CPU_GPU_CV": 3.5, "VDD_SOC": 2.0, "VDD_IN": 9.5}
    assert (seen.power.total_watts, seen.power.total_meaning) == (9.5, "VDD_IN: the whole board")
    assert seen.gpu == GpuSample(load_ratio=0.25)
    assert seen.memory == MemorySample(total_bytes=16_384_000_000, used_bytes=4_096_000_000)
    assert seen.fans == {"pwmfan": FanSample(speed_ratio=0.5, rpm=2400.0)}
    assert seen.power_mode == "MAXN"
    assert (seen.source, seen.taken_at_ns) == ("jtop", 7)
    assert uptime_of(ORIN_NX) == 1893.74


def test_sum_of_rails_is_called_a_sum() -> None:
    power = {"rail": {"VDD_GPU_SOC": {"power": 4000}, "VDD_CPU_CV": {"power": 2000}}, "tot": {"power": 6000}}
    seen = sample(power=power)
    assert (seen.power.total_watts, seen.power.total_meaning) == (
        6.0,
        "sum of 2 rails: the module without what no rail measures",
    )


def test_supply_of_a_port_is_not_counted_beside_the_rails() -> None:
    port = {"ucsi-source-psy-2-0008:00": {"power": 9000}}
    power = sample(power={"rail": {"VDD_GPU_SOC": {"power": 4000}, **port}, "tot": {"power": 13000}}).power
    assert (power.rails, power.total_watts) == ({"VDD_GPU_SOC": 4.0}, 4.0)
    assert sample(power={"rail": port, "tot": {"power": 9000}}).power.total_watts is None


def test_board_without_power_sensor_has_no_total_and_not_zero() -> None:
    assert sample(power={}).power.total_watts is None
    assert sample(power={"rail": {}, "tot": {"power": 0, "avg": 0}}).power.total_watts is None


@pytest.mark.parametrize("garbage", [None, 5, "text", [1], {"x": 1}, {"x": None}, {"x": {"temp": "hot"}}])
@pytest.mark.parametrize("field", ["temperature", "power", "gpu", "memory", "fan", "power_mode", "uptime_s"])
def test_garbage_in_any_field_is_no_reading_and_no_error(field: str, garbage: object) -> None:
    line = {**ORIN_NX, field: garbage}
    seen = sample_from_line(line, 7, ZoneCheck())
    assert all(isinstance(celsius, float) for celsius in seen.temperatures.values())
    assert uptime_of(line) is None or field != "uptime_s" or garbage == 5


def test_negative_figures_are_none_and_the_message_can_be_sent() -> None:
    rails = {"VDD_CPU_GPU_CV": {"power": -8, "online": True}, "VDD_SOC": {"power": 2000, "online": True}}
    seen = sample(
        power={"rail": rails, "tot": {"power": -5, "name": "VDD_IN"}},
        memory={"tot": 16_000_000, "used": -1},
        fan={"pwmfan": {"speed": [50.0], "rpm": [-1]}},
    )
    assert (seen.power.rails, seen.power.total_watts) == ({"VDD_SOC": 2.0}, None)
    assert (seen.memory, seen.fans["pwmfan"]) == (None, FanSample(speed_ratio=0.5, rpm=None))
    assert message_of(seen).power.rails == {"VDD_SOC": 2.0}


def test_load_out_of_range_is_unknown() -> None:
    assert sample(gpu={"Thor": {"status": {"load": 250.0}}}).gpu.load_ratio is None
