"""Graphs made, converted and quantised with the onnx library, ONNX Runtime and tools on top of them, and scikit-learn.

python -m scripts.model_kinds.onnx_kinds FOLDER     in an environment with onnx, onnxruntime, onnxsim, onnxslim,
onnxconverter-common, skl2onnx
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from scripts.model_kinds.kind import CLASSES, SIDE, Kind, images, planes, run_all, save, softmax

_RAW01 = ["--preset", "raw01"]
_EXACT = 1e-4
"""Beyond it a conversion rounds, and the reference is the converted model in plain ONNX Runtime."""


def network(
    *, layout: str = "NCHW", dtype: int = TensorProto.FLOAT, batch: int | str = "batch", ending: str = "",
    opset: int = 13, sides: tuple[int | str, int | str] = (SIDE, SIDE), classes: int | str = CLASSES,
    is_raw: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """Three layers: a convolution, a maximum over the image, and a matrix."""
    random = np.random.default_rng(2)
    weights = {
        "w1": random.normal(0, 0.3, (8, 3, 3, 3)), "b1": random.normal(0, 0.1, 8),
        "w2": random.normal(0, 1.5, (8, CLASSES)), "b2": random.normal(0, 0.1, CLASSES),
    }  # fmt: skip
    if not is_raw:
        middle, factor = _spread()
        weights["w2"], weights["b2"] = weights["w2"] * factor, (weights["b2"] - middle) * factor
    value, nodes = "image", []
    if dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["floats"], to=TensorProto.FLOAT))
        value = "floats"
    if dtype == TensorProto.UINT8:
        weights["step"] = np.array(1 / 255, np.float32)
        nodes.append(helper.make_node("Mul", [value, "step"], ["unit"]))
        value = "unit"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [value], ["nchw"], perm=[0, 3, 1, 2]))
        value = "nchw"
    nodes += [
        helper.make_node("Conv", [value, "w1", "b1"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalMaxPool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"]),
    ]
    if ending:
        nodes.append(helper.make_node(ending, ["logits"], ["ended"]))
    pixels = (batch, 3, *sides) if layout == "NCHW" else (batch, *sides, 3)
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", dtype, pixels)],
        [helper.make_tensor_value_info("ended" if ending else "logits", TensorProto.FLOAT, (batch, classes))],
        [numpy_helper.from_array(np.asarray(array, np.float32), key) for key, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


@functools.cache
def _spread() -> tuple[Any, float]:
    """Mean and factor that make the logits differ between the images as those of a trained model do."""
    logits = _run(network(batch=len(images()), is_raw=True), {"image": planes(images())})
    return logits.mean(0), float(1.5 / (logits - logits.mean(0)).std())


def _plain_scores() -> Any:
    """Logits of the plain network by ONNX Runtime."""
    return _run(network(batch=len(images())), {"image": planes(images())})


def _run(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def _save(
    folder: Path,
    name: str,
    model: onnx.ModelProto,
    scores: Any,
    *,
    tool: str = "onnx",
    options: list[str] | None = None,
    **more: Any,
) -> None:
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    tools = ", ".join(f"{one} {version(one)}" for one in tool.split(", "))
    save(folder, Kind(name=name, tool=tools, file=f"{name}.onnx", options=options or _RAW01, **more), scores)


def _made(
    folder: Path,
    name: str,
    *,
    scores: Callable[[Any], Any] = softmax,
    options: list[str] | None = None,
    refusal: str | None = None,
    **network_keys: Any,
) -> None:
    _save(
        folder,
        name,
        network(**network_keys),
        None if refusal else scores(_plain_scores()),
        options=options,
        refusal=refusal,
    )


def _changed(
    folder: Path,
    name: str,
    *,
    change: Callable[[onnx.ModelProto], onnx.ModelProto | None],
    tool: str = "onnx",
    tolerance: float = 1e-4,
    refusal: str | None = None,
    options: list[str] | None = None,
) -> None:
    model = network()
    model = change(model) or model
    if refusal is None and tolerance > _EXACT:
        raw = np.concatenate([_run(model, {"image": image[None]}) for image in planes(images())])
        return _save(folder, name, model, softmax(raw), tool=tool, tolerance=tolerance, options=options)
    return _save(
        folder,
        name,
        model,
        None if refusal else softmax(_plain_scores()),
        tool=tool,
        tolerance=tolerance,
        refusal=refusal,
        options=options,
    )


class _Reader:
    """Calibration on the images themselves."""

    def __init__(self) -> None:
        self._images = iter(planes(images()))

    def get_next(self) -> dict[str, Any] | None:
        """One image, then None."""
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def _quantised(folder: Path, name: str, *, form: str) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_dynamic, quantize_static

    source, target = folder / f".{name}.tmp", folder / f"{name}.onnx"
    onnx.save(network(), source)
    if form == "dynamic":
        quantize_dynamic(source, target)
    else:
        quantize_static(source, target, _Reader(), quant_format=QuantFormat[form], per_channel=False)
    source.unlink()
    model = onnx.load(target)
    raw = np.concatenate([_run(model, {"image": image[None]}) for image in planes(images())])
    save(
        folder,
        Kind(
            name=name,
            tool=f"onnxruntime {onnxruntime.__version__}, {form}",
            file=target.name,
            options=_RAW01,
            tolerance=1e-3,
        ),
        softmax(raw),
    )


def _half_weights(model: onnx.ModelProto) -> None:
    for tensor in list(model.graph.initializer):
        halved = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}_h")
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(halved)
        model.graph.node.insert(0, helper.make_node("Cast", [halved.name], [tensor.name], to=TensorProto.FLOAT))


def _half_model(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxconverter_common import float16

    made: onnx.ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    return made


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    made: onnx.ModelProto = onnxsim.simplify(model)[0]
    return made


def _slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    made: onnx.ModelProto = onnxslim.slim(model)
    return made


def _optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as work:
        options.optimized_model_filepath = f"{work}/optimised.onnx"
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _zeros(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))


def _not_a_number(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[2]
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), np.nan), tensor.name))


def _function(model: onnx.ModelProto) -> None:
    """The activation as a local function, as exporters write whole modules."""
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("mine", "Act", ["x"], ["y"], body, [helper.make_opsetid("", 13)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Act", "mine"


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "Magic", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _old_inputs(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))


def _sklearn(folder: Path, name: str, *, zipmap: bool, model: Callable[[], Any], output: str) -> None:
    """A classifier of flattened pixels, with the flattening put before it."""
    from skl2onnx import to_onnx

    pixels = planes(images(16)).reshape(len(images()), -1)
    random = np.random.default_rng(5)
    many = random.random((60, pixels.shape[1]), np.float32)
    fitted = model().fit(many, np.arange(60) % CLASSES)
    graph = to_onnx(fitted, many[:1], options={id(fitted): {"zipmap": zipmap}}, target_opset={"": 13, "ai.onnx.ml": 1})
    source = graph.graph.input[0].name
    graph.graph.node.insert(0, helper.make_node("Flatten", ["image"], [source]))
    graph.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, (None, 3, 16, 16)))
    _save(
        folder,
        name,
        graph,
        fitted.predict_proba(pixels),
        tool="scikit-learn, skl2onnx",
        options=[*_RAW01, "--output-name", output],
        side=16,
    )


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=50)


def _mlp() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((16,), max_iter=20, random_state=1)


def makers() -> dict[str, Callable[[Path, str], None]]:
    """Every kind by name."""
    found: dict[str, Callable[..., None]] = {
        "onnx-nhwc": partial(_made, layout="NHWC"),
        "onnx-uint8": partial(_made, dtype=TensorProto.UINT8, options=["--preset", "raw255"]),
        "onnx-uint8-nhwc": partial(_made, dtype=TensorProto.UINT8, layout="NHWC", options=["--preset", "raw255"]),
        "onnx-float16-input": partial(_made, dtype=TensorProto.FLOAT16),
        "onnx-float64-input": partial(_made, dtype=TensorProto.DOUBLE, refusal="takes float64"),
        "onnx-batch-8": partial(_made, batch=8),
        "onnx-dynamic-sides": partial(_made, sides=("h", "w"), options=[*_RAW01, "--size", f"{SIDE}x{SIDE}"]),
        "onnx-dynamic-classes": partial(_made, classes="classes"),
        "onnx-softmax": partial(_made, ending="Softmax"),
        "onnx-opset-7": partial(_made, opset=7),
        "onnx-opset-21": partial(_made, opset=21),
        "onnx-local-function": partial(_changed, change=_function),
        "onnx-foreign-operator": partial(_changed, change=_unknown_operator, refusal="com.example"),
        "onnx-ir-3": partial(_changed, change=_old_inputs),
        "onnx-half-weights": partial(_changed, change=_half_weights, tolerance=5e-3),
        "onnx-zeros": partial(_changed, change=_zeros, refusal="same score"),
        "onnx-nan": partial(_changed, change=_not_a_number, refusal="fp16"),
        "onnxconverter-float16": partial(_changed, change=_half_model, tool="onnxconverter-common", tolerance=5e-3),
        "onnxsim": partial(_changed, change=_simplified, tool="onnxsim"),
        "onnxslim": partial(_changed, change=_slimmed, tool="onnxslim"),
        "onnxruntime-optimised": partial(_changed, change=_optimised, tool="onnxruntime"),
        "sklearn-logistic": partial(_sklearn, zipmap=False, model=_logistic, output="probabilities"),
        "sklearn-zipmap": partial(_sklearn, zipmap=True, model=_logistic, output="output_probability"),
        "sklearn-mlp": partial(_sklearn, zipmap=False, model=_mlp, output="probabilities"),
    }  # fmt: skip
    for form in ("QDQ", "QOperator", "dynamic"):
        found[f"onnxruntime-{form.lower()}"] = partial(_quantised, form=form)
    return found


if __name__ == "__main__":
    run_all(makers(), Path(sys.argv[1]), sys.argv[2:])
