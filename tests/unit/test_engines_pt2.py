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
from engines.graph.serving_model import build_serving_model
from engines.package.load import load_package
from engines.package.signature.pt2 import read_program
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


def made_program(
    operations: list[tuple[str, dict[str, Any]]], *, names: list[str], keys: Any = None
) -> dict[str, Any]:
    """A program whose operations follow each other from ``x``; the last ``len(names)`` values are its outputs."""
    document = program([1, 3, 6, 8], [1, 5])
    graph, signature = document["graph_module"]["graph"], document["graph_module"]["signature"]
    value, made = "x", []
    graph["nodes"] = []
    for place, (target, flags) in enumerate(operations):
        arguments = [{"name": "input", "arg": {"as_tensor": {"name": value}}}]
        arguments += [{"name": key, "arg": {"as_bool": flag}} for key, flag in flags.items()]
        value = f"v{place}"
        made.append(value)
        graph["tensor_values"][value] = {"dtype": 7, "sizes": [{"as_int": 1}, {"as_int": 5}]}
        node = {"target": f"torch.ops.aten.{target}", "inputs": arguments}
        graph["nodes"].append({**node, "outputs": [{"as_tensor": {"name": value}}]})
    chosen = made[-len(names) :]
    signature["output_specs"] = [{"user_output": {"arg": {"as_tensor": {"name": name}}}} for name in chosen]
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "builtins.dict", "context": json.dumps(keys or names), "children_spec": [leaf] * len(names)}
    document["graph_module"]["module_call_graph"] = [{"signature": {"out_spec": json.dumps([1, tree])}}]
    return document


def chosen(tmp_path: Path, document: dict[str, Any], activation: str, **keys: Any) -> Path:
    folder = write(tmp_path, archive(document))
    manifest = json.loads((folder / "model.yaml").read_text())
    manifest["output"] = {"activation": activation, **keys}
    (folder / "model.yaml").write_text(json.dumps(manifest))
    return folder


def test_the_keys_of_a_returned_dict_name_the_outputs(tmp_path: Path) -> None:
    document = made_program([("linear.default", {}), ("relu.default", {})], names=["logits", "features"])
    with pytest.raises(ModelRejected) as caught:
        load_package(chosen(tmp_path, document, "softmax"))
    for fact in ("2 outputs", "logits (float32 1x5), features (float32 1x5)", "--output-name"):
        assert fact in caught.value.message
    (tmp_path / "named").mkdir()
    package = load_package(chosen(tmp_path / "named", document, "softmax", name="features"))
    assert package.signature.output_name == "features"
    (tmp_path / "wrong").mkdir()
    with pytest.raises(ModelRejected, match="has no output 'scores', but logits"):
        load_package(chosen(tmp_path / "wrong", document, "softmax", name="scores"))


@pytest.mark.parametrize("keys", [["a"], {"a": 1}, '"text"', 5])
def test_a_tree_that_is_no_dict_of_the_outputs_leaves_their_own_names(tmp_path: Path, keys: Any) -> None:
    document = made_program([("linear.default", {}), ("relu.default", {})], names=["a", "b"], keys=keys)
    package = load_package(chosen(tmp_path, document, "softmax", name="v1"))
    assert package.signature.output_name == "v1"


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("collections.OrderedDict", '["logits", "features"]'),
        ("transformers.models.swin.modeling_swin.SwinImageClassifierOutput", '["logits", "features"]'),
        ("shop.Answer", '[["logits", "features"], ["loss"]]'),  # a dataclass
        ("collections.namedtuple", "shop.Pair"),
        ("collections.defaultdict", {"default_factory_name": "list", "dict_context": ["logits", "features"]}),
    ],
)
def test_every_type_that_names_its_values_names_the_outputs(tmp_path: Path, kind: str, context: Any) -> None:
    document = made_program([("linear.default", {}), ("relu.default", {})], names=["a", "b"])
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    tree = {"type": kind, "context": context, "children_spec": [leaf, leaf]}
    module = document["graph_module"]
    module["module_call_graph"] = [{"signature": {"out_spec": json.dumps([1, tree])}}]
    module["treespec_namedtuple_fields"] = {"shop.Pair": {"field_names": ["logits", "features"]}}
    folder = chosen(tmp_path, document, "softmax", name="features")
    assert load_package(folder).signature.output_name == "features"
    found = read_program(folder / "model.pt2", name="model.pt2").containers
    assert found == {"shop.Pair": ("logits", "features"), kind: None}


