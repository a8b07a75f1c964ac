"""torch.export archives are read without torch and checked like ONNX models."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engines.errors import ModelRejected
from engines.graph.serving import build_serving_model
from engines.package.load import load_package
from tests.fixtures.packages import PackageFiles, TinyModel

_DYNAMIC = {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": {"as_int": 2}}}


def program(input_sizes: list[Any], output_sizes: list[Any], *, dtype: int = 7, outputs: int = 1) -> dict[str, Any]:
    def sizes(dims: list[Any]) -> list[Any]:
        return [dim if isinstance(dim, dict) else {"as_int": dim} for dim in dims]

    specs: list[Any] = [{"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}}]
    specs.append({"user_input": {"arg": {"as_tensor": {"name": "x"}}}})
    values = {
        "x": {"dtype": dtype, "sizes": sizes(input_sizes)},
        "flatten": {"dtype": 7, "sizes": sizes(output_sizes)},
    }
    return {
        "graph_module": {
            "graph": {"tensor_values": values},
            "signature": {
                "input_specs": specs,
                "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "flatten"}}}}] * outputs,
            },
        }
    }


def archive(*programs: Any, path: str = "trees/models/model.json") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("trees/data/weights/weight_0", b"0" * 100)
        file.writestr("trees/data/weights/model_weights_config.json", b"{}")
        for place, each in enumerate(programs):
            file.writestr(path.replace("model.json", f"model{place or ''}.json"), json.dumps(each))
    return stream.getvalue()


def write(tmp_path: Path, data: bytes) -> Path:
    files = PackageFiles.of(TinyModel())
    files.manifest |= {"file": "model.pt2", "sha256": hashlib.sha256(data).hexdigest()}
    files.extra["model.pt2"] = data
    return files.write(tmp_path)


@pytest.mark.parametrize("path", ["trees/models/model.json", "serialized_exported_program.json"])
@pytest.mark.parametrize(("batch", "found"), [(1, 1), (_DYNAMIC, None)])
def test_a_signature_is_read_from_the_archive(tmp_path: Path, path: str, batch: Any, found: int | None) -> None:
    package = load_package(write(tmp_path, archive(program([batch, 3, 6, 8], [batch, 5]), path=path)))
    signature = package.signature
    assert package.format == "pt2"
    assert (signature.input_name, signature.output_name) == ("x", "flatten")
    assert (signature.layout, signature.dtype, signature.batch, signature.classes) == ("NCHW", "float32", found, 5)


def test_a_half_precision_channels_last_program_is_recognised(tmp_path: Path) -> None:
    signature = load_package(write(tmp_path, archive(program([1, 6, 8, 3], [1, 5], dtype=6)))).signature
    assert (signature.layout, signature.dtype) == ("NHWC", "float16")


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (archive(program([1, 3, 9, 9], [1, 5])), ["1x3x9x9", "width 8, height 6"]),
        (archive(program([1, 3, 6, 8], [1, 4])), ["5 labels", "4 classes"]),
        (archive(program([1, 3, 6, 8], [1, 5, 7, 7])), ["1x5x7x7"]),
        (archive(program([1, 3, 6, 8], [1, 5], dtype=4)), ["int32", "float32"]),
        (archive(program([1, 3, 6, 8], [1, 5], outputs=2)), ["2 outputs"]),
        (archive(), ["0 programs"]),
        (archive(program([1, 3, 6, 8], [1, 5]), program([1, 3, 6, 8], [1, 5])), ["2 programs", "model1.json"]),
        (archive({"graph_module": {}}), ["not written as torch.export does", "KeyError"]),
        (archive([]), ["not written as torch.export does"]),
        (archive(program([1, 3, 6, 8], [1, 5]))[:-30], ["not a whole torch.export archive"]),
        (b"\x80\x02}q", ["pickle"]),
        (b"hello", ["no zip header"]),
        (b"", ["0 bytes"]),
    ],
)
def test_an_archive_that_does_not_fit_is_refused_with_the_facts(tmp_path: Path, data: bytes, facts: list[str]) -> None:
    with pytest.raises(ModelRejected) as caught:
        load_package(write(tmp_path, data))
    for fact in facts:
        assert fact in caught.value.message


def test_a_torch_program_has_no_serving_graph(tmp_path: Path) -> None:
    package = load_package(write(tmp_path, archive(program([1, 3, 6, 8], [1, 5]))))
    with pytest.raises(ModelRejected, match=r"model\.pt2 is a torch\.export program.*engine: torch"):
        build_serving_model(package)
