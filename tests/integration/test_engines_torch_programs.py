"""`agent model import` and `agent verify` take a torch.export program, as they take an ONNX model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from agent.__main__ import main
from engines import EngineOptions, load_package, open_engine
from tests.fixtures.torch_packages import write_torch_package

pytest.importorskip("torch", reason="PyTorch is not installed here")

_PREPROCESSING = ("--preset", "raw01", "--resize", "stretch")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, of which only the model, the labels and the images are taken."""
    return write_torch_package(tmp_path_factory.mktemp("torch"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


def _import(made: Path, out: Path, *more: str) -> int:
    golden = [f"--golden={made / 'golden' / label}.png={label}" for label in ("red", "blue")]
    command = ["model", "import", str(made / "model.pt2"), "--labels", str(made / "labels.txt"), "--name", "colours"]
    return main([*command, "--output", str(out), *_PREPROCESSING, *golden, *more])


def test_an_import_makes_a_package_of_the_same_program(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _import(made, tmp_path, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["format"], answer["passed"], answer["batch"]) == ("pt2", True, "dynamic")
    assert [(one["expected"], one["got"]) for one in answer["golden_results"]] == [("red", "red"), ("blue", "blue")]
    package = load_package(tmp_path / "colours-1.0.0")
    assert (package.format, package.output.activation) == ("pt2", "softmax")
    assert package.model_path.read_bytes() == (made / "model.pt2").read_bytes()


def test_a_wrong_golden_image_keeps_a_program_from_being_imported(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red = made / "golden/red.png"
    assert _import(made, tmp_path, f"--golden={red}=green") == 78
    assert "expected 'green', got 'red'" in capsys.readouterr().err
    assert not (tmp_path / "colours-1.0.0").exists()


def test_a_program_above_the_limit_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = tmp_path / "large.pt2"
    large.write_bytes((made / "model.pt2").read_bytes() + bytes(1 << 20))
    command = ["model", "import", str(large), "--labels", str(made / "labels.txt"), "--output", str(tmp_path)]
    assert main([*command, *_PREPROCESSING, "--max-file-mib", "1"]) == 78
    assert f"{large} has {large.stat().st_size} bytes, but the limit is {1 << 20} (1 MiB)" in capsys.readouterr().err


def test_verify_takes_an_imported_program(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _import(made, tmp_path, "--evaluation", str(made / "calibration")) == 0
    capsys.readouterr()
    command = ["verify", "--package", str(tmp_path / "colours-1.0.0"), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    assert (certificate["engine"], certificate["reference"]) == ("torch", "torch fp32")
    assert (certificate["passed"], certificate["non_finite"], certificate["is_of_reference"]) == (True, 0, True)
    count = len(list((made / "calibration").glob("*.png"))) + 2
    assert (certificate["images"], certificate["comparison"]["changed"]) == (count, 0)
    assert certificate["max_abs_difference"] < 1e-5
    assert main([*command, "--engine", "ort-cpu"]) == 69
    assert "needs an ONNX model" in capsys.readouterr().err


class _Answer(dict[str, Any]):
    """An output as transformers defines one beside each of its models."""


class _Pair(NamedTuple):
    features: Any
    logits: Any


@dataclasses.dataclass
class _Record:
    features: Any
    logits: Any


_KINDS: dict[str, Callable[[Any], Any]] = {
    "a dict of its own type": _Answer,
    "one inside another": lambda values: _Answer(inner=_Answer(values)),
    "a named tuple": lambda values: _Pair(**values),
    "a dataclass": lambda values: _Record(**values),
}


def _register(tree: Any) -> None:
    """As the libraries do that define these types."""
    tree.register_pytree_node(
        _Answer,
        lambda answer: ([*answer.values()], [*answer]),
        lambda values, keys: _Answer(zip(keys, values, strict=True)),
        serialized_type_name="shop.Answer",
        flatten_with_keys_fn=tree._dict_flatten_with_keys,
    )
    tree._register_namedtuple(_Pair, serialized_type_name="shop.Pair")
    tree.register_dataclass(_Record, serialized_type_name="shop.Record")


@pytest.mark.parametrize("kind", _KINDS)
def test_a_program_with_types_of_a_library_that_is_absent_is_served(tmp_path: Path, kind: str) -> None:
    import torch

    tree = torch.utils._pytree

    class Program(torch.nn.Module):  # type: ignore[misc]  # the library has no types here
        def forward(self, image: Any) -> Any:
            return _KINDS[kind]({"features": image.amax((2, 3)), "logits": image.mean((2, 3)) * 9})

    _register(tree)
    try:
        program = torch.export.export(Program(), (torch.zeros((1, 3, 32, 32)),))
        torch.export.save(program, tmp_path / "model.pt2")
    finally:
        for known in (_Answer, _Pair, _Record):
            tree._deregister_pytree_node(known)
    (tmp_path / "labels.txt").write_text("a\nb\nc", encoding="utf-8")
    name = "logits" if kind != "one inside another" else "mul"
    command = ["model", "import", str(tmp_path / "model.pt2"), "--labels", str(tmp_path / "labels.txt")]
    options = ["--output-name", name, "--name", "absent", "--output", str(tmp_path), *_PREPROCESSING]
    assert main([*command, *options]) == 0
    with open_engine(load_package(tmp_path / "absent-1.0.0"), EngineOptions(cache_dir=tmp_path)) as engine:
        scores = engine.infer(np.full((1, 32, 32, 3), (0, 51, 255), np.uint8))  # BGR
    wanted = np.exp(np.array([9.0, 1.8, 0.0]))
    np.testing.assert_allclose(scores[0], wanted / wanted.sum(), atol=1e-5)
