"""`agent model import` refuses a model that would be served wrong, or names the mistake, with both facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.__main__ import main
from engines.package.load import load_package
from tests.fixtures.packages import TinyModel

_PLAIN = ("--preset", "raw255")


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What one of these tests has imported is known to the others, which then start no child for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        yield


def _ending(nodes: Sequence[onnx.NodeProto], dtype: int = TensorProto.FLOAT, **constants: Any) -> onnx.ModelProto:
    """The tiny model with ``nodes`` behind its logits; the last one's output is the model's."""
    model = TinyModel(ending="none", width=24, height=6).proto()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items())
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(nodes[-1].output[0], dtype, [1, 5]))
    return model


def _filled(value: float) -> onnx.ModelProto:
    model = TinyModel().proto()
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full((5, 3, 6, 8), value, np.float32), model.graph.initializer[0].name)
    )
    return model


def _import(model: onnx.ModelProto, folder: Path, labels: str, *options: str) -> int:
    onnx.save(model, folder / "net.onnx")
    (folder / "labels.csv").write_text(labels, encoding="utf-8")
    command = ["model", "import", str(folder / "net.onnx"), "--labels", str(folder / "labels.csv")]
    return main([*command, "--name", "net", "--output", str(folder), *options])


_SOFTMAX = helper.make_node("Softmax", ["logits"], ["p"], axis=1)
_TRAINING = helper.make_node(
    "BatchNormalization",
    ["logits", "one", "zero", "zero", "one"],
    ["q", "m", "v"],
    name="norm",
    training_mode=1,
)
_CLIP = helper.make_node("Clip", ["p", "low", "high"], ["q"])
_PERCENT = [_SOFTMAX, helper.make_node("Mul", ["p", "hundred"], ["q"])]
_REFUSED: dict[str, tuple[onnx.ModelProto, tuple[str, ...], tuple[str, ...]]] = {
    "training mode": (
        _ending([_TRAINING], one=np.ones(5, np.float32), zero=np.zeros(5, np.float32)),
        (),
        ("BatchNormalization 'norm' is in training mode", "but a served model computes as in inference"),
    ),
    "percent": (
        _ending(_PERCENT, hundred=np.float32(100)),
        (),
        ("probabilities times a factor, such as percent, but scores go from 0 to 1",),
    ),
    "zeros": (_filled(0.0), (), ("gives every class the same score (0), but a classifier tells them apart",)),
    "NaN": (_filled(float("nan")), (), ("NaN or infinity", "but")),
    "two softmaxes": (
        _ending([_SOFTMAX, _CLIP], low=np.float32(0), high=np.float32(1)),
        ("--activation", "softmax"),
        ("already ends in Softmax, but the manifest says that softmax is missing",),
    ),
}


@pytest.mark.parametrize("mistake", _REFUSED)
def test_a_model_that_would_be_served_wrong_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    model, options, facts = _REFUSED[mistake]
    model.opset_import[0].version = 15
    assert _import(model, tmp_path, "a\nb\nc\nd\ne", *_PLAIN, *options) == 78
    error = " ".join(capsys.readouterr().err.split())
    for fact in facts:
        assert fact in error
    assert not (tmp_path / "net-1.0.0").exists()


def test_a_quantised_model_is_served_by_its_probabilities_and_every_doubt_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = helper.make_node("QuantizeLinear", ["p", "step", "zero"], ["w"])
    model = _ending([_SOFTMAX, whole], TensorProto.UINT8, step=np.float32(1 / 255), zero=np.uint8(0))
    # Between two layers, as a quantiser of weights and activations writes them.
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(1 / 127, np.float32), "fine"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(0, np.int8), "middle"))
    pair = [
        helper.make_node("QuantizeLinear", ["logits", "fine", "middle"], ["logits_q"]),
        helper.make_node("DequantizeLinear", ["logits_q", "fine", "middle"], ["logits_d"]),
    ]
    place = next(at for at, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    model.graph.node[place].input[0] = "logits_d"
    for node in reversed(pair):
        model.graph.node.insert(place, node)
    labels = "label,index\ncat,1\ndog,0\ncat,2\nfir,4\nelm,3"
    assert _import(model, tmp_path, labels, "--preset", "imagenet") == 0
    warnings = " ".join(capsys.readouterr().err.split())
    assert "computes in int8 already (2 quantised operators), so precision fp32 runs it as it is" in warnings
    assert "several classes have the label 'cat'" in warnings
    assert "keep 11% of a 1920x1080 frame" in warnings
    package = load_package(tmp_path / "net-1.0.0")
    assert package.labels == ("dog", "cat", "cat", "elm", "fir")
    assert package.output.activation == "none"
