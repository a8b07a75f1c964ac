"""The description of the runtime and the probes: on boards, in containers, and with broken packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from engines import describe, describe_device, probe
from engines.environment import Gpu, device_facts, gpus_from_answer
from engines.host import available_cores
from engines.probes.child import ChildAnswer, run_child, run_children
from engines.select.registry import Prober


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


_ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    "proc/cpuinfo": "processor : 0\nmodel name : ARMv8 Processor rev 1 (v8l)\nFeatures : fp asimd\n",
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n"
    ),
}


def _write_package(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)


def _on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_jetson_is_described_from_its_files(tmp_path: Path) -> None:
    record = describe(root=_tree(tmp_path, _ORIN), environ={})
    assert record.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (record.l4t, record.jetpack, record.power_mode) == ("36.4.3", "6.x", "2")
    assert record.os == "Ubuntu 22.04.5 LTS"
    assert record.driver == "540.4.0"
    assert record.cpu == "ARMv8 Processor rev 1 (v8l)"


def test_a_machine_without_system_files_is_described_without_an_exception(tmp_path: Path) -> None:
    record = describe(root=tmp_path, environ={})
    assert (record.board, record.l4t, record.jetpack, record.power_mode, record.driver) == (None,) * 5
    assert record.cpu is None
    assert record.numpy
    assert record.opencv
    json.dumps(record.as_dict())


def test_environment_variables_name_the_board_in_a_container(tmp_path: Path) -> None:
    record = describe(root=tmp_path, environ={"AGENT_BOARD": "Jetson AGX Thor", "AGENT_L4T": "38.4"})
    assert (record.board, record.l4t, record.jetpack) == ("Jetson AGX Thor", "38.4", "7.x")


def test_an_unknown_release_is_reported_without_a_guess(tmp_path: Path) -> None:
    record = describe(root=tmp_path, environ={"AGENT_L4T": "52.1"})
    assert (record.l4t, record.jetpack) == ("52.1", None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('numpy is too new')", "numpy is too new"),
        ("raise OSError('libnvinfer.so.10: cannot open')", "libnvinfer.so.10: cannot open"),
        ("raise SystemExit('wrong licence')", "wrong licence"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise SystemExit(0)", "without an answer"),
    ],
)
def test_a_broken_package_is_described_as_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    _write_package(tmp_path, "tensorrt", body)
    _on_path(tmp_path, monkeypatch)
    record = describe(environ={}, timeout_s=30)
    assert record.tensorrt is not None
    assert record.tensorrt.startswith("broken: ")
    assert message in record.tensorrt
    assert record.onnxruntime, "one broken package hid another"


def test_a_package_that_hangs_on_import_does_not_delay_the_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_package(tmp_path, "tensorrt", "import time; time.sleep(600)")
    _on_path(tmp_path, monkeypatch)
    assert describe(environ={}, timeout_s=0.5).tensorrt is None


def test_the_device_alone_is_described_without_loading_a_library_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    for name in ("tensorrt", "torch"):
        _write_package(tmp_path, name, f"open({str(seen / name)!r}, 'w').close()\n__version__ = '1'")
    _on_path(tmp_path, monkeypatch)
    device = describe_device(root=_tree(tmp_path / "root", _ORIN), environ={}, timeout_s=30)
    assert list(seen.iterdir()) == [], "an import in a child delays the first frame"
    whole = describe(root=tmp_path / "root", environ={}, timeout_s=30)
    assert len(list(seen.iterdir())) == 2
    assert {name: getattr(whole, name) for name in asdict(device)} == {
        name: getattr(device, name) for name in asdict(device)
    }


def test_describing_imports_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, engines\n"
        "engines.describe()\n"
        "print([name for name in ('torch', 'tensorrt', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_cpu_quota_limits_the_cores(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert available_cores(_tree(tmp_path / "a", {"sys/fs/cgroup/cpu.max": "100000 100000\n"})) == 1
    assert available_cores(_tree(tmp_path / "b", {"sys/fs/cgroup/cpu.max": "max 100000\n"})) == allowed
    assert available_cores(_tree(tmp_path / "c", {"sys/fs/cgroup/cpu.max": "10000 100000\n"})) == 1


@pytest.mark.parametrize(
    ("groups", "quota"),
    [
        ("0::/system.slice/agent.service\n", {"sys/fs/cgroup/system.slice/agent.service/cpu.max": "100000 100000\n"}),
        ("0::/system.slice/agent.service\n", {"sys/fs/cgroup/system.slice/cpu.max": "100000 100000\n"}),
        (
            "3:cpu,cpuacct:/unit\n",
            {
                "sys/fs/cgroup/cpu/unit/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/unit/cpu.cfs_period_us": "50000\n",
            },
        ),
    ],
    ids=["own", "above", "version 1"],
)
def test_the_quotas_of_the_own_group_and_its_parents_count(groups: str, quota: dict[str, str], tmp_path: Path) -> None:
    assert available_cores(_tree(tmp_path, {"proc/self/cgroup": groups, **quota})) == 1


def test_a_cgroup_v1_without_a_quota_limits_nothing(tmp_path: Path) -> None:
    files = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}
    tree = {f"sys/fs/cgroup/cpu/{name}": text for name, text in files.items()}
    allowed = len(os.sched_getaffinity(0))
    assert available_cores(_tree(tmp_path, {"proc/self/cgroup": "3:cpu:/\n", **tree})) == allowed


def test_devices_are_read_from_the_driver_probe() -> None:
    device = {"name": "Orin", "compute_capability": "8.7", "memory_bytes": 8 << 30, "integrated": True}
    assert gpus_from_answer(ChildAnswer({"devices": [device]})) == (Gpu("Orin", "8.7", 8 << 30, integrated=True),)
    assert gpus_from_answer(ChildAnswer(failure="no NVIDIA driver")) == ()


def test_a_probe_that_crashes_is_a_failure_that_names_its_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = (
        "import ctypes\n"
        "class Logger:\n    ERROR = 1\n    def __init__(self, level): pass\n"
        "def Runtime(logger): ctypes.string_at(0)\n"
        "Builder = Runtime\n"
    )
    _write_package(tmp_path, "tensorrt", library)
    _on_path(tmp_path, monkeypatch)
    assert run_child("tensorrt_child").failure == "the probe was ended by SIGSEGV"


def test_a_probe_answers_though_the_library_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_package(tmp_path, "tensorrt", "print('*** EP Error ***')\n__version__ = '10.3.0'\n")
    _on_path(tmp_path, monkeypatch)
    assert run_child("import_child", "tensorrt").text("version") == "10.3.0"


def test_probes_run_in_parallel_and_end_at_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_package(tmp_path, "sleeper", "import time; time.sleep(600)")
    _write_package(tmp_path, "awake", "__version__ = '1'")
    _on_path(tmp_path, monkeypatch)
    slow, quick = run_children([("import_child", "sleeper"), ("import_child", "awake")], timeout_s=2)
    assert slow.failure == "the probe gave no answer in 2 s"
    assert quick.text("version") == "1"


def test_tensorrt_is_not_imported_before_the_driver_has_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Prober().cuda.failure is None:
        pytest.skip("this machine has a CUDA device, so TensorRT may be touched")
    marker = tmp_path / "imported"
    _write_package(tmp_path, "tensorrt", f"open({str(marker)!r}, 'w').close()\n")
    _on_path(tmp_path, monkeypatch)
    result = Prober().probe("tensorrt")
    assert not result.can_run
    assert "CUDA does not answer" in result.reason
    assert not marker.exists()


def test_a_broken_onnxruntime_rejects_each_of_its_engines_with_the_import_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_package(tmp_path, "onnxruntime", "raise ImportError('GLIBC_2.38 not found')")
    _on_path(tmp_path, monkeypatch)
    results = {result.name: result for result in probe()}
    assert "GLIBC_2.38 not found" in results["ort-cpu"].reason
    assert "GLIBC_2.38 not found" in results["ort-cuda"].reason


def test_every_engine_that_cannot_run_has_a_reason_and_a_remedy() -> None:
    results = probe()
    assert [result.name for result in results][:2] == ["tensorrt", "ort-tensorrt"]
    for result in results:
        assert result.can_run or (result.reason and result.remedy)
        assert result.can_run or result.as_rejection().engine == result.name
    assert next(result for result in results if result.name == "ort-cpu").can_run


def test_the_facts_of_a_device_have_board_l4t_power_mode_and_size(tmp_path: Path) -> None:
    """Every Orin is called "Orin" and has 8.7."""
    for name, text in (
        ("proc/device-tree/model", "NVIDIA Jetson Orin Nano\0"),
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1"),
        ("var/lib/nvpmodel/status", "pmode:0002"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    gpu = Gpu("Orin", "8.7", 7_991_000_000, integrated=True, multiprocessors=8)
    assert device_facts(gpu, root=tmp_path, environ={}) == {
        "gpu": "Orin",
        "compute_capability": "8.7",
        "multiprocessors": 8,
        "memory_gib": 7,
        "board": "NVIDIA Jetson Orin Nano",
        "l4t": "36.4.3",
        "power_mode": "2",
    }
    there = device_facts(gpu, root=tmp_path, environ={"AGENT_BOARD": "x", "AGENT_L4T": "39.2.0"})
    assert (there["board"], there["l4t"]) == ("x", "39.2.0")
