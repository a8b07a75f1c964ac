"""The remedy for an engine works on the board that it is given for."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.select.registry import AUTO_ORDER
from engines.select.remedies import Board, Missing, remedy, this_board

JETPACK_6 = Board(l4t="36.4.3", machine="aarch64", python=(3, 10), has_gpu=True)
JETPACK_7 = Board(l4t="38.2", machine="aarch64", python=(3, 12), has_gpu=True)
SERVER = Board(l4t=None, machine="x86_64", python=(3, 11), has_gpu=True)
ARM_SERVER = Board(l4t=None, machine="aarch64", python=(3, 10), has_gpu=True)
LAPTOP = Board(l4t=None, machine="x86_64", python=(3, 11), has_gpu=False)
BOARDS = (JETPACK_6, JETPACK_7, SERVER, ARM_SERVER, LAPTOP)
MISSING: tuple[Missing, ...] = ("driver", "library", "broken", "provider", "start")
CUDA_ENGINES = ("tensorrt", "ort-tensorrt", "ort-cuda")


def test_jetpack_6_is_never_sent_to_pypi_for_a_gpu_build() -> None:
    for engine in ("ort-cuda", "ort-tensorrt"):
        for missing in ("library", "provider"):
            text = remedy(engine, missing, JETPACK_6)
            assert "Jetson AI Lab" in text
            assert "JetPack 6 and Python 3.10" in text
            assert "pip install onnxruntime-gpu" not in text


def test_jetpack_7_takes_pypi_for_cuda_and_the_index_for_tensorrt() -> None:
    assert "pip install onnxruntime-gpu" in remedy("ort-cuda", "provider", JETPACK_7)
    assert "Jetson AI Lab" in remedy("ort-tensorrt", "provider", JETPACK_7)


@pytest.mark.parametrize("board", BOARDS)
def test_a_missing_driver_is_no_reason_to_install_tensorrt_or_onnxruntime(board: Board) -> None:
    for engine in CUDA_ENGINES:
        text = remedy(engine, "driver", board)
        assert "install TensorRT" not in text
        assert "onnxruntime" not in text
        assert "libnvinfer" not in text


def test_tensorrt_that_does_not_load_is_reinstalled() -> None:
    assert "--reinstall" in remedy("tensorrt", "broken", JETPACK_6)
    assert "apt-get install python3-libnvinfer" in remedy("tensorrt", "library", JETPACK_6)


@pytest.mark.parametrize("missing", MISSING)
def test_without_an_nvidia_gpu_nothing_is_installed_for_one(missing: Missing) -> None:
    for engine in CUDA_ENGINES:
        assert remedy(engine, missing, LAPTOP).startswith("use a machine with an NVIDIA GPU")


def test_only_a_jetson_gets_advice_with_apt_or_jetpack() -> None:
    for board in (SERVER, ARM_SERVER, LAPTOP):
        for engine in AUTO_ORDER:
            for missing in MISSING:
                text = remedy(engine, missing, board)
                assert text
                assert not any(word in text for word in ("apt-get", "JetPack", "Jetson"))


def test_packages_that_no_index_has_for_this_machine_are_not_advised() -> None:
    assert "newer Python" in remedy("ort-cuda", "provider", ARM_SERVER)
    assert "no build" in remedy("ort-openvino", "provider", JETPACK_6)
    assert "onnxruntime-openvino" in remedy("ort-openvino", "provider", SERVER)


def test_a_gpu_is_found_by_its_pci_vendor_and_a_jetson_by_its_release(tmp_path: Path) -> None:
    assert not this_board(tmp_path).has_gpu
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    assert not this_board(tmp_path).has_gpu
    (device / "vendor").write_text("0x10de\n")
    assert this_board(tmp_path).has_gpu
    assert this_board(tmp_path).jetpack is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    board = this_board(tmp_path)
    assert (board.has_gpu, board.l4t, board.jetpack) == (True, "36.4.3", 6)
