"""Real engines in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from agent.demo import demo_package
from agent.tools.benchmark.conditions import ConditionsWatch
from agent.tools.benchmark.measure.assemble import engine_result, with_bare
from agent.tools.benchmark.measure.rounds import Plan, Progress, measure, open_session, prepare
from agent.tools.benchmark.measure.session import LIBRARIES, ChildFailed, Session
from agent.tools.benchmark.measure.target import Target
from agent.tools.benchmark.scenarios import Case

FP32 = Target(engine="ort-cpu", precision="fp32")
INT8 = Target(engine="ort-cpu", precision="int8")
BARE = Target(engine="ort-cpu", precision="fp32", kind="bare")
SHORT = Case(
    scenario="latency",
    mode="closed",
    batch=1,
    samples=1,
    min_duration_s=0.2,
    min_queries=20,
    headline="p90",
    is_short=True,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _plan(cache: Path, *targets: Target) -> Plan:
    return Plan(
        package_dir=demo_package(),
        cache_dir=cache,
        targets=targets,
        cases=(SHORT,),
        rounds=2,
        max_batch=2,
        pythons={"ort-cpu": sys.executable},
    )


def test_engines_are_measured_in_turns_and_held_against_the_bare_session(cache: Path) -> None:
    plan = _plan(cache, FP32, INT8, BARE)
    ready, absent = prepare(plan, Progress())
    assert set(ready) == set(plan.targets)
    assert absent == ()
    with ConditionsWatch() as watch:
        measured, failed = measure(plan, ready, watch, Progress())
        results = with_bare([engine_result(one, watch) for one in measured], [one.target for one in measured])
    assert failed == ()
    assert [result.label for result in results] == ["ort-cpu fp32", "ort-cpu int8", "bare session fp32"]
    fp32, int8, bare = results
    assert fp32.cases[0].to_bare == pytest.approx(fp32.cases[0].spread.p50_ms / bare.cases[0].spread.p50_ms)
    assert int8.cases[0].to_bare is None
    assert int8.accuracy_check is not None
    assert int8.accuracy_check["passed"] is True
    for result in results:
        case = result.cases[0]
        assert case.spread.n >= 20
        assert len(case.rounds_ms) == 2
        assert case.throughput_hz > 0
        assert case.cpu_ms_per_image > 0
        assert result.peak_bytes > result.own_bytes > 0


def test_what_cannot_run_is_absent_with_reason_and_remedy(cache: Path) -> None:
    fp16 = Target(engine="ort-cpu", precision="fp16")
    tensorrt = Target(engine="ort-tensorrt", precision="fp32")
    orphan = Target(engine="ort-cpu", precision="fp16", kind="bare")
    ready, absent = prepare(_plan(cache, fp16, tensorrt, orphan), Progress())
    assert ready == {}
    assert [(one.engine, one.precision) for one in absent] == [("ort-cpu", "fp16"), ("ort-tensorrt", "fp32")]
    assert all(one.reason and one.remedy for one in absent)


def test_child_that_dies_says_its_last_words(cache: Path) -> None:
    with Session(FP32, python="/bin/false") as session, pytest.raises(ChildFailed, match="ended with code 1"):
        session.ask({"do": "open"}, timeout_s=10.0)
    assert cache.is_dir()


def test_environment_without_a_library_is_told_what_to_install(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    python = str(tmp_path / "bare/bin/python")
    with Session(FP32, python=python) as session, pytest.raises(ChildFailed, match="ModuleNotFoundError") as failed:
        session.ask({"do": "open"}, timeout_s=30.0)
    assert failed.value.fields["remedy"] == (
        f"give that environment what the agent needs: {python} -m pip install {' '.join(LIBRARIES)}"
    )


def test_libraries_to_install_are_those_that_the_child_imports() -> None:
    """The child without its engine: each package that it loads, less what those packages need themselves."""
    code = (
        "import json, sys; from importlib.metadata import packages_distributions; before = {*sys.modules};"
        "import agent.tools.benchmark.measure.child;"
        "known, names = packages_distributions(), {*sys.modules} - before;"
        "print(json.dumps([one for name in names for one in known.get(name.split('.')[0], [])]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.lower() for name in json.loads(done.stdout)} - {"edge-inference-agent"}
    of_pydantic = {"annotated-types", "pydantic_core", "typing-inspection", "typing_extensions"}
    # onnx is loaded when a graph is made.
    assert loaded - of_pydantic <= {name.lower() for name in LIBRARIES} - {"onnx"}


def test_labelled_images_give_top1(cache: Path, tmp_path: Path) -> None:
    for image in (demo_package() / "golden").iterdir():
        label = image.stem.rsplit("_", 1)[0]
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / image.name).write_bytes(image.read_bytes())
    with open_session(_plan(cache, FP32), FP32) as (session, _):
        answer = session.ask({"do": "accuracy", "folder": str(tmp_path)}, timeout_s=30.0)
    assert (answer["images"], answer["top1_ratio"]) == (10, 1.0)
