"""Which engine a measurement selects, and until when that selection is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from engines import EngineOptions, Gpu, Images, Measurement, ModelPackage, Rejection, Scores, describe, load_package
from engines.graph.int8_forms import SYMMETRIC, int8_form
from engines.package.specs import OutputSpec
from engines.select.selection import SelectionStore, measure, select_fastest, selection_key
from tests.conformance.broken_engines import GoodEngine
from tests.fixtures.colour_packages import write_colour_package


def _measured(engine: str, p50_ms: float, p90_ms: float) -> Measurement:
    return Measurement(engine=engine, precision="fp32", runs=64, p50_ms=p50_ms, p90_ms=p90_ms)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("package"), calibration=0))


def test_the_lowest_median_wins_in_any_order() -> None:
    rows = [_measured("a", 3.0, 3.1), _measured("b", 2.0, 4.0), _measured("c", 2.5, 2.6)]
    assert [one.engine for one in select_fastest(rows).measurements] == ["b", "c", "a"]


def test_medians_within_two_percent_are_decided_by_p90() -> None:
    assert select_fastest([_measured("a", 2.00, 5.0), _measured("b", 2.03, 2.1)]).engine == "b"


def test_every_slower_engine_is_rejected_with_its_figures() -> None:
    choice = select_fastest([_measured("a", 2.0, 2.2), _measured("b", 3.5, 3.9)], [Rejection("c", "absent", "get it")])
    assert [one.engine for one in choice.rejections] == ["c", "b"]
    assert "p50 3.50 ms" in choice.rejections[1].reason
    assert "a has p50 2.00 ms" in choice.rejections[1].reason


def test_every_engine_is_measured_equally_often(package: ModelPackage) -> None:
    engines = {name: GoodEngine(max_batch=1, side=32) for name in ("a", "b")}
    rows = measure(dict(engines), package)
    assert [one.engine for one in rows] == ["a", "b"]
    assert {one.runs for one in rows} == {64}
    assert all(0 < one.p50_ms <= one.p90_ms for one in rows)


@pytest.mark.parametrize(
    ("asked", "limits", "given"), [(4, (4, 4), 4), (4, (4, 2), 2), (1, (4, 4), 1), (8, (4, 4), 4)]
)
def test_engines_are_measured_with_the_batch_that_they_will_serve(
    asked: int, limits: tuple[int, int], given: int, package: ModelPackage
) -> None:
    seen: set[int] = set()

    class Watched(GoodEngine):
        def answer(self, batch: Images) -> Scores:
            seen.add(len(batch))
            return super().answer(batch)

    engines = {str(place): Watched(max_batch=limit, side=32) for place, limit in enumerate(limits)}
    rows = measure(dict(engines), package, batch=asked, runs=4)
    assert seen == {given}
    assert {one.batch for one in rows} == {given}


@pytest.mark.parametrize(("days", "is_aged"), [(0, False), (29.9, False), (30.1, True), (-400, False)])
def test_a_measurement_ages_in_30_days_and_not_by_a_clock_that_was_set_back(days: float, is_aged: bool) -> None:
    choice = select_fastest([_measured("a", 2.0, 2.2)])
    now = datetime.fromisoformat(choice.measured_at) + timedelta(days=days)
    assert choice.is_aged(now) is is_aged


def test_a_selection_is_read_as_it_was_saved(tmp_path: Path) -> None:
    memory = SelectionStore(tmp_path)
    assert not memory.is_used()
    choice = select_fastest([_measured("a", 2.0, 2.2)], [Rejection("c", "absent", "get it")])
    memory.save({"model": "x"}, choice)
    assert memory.is_used()
    assert memory.load({"model": "x"}) == choice
    assert memory.load({"model": "y"}) is None


@pytest.mark.parametrize(
    "value", ["", "[]", "{}", '{"engine": "a", "measured_at": "", "measurements": [], "unmeasured": []}', "7"]
)
def test_a_damaged_selection_is_measured_again(tmp_path: Path, value: str) -> None:
    memory = SelectionStore(tmp_path)
    memory.save({}, select_fastest([_measured("a", 2.0, 2.2)]))
    next((tmp_path / "selections").glob("*.json")).write_text('{"form": 1, "facts": {}, "value": ' + value + "}")
    assert memory.load({}) is None


def test_a_different_power_mode_version_or_device_has_its_own_selection(package: ModelPackage, tmp_path: Path) -> None:
    here = describe()
    options = EngineOptions(cache_dir=tmp_path)
    elsewhere = [
        replace(here, power_mode="1"),
        replace(here, onnxruntime="9.9"),
        replace(here, tensorrt="11.0"),
        replace(here, driver="999"),
        replace(here, cpu="another", gpus=()),
        replace(here, gpus=(Gpu("Orin", "8.7", 8 << 30, integrated=True, multiprocessors=8),)),
        replace(here, gpus=(Gpu("Orin", "8.7", 64 << 30, integrated=True, multiprocessors=16),)),
        replace(here, cpu_cores=here.cpu_cores + 1),
    ]
    keys = {json.dumps(selection_key(package, options, one), sort_keys=True) for one in [here, here, *elsewhere]}
    assert len(keys) == 1 + len(elsewhere)


@pytest.mark.parametrize(
    "change",
    [{"precision": "fp16"}, {"precision": "int8"}, {"max_batch": 4}, {"options": {"threads": 1}}, {"workers": 2}],
)
def test_different_options_have_their_own_selection(
    change: dict[str, object], package: ModelPackage, tmp_path: Path
) -> None:
    here = replace(describe(), cpu_cores=4)
    options = EngineOptions(cache_dir=tmp_path)
    changed = replace(options, **change)  # type: ignore[arg-type]  # its own fields
    assert selection_key(package, changed, here) != selection_key(package, options, here)


def test_different_preprocessing_activation_or_calibration_has_its_own_selection(tmp_path: Path) -> None:
    here, options = describe(), EngineOptions(cache_dir=tmp_path, precision="int8")
    package = load_package(write_colour_package(tmp_path / "package", calibration=4))
    others = [
        replace(package, digest="0" * 64),
        replace(package, input=replace(package.input, scale=2.0)),
        replace(package, output=OutputSpec(activation="sigmoid")),
        replace(package, calibration=package.calibration[:-1]),
    ]
    keys = {json.dumps(selection_key(one, options, here), sort_keys=True) for one in [package, package, *others]}
    assert len(keys) == 1 + len(others)


def test_an_int8_selection_depends_on_the_int8_form_of_each_engine(tmp_path: Path) -> None:
    """Another form has other timings."""
    package = load_package(write_colour_package(tmp_path / "package", calibration=4))
    key = selection_key(package, EngineOptions(cache_dir=tmp_path, precision="int8"), describe())
    conversion = key["conversion"]
    assert isinstance(conversion, dict)
    assert conversion["forms"]["tensorrt"] == SYMMETRIC.label
    assert conversion["forms"]["ort-cpu"] == int8_form("ort-cpu").label
    assert {"converter", "onnx", "images"} <= set(conversion)
