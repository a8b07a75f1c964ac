"""Which engine a measurement chooses, and until when that is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import EngineOptions, Measurement, ModelPackage, Rejection, describe, load_package
from engines.choices import ChoiceMemory, choice_from, choice_key, measure, percentile_ms
from tests.conformance.broken_engines import GoodEngine
from tests.fixtures.colour_packages import write_colour_package


def _measured(engine: str, p50_ms: float, p90_ms: float) -> Measurement:
    return Measurement(engine=engine, precision="fp32", runs=64, p50_ms=p50_ms, p90_ms=p90_ms)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("package"), calibration=0))


def test_the_lowest_median_wins_whatever_the_order() -> None:
    rows = [_measured("a", 3.0, 3.1), _measured("b", 2.0, 4.0), _measured("c", 2.5, 2.6)]
    assert [one.engine for one in choice_from(rows).measurements] == ["b", "c", "a"]


def test_medians_within_two_percent_are_told_apart_by_the_tail() -> None:
    assert choice_from([_measured("a", 2.00, 5.0), _measured("b", 2.03, 2.1)]).engine == "b"


def test_every_loser_is_told_by_how_much() -> None:
    choice = choice_from([_measured("a", 2.0, 2.2), _measured("b", 3.5, 3.9)], [Rejection("c", "absent", "get it")])
    assert [one.engine for one in choice.rejections] == ["c", "b"]
    assert "p50 3.50 ms" in choice.rejections[1].reason
    assert "a has p50 2.00 ms" in choice.rejections[1].reason


def test_engines_are_measured_often_enough_and_each_as_often(package: ModelPackage) -> None:
    engines = {name: GoodEngine(max_batch=1, side=32) for name in ("a", "b")}
    rows = measure(dict(engines), package)
    assert [one.engine for one in rows] == ["a", "b"]
    assert {one.runs for one in rows} == {64}
    assert all(0 < one.p50_ms <= one.p90_ms for one in rows)


def test_a_choice_survives_the_disk(tmp_path: Path) -> None:
    memory = ChoiceMemory(tmp_path)
    assert not memory.is_used()
    choice = choice_from([_measured("a", 2.0, 2.2)], [Rejection("c", "absent", "get it")])
    memory.save({"model": "x"}, choice)
    assert memory.is_used()
    assert memory.load({"model": "x"}) == choice
    assert memory.load({"model": "y"}) is None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"choice": {}}', '{"choice": {"engine": "a", "measured_at": "", "measurements": []}}']
)
def test_a_damaged_choice_is_measured_again(tmp_path: Path, content: str) -> None:
    memory = ChoiceMemory(tmp_path)
    memory.save({}, choice_from([_measured("a", 2.0, 2.2)]))
    next((tmp_path / "choices").glob("*.json")).write_text(content)
    assert memory.load({}) is None


def test_another_power_mode_version_or_device_is_another_choice(package: ModelPackage, tmp_path: Path) -> None:
    here = describe()
    options = EngineOptions(cache_dir=tmp_path)
    elsewhere = [
        replace(here, power_mode="1"),
        replace(here, onnxruntime="9.9"),
        replace(here, tensorrt="11.0"),
        replace(here, driver="999"),
        replace(here, cpu="another", gpus=()),
        replace(here, cpu_cores=here.cpu_cores + 1),
    ]
    keys = {json.dumps(choice_key(package, options, one), sort_keys=True) for one in [here, here, *elsewhere]}
    assert len(keys) == 1 + len(elsewhere)


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_measured_time_that_enough_others_do_not_exceed(times: list[int], ratio: float) -> None:
    ordered = sorted(times)
    value = percentile_ms(ordered, ratio) * 1e6
    nearest = min(ordered, key=lambda one: abs(one - value))
    assert sum(one <= nearest for one in ordered) >= ratio * len(ordered) - 1e-6
    assert sum(one < nearest for one in ordered) < ratio * len(ordered) + 1e-6
