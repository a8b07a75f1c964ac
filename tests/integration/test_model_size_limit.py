"""The limit for a model file: each command and the configuration can change it, and child processes keep it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from agent.__main__ import main
from agent.config.loader import LoadedConfig, load_config
from agent.reload import load_packages
from agent.runtime.errors import UsageError
from agent.tools.serve import ServeOptions, serve_packages
from engines import EngineOptions, ModelPackage, ModelRejected, SandboxOptions, load_package
from engines.package.model_file import file_sha256
from engines.sandbox import load as sandboxed
from engines.sandbox.package_check import load_unknown_package
from tests.fixtures.packages import LABELS, PackageFiles, TinyModel

_MIB = 1 << 20
_REFUSED = f"bytes, but the limit is {_MIB} (1 MiB). Raise models.NAME.max_file_mib"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


def _large_model() -> bytes:
    """More than 1 MiB, of which the text is the most."""
    model = TinyModel().proto()
    model.doc_string = "x" * _MIB
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "packages").mkdir()
    return PackageFiles.of().with_model(_large_model()).write(tmp_path / "packages")


def test_an_import_is_limited_as_its_option_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(_large_model())
    (tmp_path / "labels.json").write_text(json.dumps(LABELS), encoding="utf-8")
    command = ["model", "import", str(tmp_path / "net.onnx"), "--labels", str(tmp_path / "labels.json"),
               "--preset", "raw255", "--output", str(tmp_path)]  # fmt: skip
    assert main([*command, "--max-file-mib", "1"]) == 78
    assert _REFUSED in capsys.readouterr().err
    assert not (tmp_path / "net-1.0.0").exists()
    assert main([*command, "--max-file-mib", "2"]) == 0


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        (["model", "check", "{}"], 78),
        (["model", "list", "{}"], 1),
        (["verify", "--engine", "ort-cpu", "--package", "{}"], 78),
        (["build", "--package", "{}"], 78),
        (["benchmark", "--package", "{}"], 78),
        (["serve", "--package", "{}"], 78),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_each_command_that_reads_a_package_has_the_option(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str], refused: int
) -> None:
    line = [part.format(folder) for part in command]
    assert main([*line, "--max-file-mib", "1"]) == refused
    assert _REFUSED in capsys.readouterr().err
    assert main([*line, "--max-file-mib", "0"]) == 2
    assert main([*line, "--max-file-mib", "2001"]) == 2


def test_with_room_the_package_is_checked(folder: Path) -> None:
    assert main(["model", "check", str(folder), "--max-file-mib", "2"]) == 0


def test_each_model_of_a_configuration_has_its_limit(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"

    def packages(mib: int) -> dict[str, ModelPackage]:
        document = {
            "version": 1,
            "models": {"trees": {"package": str(folder), "max_file_mib": mib}},
            "cameras": {"gate": {"source": {"type": "file", "path": "demo"}, "classify": [{"model": "trees"}]}},
            "mqtt": {"broker": "mqtt://127.0.0.1:1883"},
        }
        path.write_text(json.dumps(document), encoding="utf-8")
        return load_packages(load_config(path))

    with pytest.raises(ModelRejected) as caught:
        packages(1)
    assert _REFUSED in caught.value.message
    assert packages(2)["trees"].max_file_bytes == 2 * _MIB


def test_served_packages_keep_the_limit_of_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    def load(loaded: LoadedConfig, *, known: dict[str, ModelPackage]) -> None:
        limits.extend((loaded.config.models["trees"].max_file_bytes, known["trees"].max_file_bytes))
        raise UsageError("no need to serve")

    monkeypatch.setattr("agent.tools.serve.load_packages", load)
    options = ServeOptions(
        http="127.0.0.1:0", grpc=None, tokens_file=None, engine="ort-cpu", precision="fp32", max_batch=None,
        max_file_mib=2,
    )  # fmt: skip
    with pytest.raises(UsageError, match="no need to serve"):
        serve_packages([folder], options, is_stopping=lambda: True, on_ready=lambda *_: None)
    assert limits == [2 * _MIB, 2 * _MIB]


def test_the_child_that_reads_a_new_package_keeps_the_limit(tmp_path: Path) -> None:
    """Its own process sees only the model's own file: the tensors beside it are read in the child."""
    model = TinyModel().proto()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    (tmp_path / "made").mkdir()
    onnx.save(model, str(tmp_path / "made/model.onnx"))
    files = PackageFiles.of().with_model((tmp_path / "made/model.onnx").read_bytes())
    files.manifest["sha256"] = file_sha256(tmp_path / "made/model.onnx")
    files.extra = {"weights.bin": (tmp_path / "made/weights.bin").read_bytes()}
    folder = files.write(tmp_path)
    size = (folder / "model.onnx").stat().st_size
    with pytest.raises(ModelRejected, match="is the limit"):
        load_unknown_package(folder, None, max_bytes=size)
    assert load_unknown_package(folder, None, max_bytes=2 * _MIB).max_file_bytes == 2 * _MIB


def test_the_child_that_loads_a_model_is_told_the_limit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[dict[str, object]] = []

    def run(_module: str, job: dict[str, object], **_: object) -> dict[str, object]:
        jobs.append(job)
        return {}

    monkeypatch.setattr(sandboxed, "run_in_sandbox", run)
    options = EngineOptions(cache_dir=tmp_path / "cache", engine="ort-cpu", sandbox=SandboxOptions())
    sandboxed.load_in_sandbox(load_package(folder, max_bytes=2 * _MIB), options, "ort-cpu")
    assert [job["max_file_bytes"] for job in jobs] == [2 * _MIB]
