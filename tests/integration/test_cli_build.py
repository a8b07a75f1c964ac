"""`agent build` as a process, on fakes of TensorRT and CUDA."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.colour_packages import write_colour_package
from tests.fixtures.nvidia import FakeNvidia


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_package(tmp_path_factory.mktemp("package"))


def _build(directory: Path, nvidia: FakeNvidia, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with AgentProcess(directory, "build", *arguments, env=nvidia.environment()) as agent:
        return agent.wait(), agent.stdout, agent.stderr


def test_a_plan_is_built_shown_used_again_and_pruned(tmp_path: Path, nvidia: FakeNvidia, package: Path) -> None:
    where = ("--cache", str(tmp_path / "cache"))
    what = ("--package", str(package), "--precision", "fp16", *where)
    code, out, err = _build(tmp_path, nvidia, *what)
    assert code == 0, err
    assert "colours-1.0.0: tensorrt fp16 for Orin: built (it was not in the cache)" in out
    assert "agreement with ort-cpu fp32 1.0000 on 36 images (with 95 % confidence at least 0.93" in out
    assert "degraded: fp16 is not proven: it was compared on 36 images, but 88 are needed" in out
    assert f"cache: {tmp_path / 'cache'}\n" in out
    assert "engine.building" in err
    code, out, _ = _build(tmp_path, nvidia, *what)
    assert "from the cache" in out
    code, out, _ = _build(
        tmp_path, nvidia, "--package", str(package), "--precision", "fp16", "--force", "--json", *where
    )
    assert json.loads(out)[0]["details"]["why_built"] == "a new build was requested"
    code, out, _ = _build(tmp_path, nvidia, "--list", *where)
    assert [word in out for word in ("colours-1.0.0", "10.3.0", "Orin", "fp16")] == [True] * 4
    code, out, _ = _build(tmp_path, nvidia, "--prune", "--json", *where)
    answer = json.loads(out)
    assert (len(answer["plans"]), len(answer["deleted"])) == (0, 1)
    code, out, _ = _build(tmp_path, nvidia, "--list", *where)
    assert code == 0
    assert "no plans in" in out


def test_a_configuration_is_built_with_its_own_settings(tmp_path: Path, nvidia: FakeNvidia, package: Path) -> None:
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "one"}, {"model": "two"}]}
    models = {
        "one": {"package": str(package), "engine": "auto", "batching": {"max_size": 2}, "options": {"threads": 1}},
        "two": {"package": str(package), "engine": "ort-cpu"},
    }
    path = write_config(tmp_path, {"models": models, "cameras": {"cam": camera}})
    code, out, err = _build(tmp_path, nvidia, "-c", str(path), "--json")
    assert code == 0, err
    (built,) = json.loads(out)
    assert (built["engine"], built["max_batch"]) == ("tensorrt", 2)
    code, out, _ = _build(tmp_path, nvidia, "--list", "-c", str(path), "--json")
    assert len(json.loads(out)["plans"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "either --package DIRECTORY"),
        (("--package", "demo", "-c", "x.yaml"), 2, "either --package DIRECTORY"),
        (("--package", "demo", "--option", "workspace"), 2, "NAME=VALUE"),
        (("--package", "demo", "--option", "workspace_mib=010"), 2, "octal"),
        (("--package", "demo", "--option", "tf32=no"), 2, "true or false"),
        (("--package", "demo", "--option", "x=[1,2"), 2, "not closed"),
        (("--package", "demo", "--option", "workspaces_mib=9"), 78, "did you mean workspace_mib"),
        (("--package", "no-such"), 78, "no-such"),
    ],
)
def test_contradicting_options_are_refused(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path, nvidia: FakeNvidia
) -> None:
    found, _, err = _build(tmp_path, nvidia, *arguments)
    assert (found, words in err) == (code, True), err


def test_without_a_gpu_it_says_so(tmp_path: Path, nvidia: FakeNvidia, package: Path) -> None:
    nvidia.set(devices=0)
    code, _, err = _build(tmp_path, nvidia, "--package", str(package), "--cache", str(tmp_path / "cache"))
    assert code == 69
    assert "tensorrt cannot run here: CUDA does not answer" in err


def test_a_failed_build_is_one_message(tmp_path: Path, nvidia: FakeNvidia, package: Path) -> None:
    nvidia.set(faults="no_plan")
    code, _, err = _build(tmp_path, nvidia, "--package", str(package), "--cache", str(tmp_path / "cache"))
    assert code == 69
    assert "Could not find any implementation" in err
    assert "Traceback" not in err
