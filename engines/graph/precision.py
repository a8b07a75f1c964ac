"""The serving graph in the wanted precision, from the cache or converted from the fp32 one.

The graph holds the precision: fp32 and fp16 are one file for all engines, int8 is one file for each form that engines
take. Cached files are named by the hashes of everything they are made from, and checked against their own hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import Precision
from engines.errors import PrecisionRejected
from engines.graph.image_set import Division, divided, image_set_from
from engines.graph.int8_forms import Int8Form, int8_form
from engines.graph.ort_library import library
from engines.graph.serving import ServingGraph, serving_graph
from engines.host import installed_version
from engines.package.images import image_hashes
from engines.package.load import ModelPackage
from engines.store.files import cache_errors, content_address, content_hash, read_with_checksum, write_with_checksum
from engines.store.records import JsonRecord

if TYPE_CHECKING:
    import onnx

# Raised when a converter gives another graph for the same input, so that cached graphs are converted again.
_CONVERTER = 4


@dataclass(frozen=True, slots=True)
class PreciseGraph:
    """A serving graph and, for int8, the layers left in fp32 for accuracy."""

    graph: ServingGraph
    kept_layers: tuple[str, ...] = ()


def precise_graph(
    package: ModelPackage, *, cache_dir: Path, precision: Precision, engine: str = "tensorrt"
) -> PreciseGraph:
    """Return the serving graph of ``package`` in ``precision``; for int8 in the form that ``engine`` takes.

    The default engine gets the symmetric form, which every engine can run and which is slow on a CPU.

    Raises:
        ModelRejected: the model cannot be served at all.
        PrecisionRejected: int8 without calibration images, or int8 fails the accuracy check.
        EngineUnavailable: the cache directory cannot be used.
    """
    base = serving_graph(package, cache_dir=cache_dir)
    if precision == "fp32":
        return PreciseGraph(base)
    form = int8_form(engine) if precision == "int8" else None
    sources = _sources(package, base, precision)
    inputs = {**sources, "form": form.facts()} if form else sources
    stem = f"{package.name}-{package.version}-{precision}"
    path = cache_dir / "precision" / f"{stem}-{content_address(inputs)}.onnx"
    record: JsonRecord[tuple[str, ...]] = JsonRecord(
        path.with_suffix(".json"), encode=list, decode=lambda names: tuple(map(str, names)), facts=inputs
    )
    kept = record.load()
    with cache_errors(cache_dir):
        content = read_with_checksum(path)
    if kept is None or content is None:
        ranges = _Ranges(path.with_name(f"{stem}-ranges-{content_address(sources)}.json"))
        model, kept = _int8(package, base, form, ranges) if form else _half(base)
        content = model.SerializeToString()
        with cache_errors(cache_dir):
            # The record first: the checksum, written last, makes both files valid.
            record.save(kept)
            write_with_checksum(path, content)
    return PreciseGraph(replace(base, path=path, sha256=content_hash(content), precision=precision), kept)


def conversion(package: ModelPackage, precision: Precision, engines: Iterable[str]) -> dict[str, object]:
    """Return what the graphs of ``engines`` depend on besides the fp32 one: converter, forms, images."""
    if precision == "fp32":
        return {}
    facts: dict[str, object] = {"converter": _CONVERTER, "onnx": installed_version("onnx")}
    if precision == "int8":
        facts["forms"] = {engine: int8_form(engine).label for engine in engines}
        facts["images"] = _int8_images(package)
    return facts


def _int8_images(package: ModelPackage) -> dict[str, object]:
    """Return what int8 is calibrated on, and what the search for its layers is judged on, by hashes."""
    division = divided(package)
    return {
        "calibrated": image_hashes(division.calibrated),
        "held_out": image_hashes(division.held_out),
        "judged_by": [package.output.task.value, *package.output.thresholds],
    }


def _sources(package: ModelPackage, base: ServingGraph, precision: Precision) -> dict[str, object]:
    """Return what a graph is made from, and what the ranges that all int8 forms share depend on."""
    if precision == "int8" and not package.calibration:
        raise PrecisionRejected(
            f"int8 was requested, but the package {package.directory.name} has no calibration images. Put 50 or more "
            "typical images into its calibration folder and name it in model.yaml, or use fp16",
            precision=precision,
            package=package.directory.name,
        )
    sources: dict[str, object] = {"graph": base.sha256, "converter": _CONVERTER, "onnx": installed_version("onnx")}
    if precision == "int8":
        sources["images"] = _int8_images(package)
        sources["input"] = repr(package.input)
        sources["onnxruntime"] = str(library().__version__)
    return sources


def _half(base: ServingGraph) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    import onnx

    from engines.graph.fp16 import half_model

    try:
        return half_model(onnx.load(base.path)), ()
    except (onnx.shape_inference.InferenceError, ValueError, TypeError) as exc:
        raise PrecisionRejected(
            f"the model cannot be converted to fp16: {exc}. Use precision fp32", precision="fp16"
        ) from exc


class _Ranges:
    """The tensors' ranges over the calibration images, cached with a checksum: measured once for all forms."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> bytes | None:
        try:
            return read_with_checksum(self._path)
        except OSError:
            return None

    def save(self, content: bytes | None) -> None:
        if content is not None:
            with cache_errors(self._path.parent):
                write_with_checksum(self._path, content)


def _int8(
    package: ModelPackage, base: ServingGraph, form: Int8Form, ranges: _Ranges
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    import onnx

    from engines.graph.agreement import BARS, compare_scores
    from engines.graph.int8 import Int8Converter
    from engines.graph.int8_search import quantise_to_agreement
    from engines.package.graph_faults import quantised_operators

    if count := quantised_operators(onnx.load(base.path)):
        raise PrecisionRejected(
            f"int8 was requested, but the model computes in int8 already ({count} quantised operators). Use precision "
            "fp32, which runs it as it is, or import the fp32 model",
            precision="int8",
        )
    step = base.max_batch or 1
    division = divided(package)
    for paths, what in ((division.calibrated, "to calibrate on"), (division.held_out, "that it is not calibrated on")):
        if len(paths) < step:
            text = (
                f"int8 needs at least {step} images {what}, but the package {package.directory.name} has {len(paths)}"
            )
            raise PrecisionRejected(f"{text}. {_more_images(package, division)}", precision="int8")
    known = ranges.load()
    converter = Int8Converter(
        base.path,
        form=form,
        input_name=base.input_name,
        batch=image_set_from(package, division.calibrated).batch,
        step=step,
        ranges=known,
    )
    held_out = image_set_from(package, division.held_out)
    rows = held_out.telling_rows()
    result = quantise_to_agreement(
        converter,
        held_out.batch[rows] if len(rows) >= step else held_out.batch,
        input_name=base.input_name,
        output_name=base.output_name,
        step=step,
        # Without a tie rule, so that a graph that passes here passes the accuracy check too.
        compare=partial(compare_scores, package, tie_ratio=0.0),
        bars=BARS["int8"],
    )
    if known is None:
        ranges.save(converter.ranges)
    return result.model, result.kept_layers


def _more_images(package: ModelPackage, division: Division) -> str:
    if not package.evaluation or not package.calibration:
        return (
            "Add images to its calibration folder, of which every second one is held out, or name a folder of others "
            "in model.yaml: evaluation"
        )
    left_out = len(package.calibration) - len(division.calibrated)
    return (
        f"{left_out} of the {len(package.calibration)} images in its calibration folder are there twice, or judge: "
        "they are golden or in the evaluation folder too. Add images that are in none of the others"
    )
