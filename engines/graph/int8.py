"""Converts an fp32 graph to int8 with explicit Q/DQ nodes, calibrated on the package's own images.

Weights are signed, symmetric and per channel; ``int8_forms`` chooses how activations are stored. The preprocessing and
the last activation stay in fp32.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from engines.base import Images
from engines.errors import PrecisionRejected
from engines.graph.fp16 import constants_to_initializers, edge_nodes
from engines.graph.int8_forms import Int8Form
from engines.graph.ort_library import library, library_errors, one_line

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that are computed in int8; the rest follows where it costs nothing."""

_PER_CHANNEL_OPSET = 13
# With asymmetric activations the quantiser removes these: the zero point clips instead.
_REMOVABLE = ("Relu", "Clip")
_QUANTISED = (*LAYERS, "Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Clip")


class Int8Converter:
    """Quantises one fp32 serving graph, any number of times with different layers left in fp32.

    ``batch`` holds the calibration images, ``(K, H, W, 3)`` uint8 BGR at the model's size.
    """

    def __init__(
        self,
        graph: Path,
        *,
        form: Int8Form,
        input_name: str,
        batch: Images,
        step: int,
        ranges: bytes | None = None,
    ) -> None:
        """Fold constants and batch normalisation, and name every node.

        ``ranges`` are those of an earlier converter of the same graph and images, of any form.
        """
        self._form = form
        self._ranges = ranges
        self._input_name = input_name
        self._batch = batch
        self._step = step
        self._model = _folded(graph)
        self._edges = tuple(self._model.graph.node[position].name for position in edge_nodes(self._model.graph))

    @property
    def model(self) -> onnx.ModelProto:
        """The folded fp32 graph, with the same names as the quantised one."""
        return self._model

    @property
    def ranges(self) -> bytes | None:
        """The range of each tensor over the images, in ONNX Runtime's own format.

        None before the first ``convert``, and with an ONNX Runtime that cannot keep them (1.24), which then runs the
        images every time.
        """
        return self._ranges

    def layers(self) -> tuple[str, ...]:
        """Names of the quantised layers, in the order of the graph."""
        return tuple(
            node.name for node in self._model.graph.node if node.op_type in LAYERS and node.name not in self._edges
        )

    def convert(self, *, keep: Sequence[str] = ()) -> onnx.ModelProto:
        """Quantise all layers except ``keep``, which read and compute fp32.

        Raises:
            PrecisionRejected: the quantiser rejects the graph.
        """
        kept = frozenset((*self._edges, *keep)) | _leading_to(self._model.graph, keep)
        if not self._form.is_symmetric:
            kept |= _removable_before(self._model.graph, kept)
        with tempfile.TemporaryDirectory(prefix="int8-") as work:
            try:
                return _reading_fp32(self._quantised(Path(work), kept), kept)
            except _quantiser_errors() as exc:
                raise PrecisionRejected(
                    f"the model cannot be quantised to int8: {one_line(exc)}. Use precision fp16 or fp32",
                    precision="int8",
                ) from exc

    def _quantised(self, work: Path, kept: Collection[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        source, target, ranges = work / "folded.onnx", work / "int8.onnx", work / "ranges.json"
        onnx.save(self._model, source)
        if self._ranges is not None:
            ranges.write_bytes(self._ranges)
        keeps_ranges = "calibration_cache_path" in inspect.signature(quantize_static).parameters
        form = self._form
        quantize_static(
            str(source),
            str(target),
            self._reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8 if form.activations == "uint8" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=form.has_7_bit_weights,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=sorted(kept),
            extra_options={
                "ActivationSymmetric": form.is_symmetric,
                "WeightSymmetric": True,
                # TensorRT wants fp32 weights and biases and quantises them itself. On a CPU int8 weights make the
                # file smaller and the start faster.
                "AddQDQPairToWeight": form.is_symmetric,
                "DedicatedQDQPair": form.is_symmetric,
                "QuantizeBias": not form.is_symmetric,
            },
            **({"calibration_cache_path": ranges} if keeps_ranges else {}),
        )
        self._ranges = ranges.read_bytes() if keeps_ranges else None
        return onnx.load(target)

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


def _leading_to(graph: onnx.GraphProto, layers: Sequence[str]) -> frozenset[str]:
    """Return the nodes between ``layers`` and the layers before them: activations, additions, poolings."""
    producers = {name: node for node in graph.node for name in node.output}
    waiting = [name for node in graph.node if node.name in layers for name in node.input]
    found: set[str] = set()
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.op_type not in LAYERS and node.name not in found:
            found.add(node.name)
            waiting.extend(node.input)
    return frozenset(found)


def _removable_before(graph: onnx.GraphProto, kept: Collection[str]) -> frozenset[str]:
    """Return the Relu and Clip nodes that a kept node reads: without them it would read values not yet clipped."""
    read = {name for node in graph.node if node.name in kept for name in node.input}
    return frozenset(
        node.name for node in graph.node if node.op_type in _REMOVABLE and any(name in read for name in node.output)
    )


def _reading_fp32(model: onnx.ModelProto, kept: frozenset[str]) -> onnx.ModelProto:
    """Let the kept nodes read the fp32 tensors instead of the ones rounded for a quantised neighbour."""
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name not in kept:
            continue
        for place, name in enumerate(node.input):
            restored = producers.get(name)
            rounded = producers.get(restored.input[0]) if restored is not None else None
            if restored is None or rounded is None:
                continue
            if (restored.op_type, rounded.op_type) == ("DequantizeLinear", "QuantizeLinear"):
                node.input[place] = rounded.input[0]
    _drop_unread_rounding(model.graph)
    return model


def _drop_unread_rounding(graph: onnx.GraphProto) -> None:
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in read]:
            graph.node.remove(node)


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise an older opset to the first one whose QuantizeLinear has one scale per channel."""
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    return model if opset >= _PER_CHANNEL_OPSET else version_converter.convert_version(model, _PER_CHANNEL_OPSET)


def _fold_casts(graph: onnx.GraphProto) -> None:
    """Store weights in fp32 that a Cast restores from fp16: behind one the quantiser takes them for no weights."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in weights]:
        values = numpy_helper.to_array(weights[node.input[0]])
        if node.attribute[0].i == onnx.TensorProto.FLOAT and values.dtype == np.float16:
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
            graph.node.remove(node)


def _quantiser_errors() -> tuple[type[Exception], ...]:
    # The quantiser raises these on graphs that it was not written for.
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
            content = _raised(onnx.load(graph)).SerializeToString()
            ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            model = onnx.load(target)
        except _quantiser_errors() as exc:
            raise PrecisionRejected(
                f"the model cannot be prepared for int8: {one_line(exc)}. Use precision fp16 or fp32", precision="int8"
            ) from exc
    constants_to_initializers(model.graph)
    _fold_casts(model.graph)
    taken: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{position}"
        taken.add(node.name)
    # Without this mark the quantiser logs advice to run its own folding first.
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnx.quant.pre_process", "onnxruntime.quant"
    return model
