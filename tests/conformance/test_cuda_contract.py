"""Both CUDA libraries keep the same contract, on fakes; `test_cuda_bindings.py` has the real package."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from engines import EngineLost, EngineUnavailable, OutOfMemory
from engines.backends.tensorrt.cuda import CudaDevice
from engines.backends.tensorrt.cuda.libraries import LIBRARIES, cuda_library
from engines.select.registry import Prober
from tests.fixtures.cuda_contract import CHECKS
from tests.fixtures.nvidia import FakeNvidia


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvidia]:
    fake = FakeNvidia(monkeypatch)
    yield fake
    fake.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", LIBRARIES)
def test_each_library_keeps_the_contract(name: str, check: Callable[[str], None], nvidia: FakeNvidia) -> None:
    check(name)
    state = nvidia.state
    assert (state.memory, state.host_bytes, state.retained) == ({}, 0, 0), "something was not freed"


@pytest.mark.parametrize("name", LIBRARIES)
def test_mapped_memory_needs_no_copy(name: str, nvidia: FakeNvidia) -> None:
    nvidia.set(integrated=1)
    device = CudaDevice(0, library=name)
    with device.current():
        memory = device.pinned((4,), np.uint8)
        assert memory.device_address is not None
        memory.array[:] = 7
        assert (nvidia.state.memory[memory.device_address][:4] == 7).all()
        device.context.free_host(memory)
    device.close()


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_lost_device_is_recognised_and_everything_can_still_be_closed(name: str, nvidia: FakeNvidia) -> None:
    device = CudaDevice(0, library=name)
    with device.current():
        memory = device.allocate(16)
        nvidia.state.lost = "an illegal memory access was encountered"
        with pytest.raises(EngineLost, match="illegal memory access"):
            device.finish()
        with pytest.raises(EngineLost):
            device.allocate(16)
        nvidia.state.lost = None
        device.context.free_device(memory)
        nvidia.state.lost = "an illegal memory access was encountered"
    device.close()
    nvidia.state.lost = None


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("fault", ["no_memory", "no_context"])
def test_too_little_memory_is_out_of_memory(name: str, fault: str, nvidia: FakeNvidia) -> None:
    nvidia.set(faults=fault)
    with pytest.raises(OutOfMemory, match="out of memory"):
        device = CudaDevice(0, library=name)
        try:
            with device.current():
                device.allocate(16)
        finally:
            device.close()
    assert nvidia.state.retained == 0


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_driver_without_a_device_is_reported(name: str, nvidia: FakeNvidia) -> None:
    nvidia.set(devices=0)
    with pytest.raises(EngineUnavailable, match="no CUDA-capable device is detected"):
        cuda_library(name)


def test_pycuda_is_selected_if_it_loads_else_cuda_bindings(nvidia: FakeNvidia) -> None:
    assert cuda_library().name == "pycuda"
    assert Prober().probe("tensorrt").detail == "TensorRT 10.3.0 on Orin, CUDA through pycuda 2026.1"
    nvidia.set(no_pycuda=1, tensorrt="10.3.0")
    assert cuda_library().name == "cuda-bindings"
    assert Prober().probe("tensorrt").detail == "TensorRT 10.3.0 on Orin, CUDA through cuda-bindings 12.9.10"


def test_without_either_library_both_reasons_and_one_remedy_are_given(nvidia: FakeNvidia) -> None:
    nvidia.set(no_pycuda=1, no_bindings=1, tensorrt="10.3.0")
    with pytest.raises(EngineUnavailable, match=r"No module named 'pycuda'; .*'cuda.bindings'.*pip install 'cuda-bin"):
        cuda_library()
    probe = Prober().probe("tensorrt")
    assert not probe.can_run, "the probe reports an engine that cannot be opened"
    assert "TensorRT 10.3.0 loads; no CUDA library for Python can be used" in probe.reason
    assert probe.remedy == "pip install 'cuda-bindings==12.*' (13.* for CUDA 13)"


def test_bindings_newer_than_the_driver_are_refused_with_the_version_that_fits(nvidia: FakeNvidia) -> None:
    nvidia.set(no_pycuda=1, bindings="13.5.0", cuda=12060, tensorrt="10.3.0")
    with pytest.raises(
        EngineUnavailable, match=r"13\.5\.0 needs a driver for CUDA 13, but this one has 12\.6"
    ) as refused:
        cuda_library()
    assert refused.value.fields["remedy"] == "pip install 'cuda-bindings==12.*'"
    assert Prober().probe("tensorrt").remedy == "pip install 'cuda-bindings==12.*'"
    nvidia.set(cuda=13020, tensorrt="10.3.0")
    assert cuda_library().version == "13.5.0"


@pytest.mark.parametrize("cuda", [12020, 12090, 13000])
def test_an_older_minor_version_and_a_newer_driver_are_accepted(cuda: int, nvidia: FakeNvidia) -> None:
    nvidia.set(no_pycuda=1, cuda=cuda)
    assert cuda_library().name == "cuda-bindings"
