"""The doctor's findings: what counts as needed, and what is said where something is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from agent.config.loader import LoadedConfig, load_config
from agent.runtime.errors import BrokerUnavailable
from agent.tools.doctor import checks
from agent.tools.doctor.findings import Finding, Report, Section, sections_from
from agent.tools.doctor.models import copied_cache, model_finding
from agent.tools.doctor.terminal import render
from engines import EnvironmentRecord, Gpu, ProbeResult
from tests.fixtures.agent_process import write_config
from tests.fixtures.colour_packages import write_colour_package

RECORD = EnvironmentRecord(
    board="NVIDIA Jetson Orin Nano", l4t="36.4.3", jetpack="6.2", power_mode="15W", os="Ubuntu 22.04", kernel="5.15",
    architecture="aarch64", python="3.10.12", cpu="ARMv8", cpu_cores=6,
    gpus=(Gpu(name="Orin", compute_capability="8.7", memory_bytes=8 << 30, integrated=True),),
    driver="540.4", cuda="12.6", tensorrt="broken: libnvinfer.so.10: cannot open", onnxruntime="1.23.2",
    onnxruntime_providers=("CPUExecutionProvider",), torch=None, numpy="1.26", opencv="4.11", onnx="1.17",
)  # fmt: skip

CPU = ProbeResult("ort-cpu", can_run=True, detail="ONNX Runtime 1.23.2")
NO_TRT = ProbeResult("tensorrt", can_run=False, reason="no NVIDIA driver", remedy="install JetPack")
NO_CPU = ProbeResult("ort-cpu", can_run=False, reason="not installed", remedy="install the extra")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_the_runtime_names_what_is_there_absent_and_broken() -> None:
    found = by_name(list(checks.runtime_findings(RECORD)))
    assert found["torch"].state == "absent"
    assert found["tensorrt"].state == "warning"
    assert "libnvinfer.so.10" in found["tensorrt"].detail
    assert "compute capability 8.7, shared memory" in found["gpu"].detail
    assert "L4T 36.4.3" in found["system"].detail
    without = by_name(list(checks.runtime_findings(replace(RECORD, gpus=()))))
    assert without["gpu"].state == "absent"


def test_an_opencv_that_does_not_load_fails_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = checks.opencv_finding("4.11", "broken_cv2")
    assert (finding.state, finding.is_needed) == ("failed", True)
    assert "libGL.so.1" in finding.detail
    assert checks.opencv_finding("4.11").detail == "4.11"
    assert checks.opencv_finding(None).state == "ok"


def test_an_engine_that_nobody_needs_is_absent_and_not_failed() -> None:
    found = by_name(list(checks.engine_findings([NO_TRT, CPU])))
    assert (found["tensorrt"].state, found["tensorrt"].remedy) == ("absent", "install JetPack")
    assert found["ort-cpu"].state == "ok"
    assert "any engine" not in found


def test_without_any_engine_nothing_can_run() -> None:
    found = by_name(list(checks.engine_findings([NO_TRT, NO_CPU])))
    assert found["any engine"].state == "failed"
    assert found["any engine"].is_needed


def _loaded(folder: Path, **model: object) -> LoadedConfig:
    """A configuration with one camera on the model `colours`, whose package is written to ``folder``."""
    package = write_colour_package(folder, calibration=0)
    config = {
        "models": {"colours": {"package": str(package), "engine": "ort-cpu", **model}},
        "cameras": {"front": {"source": {"type": "pattern"}, "classify": [{"model": "colours"}]}},
        "mqtt": {"broker": "embedded"},
    }
    return load_config(write_config(folder, config), environ={})


def _finding(loaded: LoadedConfig) -> Finding:
    with copied_cache(loaded.state_dir) as cache_dir:
        return model_finding("colours", loaded, cache_dir)


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        ("auto", {"thread": 4}, "no engine that auto may choose has an option 'thread'"),
        ("ort-cpu", {"thread": 4}, "did you mean threads?"),
        ("ort-cpu", {"threads": "many"}, "'many', but a whole number is needed"),
    ],
)
def test_options_that_the_engine_would_refuse_are_told_with_their_line(
    tmp_path: Path, engine: str, options: dict[str, object], words: str
) -> None:
    finding = _finding(_loaded(tmp_path, engine=engine, options=options))
    assert (finding.state, finding.is_needed) == ("failed", True)
    assert words in finding.detail
    assert "agent.yaml:" in finding.detail


def test_a_broken_package_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path)
    (loaded.package_dir("colours") / "model.onnx").write_bytes(b"")
    finding = _finding(loaded)
    assert finding.state == "failed"
    assert "agent model check" in finding.remedy


def test_the_cache_is_copied_and_never_written(tmp_path: Path) -> None:
    """What others could have written is not copied: as a file of this user it would be trusted."""
    cache = tmp_path / "cache" / "plans"
    cache.mkdir(parents=True)
    (cache / "one").write_text("plan")
    (cache / "open").write_text("plan")
    (cache / "open").chmod(0o666)
    (cache / "link").symlink_to(cache / "one")
    with copied_cache(tmp_path) as copy:
        assert [path.name for path in copy.rglob("*") if path.is_file()] == ["one"]
        (copy / "plans" / "new").write_text("made by the doctor")
    assert not copy.exists()
    assert sorted(path.name for path in cache.iterdir()) == ["link", "one", "open"]


def test_a_state_directory_without_a_cache_is_an_empty_one(tmp_path: Path) -> None:
    with copied_cache(tmp_path / "not" / "there") as copy:
        assert [*copy.iterdir()] == []


def test_a_state_directory_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    finding = checks.state_dir_finding(tmp_path / "not" / "yet")
    assert finding.state in {"ok", "warning"}
    assert str(tmp_path / "not" / "yet") in finding.detail
    assert not (tmp_path / "not").exists()


def test_a_state_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = checks.state_dir_finding(tmp_path / "file" / "state")
    assert (finding.state, finding.is_needed) == ("failed", True)
    assert f"{tmp_path / 'file'} is none" in finding.detail
    assert "right to write" not in finding.remedy


def test_folders_in_place_of_state_files_are_named_with_a_remedy(tmp_path: Path) -> None:
    assert list(checks.state_file_findings(tmp_path)) == []
    for name in ("lock", "session", "last-exit", "outbox.sqlite"):
        (tmp_path / name).mkdir()
    found = {finding.name: finding for finding in checks.state_file_findings(tmp_path)}
    assert {name: (one.state, one.is_needed) for name, one in found.items()} == {
        "lock": ("failed", True),
        "session": ("failed", True),
        "last-exit": ("failed", True),
        "outbox.sqlite": ("warning", False),
    }
    for name, finding in found.items():
        assert str(tmp_path / name) in finding.detail
        assert "move it away" in finding.remedy


def test_a_check_that_fails_in_any_way_becomes_one_line() -> None:
    told = checks.failure("broker", BrokerUnavailable("nothing listens"), is_needed=True)
    assert (told.state, told.detail) == ("failed", "nothing listens")
    assert checks.failure("gpu", OSError(5, "Input/output error"), is_needed=False).detail.startswith("OSError: ")


def test_only_what_is_needed_and_failed_counts() -> None:
    report = Report(
        "agent.yaml",
        sections_from(
            [
                ("engines", [Finding("tensorrt", "absent", "no driver", "install JetPack")]),
                ("cameras", [Finding("front", "failed", "no picture", is_needed=True)]),
                ("machine", [Finding("heat", "failed", "no sensor"), Finding("clock", "warning", "unsynced")]),
                ("cameras", [Finding("back", "ok", "640x480")]),
                ("nothing", []),
            ]
        ),
    )
    assert report.failures == ["cameras: front"]
    assert [section.name for section in report.sections] == ["engines", "cameras", "machine"]
    assert report.as_dict()["ok"] is False


def test_what_runs_otherwise_than_configured_is_in_the_verdict() -> None:
    found = [("models", [Finding("inspect", "warning", "degraded", is_needed=True)])]
    report = Report("agent.yaml", sections_from([*found, ("machine", [Finding("clock", "warning", "unsynced")])]))
    assert (report.failures, report.reservations) == ([], ["models: inspect"])
    assert report.as_dict()["reservations"] == ["models: inspect"]
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(render(report))
    assert "can run, but not as configured: see models: inspect" in capture.get()


@pytest.mark.parametrize("width", [60, 120])
def test_the_picture_tells_every_finding_and_the_verdict(width: int) -> None:
    report = Report(
        "agent.yaml",
        (Section("cameras", (Finding("front", "failed", "no picture", "plug it in", is_needed=True),)),),
    )
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render(report))
    for words in ("cameras", "✘ front", "no picture", "→ plug it in", "needs one thing that cannot run"):
        assert words in capture.get()
