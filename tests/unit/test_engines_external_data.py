"""Tensors in other files: what is loaded is what was hashed, and all of it together is limited."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines import ModelRejected
from engines.package.model_file import read_onnx

_FOUR = np.array([1, 2, 3, 4], "<f4").tobytes()


def _model(*places: dict[str, str] | list[tuple[str, str]], dims: tuple[int, ...] = (4,)) -> onnx.ModelProto:
    """A sum of one tensor for each place, each of ``dims`` floats."""
    tensors = []
    for number, place in enumerate(places):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items() if isinstance(place, dict) else place:
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    names = [tensor.name for tensor in tensors]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    graph = helper.make_graph([helper.make_node("Sum", names, ["y"])], "g", [], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def _read(folder: Path, model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return read_onnx(folder / "model.onnx", root=folder)


def _refusal(folder: Path, model: onnx.ModelProto) -> str:
    with pytest.raises(ModelRejected) as caught:
        _read(folder, model)
    return caught.value.message


def test_a_tensor_gets_the_bytes_of_its_place_and_the_hash_covers_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xxxx" + _FOUR + b"tail")
    (tmp_path / "b").write_bytes(_FOUR)
    place = {"location": "a", "offset": "4", "length": "16", "checksum": "0"}
    model, digest = _read(tmp_path, _model({"location": "b"}, place, place))
    assert [bytes(tensor.raw_data) for tensor in model.graph.initializer] == [_FOUR] * 3
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    whole = (tmp_path / "model.onnx").read_bytes() + b"xxxx" + _FOUR + b"tail" + _FOUR
    assert digest == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ([("location", "a"), ("location", "b")], "states location more than once"),
        ([("location", "a"), ("offset", "0"), ("offset", "4")], "states offset more than once"),
        ([("offset", "0")], "location, offset and length"),
        ([("location", "a"), ("basepath", "/etc")], "location, offset and length"),
        ([("location", "a"), ("length", "12")], "has 12 bytes, but its shape and type need 16"),
        ([("location", "a"), ("length", "1700000000")], "bytes, but its shape and type need 16"),
        ([("location", "a"), ("offset", "-4")], "'-4', but a number"),
        ([("location", "a"), ("offset", "٤")], "'٤', but a number"),
        ([("location", "a"), ("offset", "9" * 30)], "but a number of bytes"),
        ([("location", "a"), ("offset", "4")], "ends at byte 20 of"),
    ],
)
def test_a_place_that_is_not_stated_once_and_exactly_is_refused(
    tmp_path: Path, place: list[tuple[str, str]], words: str
) -> None:
    (tmp_path / "a").write_bytes(_FOUR)
    (tmp_path / "b").write_bytes(b"evil" * 4)
    assert words in _refusal(tmp_path, _model(place))


@pytest.mark.parametrize("change", [
    lambda tensor: setattr(tensor, "raw_data", _FOUR),
    lambda tensor: setattr(tensor, "data_type", TensorProto.STRING),
    lambda tensor: setattr(tensor, "data_type", 99),
    lambda tensor: tensor.dims.append(-1),
])  # fmt: skip
def test_a_tensor_whose_bytes_cannot_be_counted_is_refused(
    tmp_path: Path, change: Callable[[onnx.TensorProto], object]
) -> None:
    (tmp_path / "a").write_bytes(_FOUR)
    model = _model({"location": "a"})
    change(model.graph.initializer[0])
    assert "external data of tensor 'w0'" in _refusal(tmp_path, model)


_LIMITED = """
import resource, sys
from pathlib import Path
from engines import ModelRejected
from engines.package.model_file import read_onnx
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_onnx(Path(sys.argv[1]), root=Path(sys.argv[1]).parent)
except ModelRejected as exc:
    print(exc.message)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_many_tensors_of_one_sparse_file_do_not_fill_the_memory(tmp_path: Path) -> None:
    """24 tensors of 64 MiB each, in a model of less than 2 KB and a file that needs no disk."""
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(64 << 20)
    model = _model(*[{"location": "sparse"}] * 24, dims=(16 << 20,))
    assert len(model.SerializeToString()) < 2048
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", _LIMITED, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    message, grown_mib = done.stdout.splitlines()
    assert "keeps 24 tensors of 1610612736 bytes in other files, but " in message
    assert "max_file_mib in the configuration, or the command's --max-file-mib, to 1537 if" in message
    assert int(grown_mib) < 32


def test_a_file_larger_than_the_limit_is_refused_without_reading_it(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2 << 30)
    assert "has 2147483648 bytes, but" in _refusal(tmp_path, _model({"location": "sparse"}))


def test_a_model_and_its_external_data_share_one_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(_FOUR)
    model = _model({"location": "a"})
    _read(tmp_path, model)
    size = (tmp_path / "model.onnx").stat().st_size
    assert read_onnx(tmp_path / "model.onnx", root=tmp_path, max_bytes=size + 16)
    with pytest.raises(
        ModelRejected, match=rf"1 tensors of 16 bytes in other files, but 15 is the limit beside .* {size}"
    ):
        read_onnx(tmp_path / "model.onnx", root=tmp_path, max_bytes=size + 15)