@pytest.mark.parametrize(
    ("kind", "fits"), [("builtins.dict", True), ("collections.OrderedDict", True), ("shop.Image", False)]
)
def test_a_program_that_takes_a_type_of_a_library_is_refused(tmp_path: Path, kind: str, *, fits: bool) -> None:
    document = made_program([("linear.default", {})], names=["logits"])
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    inner = {"type": kind, "context": '["image"]', "children_spec": [leaf]}
    tree = {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}
    document["graph_module"]["module_call_graph"] = [{"signature": {"in_spec": json.dumps([1, tree])}}]
    folder = chosen(tmp_path, document, "softmax")
    if fits:
        assert load_package(folder).signature.input_name == "x"
        return
    with pytest.raises(ModelRejected, match=r"its input inside a shop\.Image, but an image is given as a tensor"):
        load_package(folder)


@pytest.mark.parametrize("context", ["shop.Pair", 5, "[]", '[["a"]]', '["a", 2]'])
def test_a_type_that_names_nothing_leaves_the_outputs_their_own_names(tmp_path: Path, context: Any) -> None:
    document = made_program([("linear.default", {}), ("relu.default", {})], names=["a", "b"])
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "shop.Pair", "context": context, "children_spec": [leaf, leaf]}
    document["graph_module"]["module_call_graph"] = [{"signature": {"out_spec": json.dumps([1, tree])}}]
    assert load_package(chosen(tmp_path, document, "softmax", name="v1")).signature.output_name == "v1"


@pytest.mark.parametrize(
    ("operations", "activation", "words"),
    [
        ([("linear.default", {}), ("softmax.int", {})], "softmax", "already ends in Softmax"),
        ([("_softmax.default", {}), ("view.default", {})], "softmax", "already ends in Softmax"),
        ([("sigmoid.default", {}), ("squeeze.dim", {})], "sigmoid", "already ends in Sigmoid"),
        ([("log_softmax.int", {})], "none", "log probabilities"),
        (
            [("batch_norm.default", {"training": True}), ("linear.default", {})],
            "softmax",
            "batch_norm is in training mode",
        ),
        ([("dropout.default", {"train": True})], "softmax", "dropout is in training mode"),
    ],
)
def test_the_end_and_the_mode_of_a_program_are_checked(
    tmp_path: Path, operations: list[tuple[str, dict[str, Any]]], activation: str, words: str
) -> None:
    with pytest.raises(ModelRejected, match=words):
        load_package(chosen(tmp_path, made_program(operations, names=["out"]), activation))
    calm = [(target, dict.fromkeys(flags, False)) for target, flags in operations if "train" in str(flags)]
    if calm:
        (tmp_path / "calm").mkdir()
        load_package(chosen(tmp_path / "calm", made_program(calm, names=["out"]), activation))


def test_a_program_that_changes_a_buffer_is_refused(tmp_path: Path) -> None:
    document = made_program([("linear.default", {})], names=["out"])
    change = {"buffer_mutation": {"arg": {"name": "add"}, "buffer_name": "bn.running_mean"}}
    document["graph_module"]["signature"]["output_specs"].append(change)
    with pytest.raises(ModelRejected, match=r"a run changes its buffer bn\.running_mean"):
        load_package(chosen(tmp_path, document, "softmax"))


def test_a_further_input_of_a_program_gets_a_constant(tmp_path: Path) -> None:
    document = made_program([("linear.default", {})], names=["out"])
    spec = {"user_input": {"arg": {"as_tensor": {"name": "mask"}}}}
    document["graph_module"]["signature"]["input_specs"].append(spec)
    document["graph_module"]["graph"]["tensor_values"]["mask"] = {"dtype": 7, "sizes": [{"as_int": 5}]}
    with pytest.raises(ModelRejected, match=r"2 inputs: x \(float32 1x3x6x8\), mask \(float32 5\), but .*--constant"):
        load_package(chosen(tmp_path, document, "softmax"))
    manifest = tmp_path / "trees-1.0.0/model.yaml"
    stated = json.loads(manifest.read_text())
    stated["input"]["constants"] = {"mask": 1}
    manifest.write_text(json.dumps(stated))
    package = load_package(manifest.parent)
    assert (package.signature.input_name, package.input.constants) == ("x", (("mask", (1.0,)),))
