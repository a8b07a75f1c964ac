"""What a running agent does not load: a library costs time at each start, and memory as long as the agent runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.packages import PackageFiles

pytestmark = pytest.mark.timeout(120)

_NOT_LOADED = {
    "onnx": "reads new models, in a child",
    "google.protobuf": "comes with onnx",
    "agent.config.sections.field_docs": "describes fields in schemas",
    "agent.commands.schemas": "writes schemas",
    "agent.config.reference": "writes the documentation",
    "agent.tools": "tools for people",
    "agent.web": "only with serve",
    "uvicorn": "only with serve",
    "grpc": "only with serve.grpc",
    "engines.backends.tensorrt.engine": "another engine",
    "engines.backends.triton.engine": "another engine",
    "engines.check.importer": "imports models",
    "engines.check.certificate": "proves other engines and precisions",
    "engines.graph.agreement": "comes with it",
    "engines.backends.torch": "another engine",
    "engines.backends.tensorrt.options": "another engine",
    "engines.backends.triton.options": "another engine",
    "engines.graph.serving_model": "builds serving graphs",
    "engines.graph.int8": "converts models",
    "rich.console": "draws for people",
    "pygments": "comes with rich",
    "attr": "comes with rich",
    "unittest": "for tests",
    "torch": "another engine",
    "tensorrt": "another engine",
}


def _config(directory: Path, package: str) -> Path:
    camera = {"source": {"type": "pattern", "fps": 10, "width": 64, "height": 48}, "classify": [{"model": "inspect"}]}
    config = {
        "models": {"inspect": {"package": package, "engine": "ort-cpu"}},
        "cameras": {"belt": camera},
        "mqtt": {"broker": "embedded"},
    }
    return write_config(directory, config)


def _imports_until_first_result(directory: Path, config: Path) -> set[str]:
    """Every module that the agent, and no child of it, had loaded when its first result was printed."""
    with AgentProcess(directory, "run", "--print", "-c", str(config), env={"PYTHONPROFILEIMPORTTIME": "1"}) as agent:
        wait_until(lambda: '"result-compact/1"' in agent.stdout or agent.process.poll() is not None, within_s=60.0)
        assert '"result-compact/1"' in agent.stdout, agent.stderr
        written = agent.stderr
        assert agent.end() == 0
    return {line.rpartition("|")[2].strip() for line in written.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("is_bundled", [False, True], ids=["new package", "bundled"])
def test_an_agent_loads_nothing_that_only_tools_schemas_and_new_models_need(tmp_path: Path, is_bundled: bool) -> None:
    """At the very first start: the state directory is empty."""
    package = "demo" if is_bundled else str(PackageFiles.of().write(tmp_path))
    loaded = _imports_until_first_result(tmp_path, _config(tmp_path, package))
    assert {"agent.app", "cv2", "engines.backends.onnxruntime.engine", "onnxruntime"} <= loaded
    assert not {name: why for name, why in _NOT_LOADED.items() if name in loaded}
