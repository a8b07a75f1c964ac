"""The serving graph in the wanted precision, from the cache or made from the fp32 one.

Precision lives in the graph: one file serves TensorRT, ONNX Runtime and OpenVINO alike. What is cached is named by the
hashes of all that it was made from, and checked against its own hash before it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from engines.atomic import write_atomically
from engines.backends.ort_session import library
from engines.base import Precision
from engines.errors import PrecisionRejected
from engines.fp16 import half_model
from engines.graph import ServingGraph, serving_graph
from engines.int8 import Int8Converter
from engines.int8_search import quantise_to_bar
from engines.package import ModelPackage
from engines.parity import BARS, pictures_from, pictures_of

# Raised whenever a converter gives another graph for the same input.
_CONVERTER = 1
# MinMax calibration changes little beyond this many pictures, and each costs a run of the model with all its tensors.
_MOST_CALIBRATION = 256


@dataclass(frozen=True, slots=True)
class PreciseGraph:
    """A serving graph and, for int8, the layers that were left in fp32 for the answers' sake."""

    graph: ServingGraph
    kept_layers: tuple[str, ...] = ()


def precise_graph(package: ModelPackage, *, cache_dir: Path, precision: Precision) -> PreciseGraph:
    """Give the serving graph of ``package`` in ``precision``.

    Raises:
        ModelRejected: the model cannot be served at all.
        PrecisionRejected: int8 without calibration pictures, or answers that int8 does not keep.
    """
    base = serving_graph(package, cache_dir=cache_dir)
    if precision == "fp32":
        return PreciseGraph(base)
    inputs = _inputs(package, base, precision)
    stem = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_dir / "precision" / f"{package.name}-{package.version}-{precision}-{stem}.onnx"
    kept = _load(path)
    if kept is None:
        model, kept = _half(base) if precision == "fp16" else _int8(package, base)
        _store(path, model, {"inputs": inputs, "kept_layers": list(kept)})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    graph = ServingGraph(
        path=path,
        sha256=digest,
        precision=precision,
        max_batch=base.max_batch,
        input_name=base.input_name,
        output_name=base.output_name,
    )
    return PreciseGraph(graph, kept)


def _inputs(package: ModelPackage, base: ServingGraph, precision: Precision) -> dict[str, object]:
    if precision == "int8" and not package.calibration:
        raise PrecisionRejected(
            f"int8 was asked for and the package {package.directory.name} has no calibration pictures. Put 50 or more "
            "typical pictures into its calibration folder and name it in model.yaml, or use fp16",
            precision=precision,
            package=package.directory.name,
        )
    inputs: dict[str, object] = {"graph": base.sha256, "converter": _CONVERTER, "onnx": onnx.__version__}
    if precision == "int8":
        pictures = [*package.calibration, *(golden.path for golden in package.golden)]
        inputs["pictures"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures]
        inputs["input"] = repr(package.input)
        inputs["onnxruntime"] = str(library().__version__)
    return inputs


def _half(base: ServingGraph) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    try:
        return half_model(onnx.load(base.path)), ()
    except (onnx.shape_inference.InferenceError, ValueError, TypeError) as exc:
        raise PrecisionRejected(
            f"the model cannot be converted to fp16: {exc}. Use precision fp32", precision="fp16"
        ) from exc


def _int8(package: ModelPackage, base: ServingGraph) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    step = base.max_batch or 1
    calibration = pictures_from(package, package.calibration[:_MOST_CALIBRATION]).batch
    pictures = pictures_of(package).batch
    if len(calibration) < step:
        raise PrecisionRejected(
            f"int8 needs at least {step} calibration pictures for this model's fixed batch, the package has "
            f"{len(calibration)}. Add pictures to its calibration folder",
            precision="int8",
        )
    converter = Int8Converter(base.path, input_name=base.input_name, batch=calibration, step=step)
    result = quantise_to_bar(
        converter,
        pictures,
        input_name=base.input_name,
        output_name=base.output_name,
        step=step,
        bar=BARS["int8"],
    )
    return result.model, result.kept_layers


def _load(path: Path) -> tuple[str, ...] | None:
    """Give the kept layers of an intact cached graph, None where it must be made."""
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        is_intact = hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
        return tuple(map(str, record["kept_layers"])) if is_intact else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(path: Path, model: onnx.ModelProto, record: Mapping[str, object]) -> None:
    """Write graph and record, each atomically; the record last, which makes the pair valid."""
    content = model.SerializeToString()
    full = {**record, "sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(path, content)
    write_atomically(path.with_suffix(".json"), json.dumps(full, indent=1).encode())
