"""Every name of TensorRT that our code uses exists in the real bindings of 10 and 11, and they accept our arguments.

The bindings are wheels without the libraries, which are stubs here. ``TENSORRT_BINDINGS`` names interpreters whose
environments have `tensorrt_cu12_bindings` and `cuda-bindings`: `scripts/test --with tensorrt-bindings` makes them.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
_SOURCE = _ROOT / "engines" / "backends" / "tensorrt"
_FIXTURES = _ROOT / "tests" / "fixtures" / "tensorrt_bindings"
_INTERPRETERS = [part for part in os.environ.get("TENSORRT_BINDINGS", "").split(os.pathsep) if part]

# What a variable of our source holds, by file. Names that a version may lack are asked for by `getattr` and `hasattr`,
# which the reading below does not see.
_HOLDS = {
    "builder.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "kept": "ITimingCache",
    },
    "session.py": {
        "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "context": "IExecutionContext",
        "runtime": "Runtime",
    },
}
_MODULE = ("trt", "self.trt", "self._trt")


def names_in_source() -> dict[str, set[str]]:
    """Names that our code uses from TensorRT, by class; those of the module itself under an empty name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in _SOURCE.glob("*.py"):
        holds = _HOLDS.get(path.name, {})
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = ast.unparse(node.value)
            if owner in _MODULE:
                found[""].add(node.attr)
            elif owner.rpartition(".")[0] in _MODULE:
                found[owner.rpartition(".")[2]].add(node.attr)
            elif owner in holds:
                found[holds[owner]].add(node.attr)
    return found


def test_known_names_are_found_in_our_source() -> None:
    names = names_in_source()
    assert {"Builder", "Runtime", "BuilderFlag", "OnnxParser"} <= names[""]
    assert {"build_serialized_network", "create_network"} <= names["Builder"]
    assert {"execute_async_v3", "set_tensor_address", "set_input_shape"} <= names["IExecutionContext"]
    assert {"num_io_tensors", "get_tensor_mode", "create_execution_context"} <= names["ICudaEngine"]
    assert {"TF32", "GPU_FALLBACK"} <= names["BuilderFlag"]
    assert {"FP16", "INT8", "EXPLICIT_BATCH"}.isdisjoint(names["BuilderFlag"] | names[""]), "gone in TensorRT 11"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.fail("a C compiler is needed for the stub libraries: apt-get install gcc")
    for major in (10, 11):
        for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            target = folder / f"lib{name}.so.{major}"
            command = [compiler, "-shared", "-fPIC", "-nostdlib", "-w", "-o", str(target), str(_FIXTURES / "stubs.c")]
            subprocess.run(command, check=True, timeout=60)
    return folder


def _ask(interpreter: str, libraries: Path) -> Any:
    names = {owner: sorted(found) for owner, found in names_in_source().items()}
    answer = subprocess.run(
        [interpreter, str(_FIXTURES / "child.py"), json.dumps(names)],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{_FIXTURES}{os.pathsep}{_ROOT}",
            "LD_LIBRARY_PATH": str(libraries),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.skipif(
    not _INTERPRETERS, reason="needs environments of their own: scripts/test --with tensorrt-bindings makes them"
)
@pytest.mark.parametrize("interpreter", _INTERPRETERS or [""])
def test_the_real_bindings_have_every_name_and_accept_our_arguments(interpreter: str, libraries: Path) -> None:
    answer = _ask(interpreter, libraries)
    major = int(answer["version"].split(".")[0])
    assert major in (10, 11)
    assert answer["missing"] == []
    assert answer["has_precision_flags"] == (major == 10)
    assert answer["network_flags"] == 0
    assert answer["errors"] == "an error"
    assert answer["goes_on"] is True
    assert answer["refusal"].startswith("no builder")
    assert "finds no NVIDIA driver" in answer["capture"]
