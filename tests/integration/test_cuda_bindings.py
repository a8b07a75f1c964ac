"""The real cuda-bindings of CUDA 12 and 13 keep the contract of a CUDA library on a fake libcuda.so.1.

This checks names, arguments, types and results against the real package, but not what a real driver does.
``TENSORRT_BINDINGS`` names interpreters that have `cuda-bindings`, see `test_tensorrt_bindings.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.cuda_contract import CHECKS
from tests.fixtures.nvidia import cuda_library

_ROOT = Path(__file__).parents[2]
_INTERPRETERS = [part for part in os.environ.get("TENSORRT_BINDINGS", "").split(os.pathsep) if part]

pytestmark = pytest.mark.skipif(
    not _INTERPRETERS, reason="needs environments of their own: scripts/test --with tensorrt-bindings makes them"
)


def _run(interpreter: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "FAKE_GPU_CUDA": "13050", **variables}
    return subprocess.run(
        [interpreter, "-m", "tests.fixtures.cuda_contract"],
        env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=_ROOT,
    )  # fmt: skip


@pytest.mark.parametrize("interpreter", _INTERPRETERS or [""])
def test_each_library_keeps_the_contract(interpreter: str) -> None:
    answer = _run(interpreter, LD_LIBRARY_PATH=str(cuda_library()))
    assert answer.returncode == 0, answer.stderr
    said = json.loads(answer.stdout.splitlines()[-1])
    assert said["passed"] == [check.__name__ for check in CHECKS]
    assert said["version"].startswith(("12.9", "13."))
    assert "the GPU has no memory left for 1099511627776 bytes: cuMemAlloc failed: out of memory" in said["refusal"]


@pytest.mark.parametrize("interpreter", _INTERPRETERS or [""])
def test_a_machine_without_a_driver_is_reported(interpreter: str) -> None:
    answer = _run(interpreter)
    assert answer.returncode != 0
    assert "finds no NVIDIA driver" in answer.stderr
    assert "Remedy: install the driver" in answer.stderr


@pytest.mark.parametrize("interpreter", _INTERPRETERS or [""])
def test_a_driver_of_the_major_version_before_is_refused_or_serves(interpreter: str) -> None:
    answer = _run(interpreter, LD_LIBRARY_PATH=str(cuda_library()), FAKE_GPU_CUDA="12060")
    if answer.returncode:
        assert (
            "needs a driver for CUDA 13, but this one has 12.6. Remedy: pip install 'cuda-bindings==12.*'"
            in answer.stderr
        )
    else:
        assert json.loads(answer.stdout.splitlines()[-1])["version"].startswith("12.")
