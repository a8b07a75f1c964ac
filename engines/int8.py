"""Turns an fp32 graph into an int8 one with explicit Q/DQ nodes, calibrated on the package's own pictures.

The form is the one that TensorRT takes and that ONNX Runtime and OpenVINO run too: symmetric, weights per channel, no
quantised bias. The preprocessing and the last activation stay fp32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from engines.backends.ort_session import library, library_errors, one_line
from engines.base import Images
from engines.errors import PrecisionRejected
from engines.fp16 import constants_to_initializers, edge_nodes

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that are computed in int8; the rest follows where it costs nothing."""

_QUANTISED = (*LAYERS, "Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Clip")


class Int8Converter:
    """Quantises one fp32 serving graph, any number of times with other layers left in fp32.

    ``batch`` holds the calibration pictures, ``(K, H, W, 3)`` uint8 BGR at the model's size.
    """

    def __init__(self, graph: Path, *, input_name: str, batch: Images, step: int) -> None:
        """Fold what can be folded (batch normalisation into its convolution) and name every node."""
        self._input_name = input_name
        self._batch = batch
        self._step = step
        self._model = _folded(graph)
        self._edges = tuple(self._model.graph.node[position].name for position in edge_nodes(self._model.graph))

    @property
    def model(self) -> onnx.ModelProto:
        """The folded fp32 graph, with the same names as the quantised one."""
        return self._model

    def layers(self) -> tuple[str, ...]:
        """Names of the layers that are quantised, in the order of the graph."""
        return tuple(
            node.name for node in self._model.graph.node if node.op_type in LAYERS and node.name not in self._edges
        )

    def convert(self, *, keep: Sequence[str] = ()) -> onnx.ModelProto:
        """Quantise all layers but ``keep``.

        Raises:
            PrecisionRejected: the quantiser cannot take the graph.
        """
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        with tempfile.TemporaryDirectory(prefix="int8-") as work:
            source, target = Path(work) / "folded.onnx", Path(work) / "int8.onnx"
            onnx.save(self._model, source)
            try:
                quantize_static(
                    str(source),
                    str(target),
                    self._reader(),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=True,
                    calibrate_method=CalibrationMethod.MinMax,
                    op_types_to_quantize=list(_QUANTISED),
                    nodes_to_exclude=[*self._edges, *keep],
                    extra_options={
                        "ActivationSymmetric": True,
                        "WeightSymmetric": True,
                        "AddQDQPairToWeight": True,
                        "DedicatedQDQPair": True,
                        "QuantizeBias": False,
                    },
                )
                return onnx.load(target)
            except _quantiser_errors() as exc:
                raise PrecisionRejected(
                    f"the model cannot be quantised to int8: {one_line(exc)}. Use precision fp16 or fp32",
                    precision="int8",
                ) from exc

    def _reader(self) -> Any:
        from onnxruntime.quantization import CalibrationDataReader

        name, batch, step = self._input_name, self._batch, self._step

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
            def __init__(self) -> None:
                self._starts = iter(range(0, len(batch) - step + 1, step))

            def get_next(self) -> dict[str, Images] | None:
                start = next(self._starts, None)
                return None if start is None else {name: batch[start : start + step]}

        return Reader()


def _quantiser_errors() -> tuple[type[Exception], ...]:
    return (*library_errors(), TypeError, KeyError, AssertionError)


def _folded(graph: Path) -> onnx.ModelProto:
    """Let ONNX Runtime fold constants and batch normalisation, which leaves standard operators; name every node."""
    ort = library()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="fold-") as work:
        target = Path(work) / "folded.onnx"
        options.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
            model = onnx.load(target)
        except library_errors() as exc:
            raise PrecisionRejected(
                f"the model cannot be prepared for int8: {one_line(exc)}. Use precision fp16 or fp32", precision="int8"
            ) from exc
    constants_to_initializers(model.graph)
    taken: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{position}"
        taken.add(node.name)
    # Tells the quantiser that folding has been done, which it otherwise asks for in the log.
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnx.quant.pre_process", "onnxruntime.quant"
    return model
