"""The command as a process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from agent.demo import demo_package
from tests.fixtures.benchmark_reports import machine_report

QUICK = ("--quick", "--engines", "ort-cpu", "--precisions", "fp32", "--rounds", "2", "--fps", "200")


def _agent(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", "benchmark", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "STATE_DIRECTORY": str(home)},
    )


def test_quick_run_writes_every_form_and_its_exit_code_is_its_verdict(tmp_path: Path) -> None:
    files = [f"--output={tmp_path / f'report.{kind}'}" for kind in ("json", "html", "md", "png")]
    done = _agent(*QUICK, *files, home=tmp_path / "state")
    report = json.loads((tmp_path / "report.json").read_text())
    assert done.returncode == (1 if report["invalid"] else 0), done.stderr
    assert report["schema"] == "benchmark/1"
    assert [engine["name"] for engine in report["engines"]] == ["ort-cpu", "bare"]
    assert "ort-cpu fp32 has p50" in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "report.md").read_text().startswith("# Benchmark of conveyor")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")

    same = _agent("compare", str(tmp_path / "report.json"), str(tmp_path / "report.json"), home=tmp_path / "state")
    # On a busy machine the figures are not valid, which is a failure of its own.
    assert same.returncode == (1 if "is not valid" in same.stdout else 0), same.stderr
    assert "same" in same.stdout
    gate = ("compare", str(tmp_path / "report.json"), str(tmp_path / "report.json"), "--fail-if", "p50_ms>0.000001")
    assert _agent(*gate, home=tmp_path / "state").returncode == 1


@pytest.mark.timeout(150)
def test_each_of_several_packages_gets_a_report_of_its_own(tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(demo_package(), second)
    manifest = second / "model.yaml"
    manifest.write_text(manifest.read_text().replace("version: 1.0.0", "version: 1.0.1"))
    arguments = (
        *QUICK,
        "--package",
        "demo",
        "--package",
        str(second),
        f"--output={tmp_path / 'now.csv'}",
        "--one-line",
    )
    done = _agent(*arguments, home=tmp_path / "state")
    assert done.returncode in {0, 1}, done.stderr
    for version in ("1.0.0", "1.0.1"):
        lines = (tmp_path / f"now-conveyor-{version}.csv").read_text().splitlines()
        assert lines[0].startswith("Concurrency,Inferences/Second,")
        assert any(",ort-cpu fp32,paced 200 fps," in line for line in lines)
    assert done.stdout.count("[ort-cpu fp32, paced 200 fps] mean=") == 2
    assert done.stdout.count("[ort-cpu fp32, closed] mean=") == 2
    assert ("not valid: " in done.stderr) == (done.returncode == 1)


@pytest.mark.timeout(150)
def test_package_that_fails_does_not_keep_the_next_from_being_measured(tmp_path: Path) -> None:
    """Its known answers are wrong, so that no engine opens it."""
    broken = tmp_path / "broken"
    shutil.copytree(demo_package(), broken)
    manifest = broken / "model.yaml"
    text = manifest.read_text().replace("version: 1.0.0", "version: 0.0.1")
    text = re.sub(r"package_sha256: \w+\n", "", text)
    manifest.write_text(re.sub(r"label: \w+", "label: ok", text))
    arguments = (
        *QUICK,
        "--package",
        str(broken),
        "--package",
        "demo",
        f"--output={tmp_path / 'now.csv'}",
        "--one-line",
    )
    done = _agent(*arguments, home=tmp_path / "state")
    assert done.returncode == 69, done.stderr
    assert f"error: {broken}: no engine could be measured for conveyor" in done.stderr
    assert "[ort-cpu fp32, closed] mean=" in done.stdout
    assert [path.name for path in tmp_path.glob("*.csv")] == ["now-conveyor-1.0.0.csv"]


@pytest.mark.timeout(150)
def test_pipeline_reaches_a_real_subscriber(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ("--quick", "--scenario", "pipeline", "--engines", "ort-cpu", "--precisions", "fp32", "--fps", "60")
    done = _agent(*arguments, "--size", "320x240", "--one-line", f"--output={path}", home=tmp_path / "state")
    assert done.returncode == 0, done.stderr
    assert re.search(r"results/s from 1 camera\(s\), pattern 320x240, ort-cpu fp32", done.stdout)
    (result,) = json.loads(path.read_text())["pipelines"]
    assert result["results"] > 30
    assert result["lost_on_the_way"] == 0
    assert {row["stage"] for row in result["stages"]} >= {"capture", "queue", "preprocess", "infer", "decide"}
    assert result["bare"]["n"] >= 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--scenario", "server"), "there is no scenario 'server'; there are latency"),
        (("--precisions", "int4"), "there is no precision 'int4'; there are fp32, fp16, int8"),
        (("--batch", "0"), "is no list of batch sizes"),
        (("--batch", "²"), "is no list of batch sizes"),
        (("--size", "1²8x720"), "is no size from 16x16"),
        (("--output", "/tmp"), "no form of the report has the extension (none)"),
        (("--output", "report.pdf"), "Name the file with one of .json, .html, .md, .png, .csv"),
        (("--json", "--one-line"), "--json and --one-line both choose what is printed"),
        (("--quick", "--full"), "--quick and --full both choose the length"),
        (("--fps", "nan"), "it needs a decimal number, but is 'nan'"),
        (("--scenario", "pipeline", "--clip", "/nowhere.mp4"), "there is no file /nowhere.mp4"),
        (("--scenario", "pipeline", "--clip", __file__), "cannot be opened as a video"),
        (("--fail-if", "p99_ms>+10%"), "--fail-if needs --baseline"),
        (("--baseline", "none.json"), "cannot be read"),
        (("--output", "/nowhere/at/all.json"), "there is no folder /nowhere/at"),
        (("--python", "torch=/nowhere"), "is not ENGINE=PATH"),
        (("--option", "threads"), "is not NAME=VALUE"),
        (("--package", "demo", "--package", "demo"), "two packages have the same name and version"),
        (("--package", "demo", "--package", "other", "--apply", "a.yaml", "--model", "m"), "--model is one model"),
        (("--option", "threads=1", "--apply", "agent.yaml"), "--apply does not write options"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = _agent(*arguments, home=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def _kept_in(state: Path) -> set[str]:
    """The folders of ``state`` with files in them."""
    return {path.parent.name for path in state.rglob("*") if path.is_file()}


def test_inputs_are_read_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "images/no such label").mkdir(parents=True)
    shutil.copy(next((demo_package() / "golden").iterdir()), tmp_path / "images/no such label")
    done = _agent("--images", str(tmp_path / "images"), home=tmp_path / "state")
    assert done.returncode == 78
    assert "is in a folder named 'no such label'" in done.stderr
    (tmp_path / "agent.yaml").write_text(
        "version: 1\nmodels: {other: {package: other}}\n"
        "cameras: {front: {source: {type: pattern}, classify: [{model: other}]}}\n"
        "mqtt: {broker: mqtt://127.0.0.1:1883}\n"
    )
    done = _agent("--apply", str(tmp_path / "agent.yaml"), home=tmp_path / "state")
    assert done.returncode == 2
    assert "no model in" in done.stderr
    assert _kept_in(tmp_path / "state") <= {"checked_packages"}, "nothing was measured"


@pytest.mark.timeout(150)
def test_json_on_standard_output_is_the_report_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = _agent(*QUICK, "--json", f"--output={path}", home=tmp_path / "state")
    printed = json.loads(done.stdout)
    assert printed == json.loads(path.read_text())
    assert done.returncode == (1 if printed["invalid"] else 0), done.stderr
    compared = _agent("compare", str(path), str(path), "--json", "--fail-if", "p50_ms>0.000001", home=tmp_path)
    found = json.loads(compared.stdout)
    assert (compared.returncode, found["failed"]) == (1, True)
    assert {line["verdict"] for line in found["lines"]} == {"same"}
    assert found["lines"][0]["p50_ratio"]["value"] == 1.0


def test_png_without_its_library_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """Python treats a None among the modules as one that cannot be found."""
    hide = "import sys; sys.modules['matplotlib'] = None; from agent.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", hide, "benchmark", "--output", str(tmp_path / "report.png")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")},
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert "a PNG chart needs matplotlib, which cannot be imported" in done.stderr
    assert "pip install matplotlib" in done.stderr
    assert _kept_in(tmp_path / "state") <= {"checked_packages"}, "nothing was measured"


def test_report_outlives_a_baseline_that_cannot_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(machine_report(3.0, seed=1).as_json())
    done = _agent(*QUICK, f"--baseline={path}", f"--output={path}", home=tmp_path / "state")
    assert done.returncode == 2
    assert "the reports are of different environments" in done.stderr
    assert "ort-cpu fp32 has p50" in done.stdout
    assert json.loads(path.read_text())["model"]["name"] == "conveyor"


def test_broken_package_is_told_before_the_one_before_it_is_measured(tmp_path: Path) -> None:
    done = _agent("--package", "demo", "--package", "/nowhere", home=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("error: /nowhere is not a model package directory")


def test_engine_that_cannot_run_is_told_with_its_remedy(tmp_path: Path) -> None:
    done = _agent("--quick", "--engines", "ort-tensorrt", home=tmp_path)
    assert done.returncode == 69
    assert "no engine could be measured for conveyor" in done.stderr
    assert "to get it, use a machine with an NVIDIA GPU" in done.stderr or "to get it, install" in done.stderr


def test_terminated_run_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent", "benchmark", "--engines", "ort-cpu", "--precisions", "fp32"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "STATE_DIRECTORY": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"measuring"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.terminate()
        assert process.wait(30.0) == 130
    _, alive = psutil.wait_procs(children, timeout=10.0)
    assert alive == []
