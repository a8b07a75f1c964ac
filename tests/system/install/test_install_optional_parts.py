"""The installer's optional parts: each fails alone, and what is there and works stays."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.installer import (
    agent_version,
    agent_wheel,
    install_environment,
    installed_texts,
    jetpack_board,
    other_wheel,
    put_wheel,
)

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed; only a systemd machine has it"
)


def _onnxruntime(folder: Path, name: str, version: str) -> Path:
    text = f"def get_available_providers():\n    return []\nbuild = {name!r}\n"
    return other_wheel(folder, name, version, {"onnxruntime/__init__.py": text})


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_tensorrt_that_came_after_the_installation_is_seen_by_the_next_one(tmp_path: Path, environment: Path) -> None:
    board = jetpack_board(tmp_path / "board")
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "wheels"), "--look-in", str(board))
    assert result.returncode == 0, result.stderr
    assert "include-system-site-packages = true" in (environment / "pyvenv.cfg").read_text()


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_optional_parts_fail_alone_and_are_named_with_their_reason_and_one_command(
    tmp_path: Path, environment: Path
) -> None:
    board = jetpack_board(tmp_path / "board")
    # The environment sees the packages of this interpreter, which may well have an ONNX Runtime and a TensorRT.
    wheels = agent_wheel(tmp_path / "wheels", onnxruntime="onnxruntime>=9000")
    put_wheel(
        environment, other_wheel(tmp_path, "tensorrt", "10.3.0", {"tensorrt.py": "raise ImportError('libnvinfer')"})
    )
    result = install_environment(tmp_path / "staged", wheels, "--look-in", str(board), extras="cpu,jetson,pycuda")
    assert result.returncode == 0, result.stderr
    assert agent_version(environment) == "0.1.0"
    missing = _missing_parts(result.stderr)
    assert set(missing) >= {"onnxruntime (cpu)", "tensorrt", "cuda-bindings"}, result.stderr
    for part, (why, command) in missing.items():
        assert why, part
        assert command.startswith("→ sudo "), part
    assert "No matching distribution found for cuda-bindings==12.*" in result.stderr
    assert len(result.stderr.splitlines()) < 60
    log = tmp_path / "staged/var/log/agent-install.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "pycuda" in log.read_text()


def _missing_parts(printed: str) -> dict[str, tuple[str, str]]:
    """Name of each part that the last screen lists as missing: the reason and the command."""
    screen = printed.rpartition(". Result\n")[2].partition("\n\n")[0].splitlines()
    found = {}
    for line, following in zip(screen, [*screen[1:], ""], strict=True):
        name, colon, why = line.strip().removeprefix("without   ").partition(": ")
        if line.strip().startswith("without   ") and colon:
            found[name] = (why, following.strip())
    return found


@pytest.fixture
def cuda_13(tmp_path: Path) -> tuple[str, str]:
    """Arguments for a board whose toolkit is CUDA 13."""
    toolkit = tmp_path / "board/usr/local/cuda"
    toolkit.mkdir(parents=True)
    (toolkit / "version.json").write_text('{"cuda": {"version": "13.0.1"}}')
    return "--look-in", str(tmp_path / "board")


def test_cuda_bindings_of_the_boards_cuda_replace_a_pycuda_that_cannot_be_had(
    tmp_path: Path, environment: Path, cuda_13: tuple[str, str]
) -> None:
    wheels = agent_wheel(tmp_path / "wheels")
    for version in ("12.9.10", "13.5.0", "14.0.0"):
        other_wheel(wheels, "cuda-bindings", version, {})
    result = install_environment(tmp_path / "staged", wheels, *cuda_13, extras="jetson")
    assert result.returncode == 0, result.stderr
    assert [
        folder.name for folder in environment.glob("lib/python*/site-packages/*.dist-info") if "cuda" in folder.name
    ] == ["cuda_bindings-13.5.0.dist-info"]


@pytest.mark.parametrize(
    ("where", "words"), [("wheels", "CUDA: PyCUDA 2026.1\n"), ("there", "2026.1 is there and stays")]
)
def test_pycuda_is_preferred_and_stays(
    where: str, words: str, tmp_path: Path, environment: Path, cuda_13: tuple[str, str]
) -> None:
    wheels = agent_wheel(tmp_path / "wheels")
    other_wheel(wheels, "cuda-bindings", "13.5.0", {})
    pycuda = other_wheel(wheels if where == "wheels" else tmp_path, "pycuda", "2026.1", {})
    if where == "there":
        put_wheel(environment, pycuda)
    result = install_environment(tmp_path / "staged", wheels, *cuda_13, extras="jetson")
    assert result.returncode == 0, result.stderr
    assert words in result.stderr
    assert not list(environment.glob("lib/python*/site-packages/cuda_bindings*"))


def test_a_gpu_build_of_onnxruntime_stays_and_no_cpu_build_is_put_over_it(tmp_path: Path, environment: Path) -> None:
    root, wheels = tmp_path / "staged", agent_wheel(tmp_path / "wheels")
    put_wheel(environment, _onnxruntime(wheels, "onnxruntime", "1.30.0"))
    gpu = _onnxruntime(tmp_path, "onnxruntime-gpu", "1.23.0")
    result = install_environment(root, wheels, "--onnxruntime", str(gpu), extras="cpu")
    assert result.returncode == 0, result.stderr
    assert _build_of_onnxruntime(environment) == "onnxruntime-gpu"
    assert not list(environment.glob("lib/python*/site-packages/onnxruntime-1.30.0.dist-info"))
    result = install_environment(root, wheels, extras="cpu")
    assert result.returncode == 0, result.stderr
    assert "onnxruntime-gpu 1.23.0 is there and stays" in result.stderr
    assert _build_of_onnxruntime(environment) == "onnxruntime-gpu"
    assert not list(environment.glob("lib/python*/site-packages/onnxruntime-1.30.0.dist-info"))


def test_the_cpu_build_of_onnxruntime_comes_with_its_part(tmp_path: Path, environment: Path) -> None:
    wheels = agent_wheel(tmp_path / "wheels")
    _onnxruntime(wheels, "onnxruntime", "1.30.0")
    assert install_environment(tmp_path / "staged", wheels, extras="cpu").returncode == 0
    assert _build_of_onnxruntime(environment) == "onnxruntime"


def _build_of_onnxruntime(environment: Path) -> str:
    command = [str(environment / "bin/python"), "-c", "import onnxruntime; print(onnxruntime.build)"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_a_build_of_onnxruntime_that_does_not_load_is_not_taken(tmp_path: Path, installed: Path) -> None:
    root, wheels = tmp_path / "staged", agent_wheel(tmp_path / "wheels")
    broken = other_wheel(
        tmp_path, "onnxruntime-gpu", "1.23.0", {"onnxruntime/__init__.py": "raise ImportError('numpy')\n"}
    )
    result = install_environment(root, wheels, "--onnxruntime", str(broken), extras="cpu")
    assert result.returncode == 1
    assert "does not load" in result.stderr
    assert installed_texts(installed) == ["good"]
    assert not list(installed.glob("lib/python*/site-packages/onnxruntime*"))
