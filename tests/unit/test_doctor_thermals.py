"""`agent doctor --thermals`: the kept minutes, drawn and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from agent.runtime.errors import Unavailable
from agent.thermal.minutes import FILE_NAME, DayOfHeat, Minute, MinuteFile
from agent.tools.doctor.thermals import as_json, day_of_heat, render

START = 1_800_000_000


def minute(number: int, **changes: object) -> Minute:
    usual = Minute(
        utc_s=START + 60 * number,
        max_celsius=50.0 + number % 40,
        rate_ratio=0.4,
        clock_ratio=1.0,
        watts=12.0,
        throttled_s={"heat": 0, "over_current": 0, "power_cap": 0},
        seen_s=60,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]  # the changes are of the fields' types


def drawn(day: DayOfHeat, width: int = 140) -> str:
    console = Console(width=width, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(render(day, width=width))
    return capture.get()


def test_day_is_drawn_with_temperature_rate_throttling_and_power() -> None:
    minutes = [minute(number) for number in range(1440)]
    minutes[700] = minute(700, throttled_s={"heat": 0, "over_current": 42, "power_cap": 0})
    text = drawn(DayOfHeat(tuple(minutes)))
    temperature, rate, power = (
        next(line for line in text.splitlines() if line.startswith(name)) for name in ("temperature", "rate", "power")
    )
    assert "64 to 89 °C" in temperature
    assert "40 to 40 %" in rate
    assert "12 to 12 W" in power
    assert "throttled, over current" in text
    assert "0 to 42 s/min" in text
    assert "throttled, heat" not in text
    assert "1440 minutes, the board throttled for 42 s of them" in text
    assert all(len(line) <= 140 for line in text.splitlines())


def test_time_without_the_agent_is_a_gap() -> None:
    text = drawn(DayOfHeat(tuple(minute(number) for number in (*range(10), *range(50, 60)))))
    rate = next(line for line in text.splitlines() if line.startswith("rate"))
    assert " " * 30 in rate.split("40 to")[0]


@pytest.mark.parametrize("count", [1, 2, 59])
def test_short_time_is_drawn_with_a_cell_for_each_minute(count: int) -> None:
    text = drawn(DayOfHeat(tuple(minute(number) for number in range(count))))
    rate = next(line for line in text.splitlines() if line.startswith("rate"))
    assert sum(char in "▁▂▃▄▅▆▇█" for char in rate) == count


def test_narrow_terminal_gets_fewer_cells() -> None:
    text = drawn(DayOfHeat(tuple(minute(number) for number in range(1440))), width=60)
    assert all(len(line) <= 60 for line in text.splitlines())
    assert "rate" in text


def test_nothing_that_is_not_known_is_drawn() -> None:
    text = drawn(DayOfHeat((minute(0, max_celsius=None, watts=None),), left_out=3))
    assert "temperature" not in text
    assert "power" not in text
    assert "3 more are damaged or of another day's clock" in text


def test_no_minute_is_said_in_words() -> None:
    assert "No minute has been kept yet" in drawn(DayOfHeat(()))


def test_damaged_file_is_not_called_a_young_one() -> None:
    text = drawn(DayOfHeat((), left_out=1439))
    assert "No minute can be read: 1439 are damaged" in text
    assert "No minute has been kept" not in text


def test_json_has_every_minute_with_nulls_for_what_is_not_known() -> None:
    document = json.loads(as_json(DayOfHeat((minute(0), minute(1, watts=None)), left_out=1)))
    assert document["left_out"] == 1
    assert document["minutes"][0] == {
        "at": "2027-01-15T08:00:00Z",
        "max_celsius": 50.0,
        "min_rate_ratio": 0.4,
        "min_clock_ratio": 1.0,
        "mean_watts": 12.0,
        "throttled_s": {"heat": 0, "over_current": 0, "power_cap": 0},
        "seen_s": 60,
    }
    assert document["minutes"][1]["mean_watts"] is None


def told(*options: str) -> str:
    command = [sys.executable, "-m", "agent", "doctor", "--thermals", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_command_reads_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    MinuteFile(tmp_path / FILE_NAME).append(minute(0))
    assert len(json.loads(told("--json"))["minutes"]) == 1
    assert "50 to 50 °C" in told()


def test_bundle_that_would_not_be_written_is_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar.gz"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        told("--bundle", str(bundle))
    assert refused.value.returncode == 2
    assert f"the bundle {bundle} would not be written. Run it twice" in refused.value.stderr
    assert not bundle.exists()


def test_file_that_cannot_be_read_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(Unavailable, match=r"cannot be read: .*Run this as the user of the agent"):
        day_of_heat(tmp_path)
