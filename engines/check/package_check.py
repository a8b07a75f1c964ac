"""The package check: the package loads, its scores are probabilities, its golden images are classified as expected."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engines.backends.load import open_backend
from engines.base import OUTPUT_NAME, Engine, EngineOptions, Images, features_of
from engines.check.golden import GoldenReport, run_golden
from engines.errors import InferenceFailed, ModelRejected
from engines.graph.agreement import BARS
from engines.graph.batch_dimension import noise_images, run_serving_model
from engines.graph.image_set import divided
from engines.graph.resize import Resizer
from engines.graph.serving_model import build_serving_model, max_batch_of
from engines.package.activation import RawScores, judge_activation, last_operator, raw_scores
from engines.package.graph_faults import quantised_operators
from engines.package.images import read_image
from engines.package.labels import repeated_labels
from engines.package.load import ModelPackage
from engines.package.manifest import MANIFEST_NAME
from engines.package.model_file import opset_of
from engines.package.signature.pt2 import last_operation, read_program
from engines.package.specs import ModelFormat, Task
from engines.sandbox.load import load_in_sandbox

REFERENCE_ENGINES: dict[ModelFormat, str] = {"onnx": "ort-cpu", "pt2": "torch"}
_NOISE_IMAGES = 4
_RESERVED = ("unknown", "stale")
"""The agent's words for a state without a label; see agent/config/sections/decide.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageCheck:
    """Result of a package check.

    ``max_batch`` is None if the batch dimension is dynamic, ``opset`` None if the model is not ONNX. ``taken`` says of
    an import which values came from which file.
    """

    package: ModelPackage
    max_batch: int | None
    opset: int | None
    raw: RawScores
    golden: GoldenReport
    warnings: tuple[str, ...]
    taken: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_passed(self) -> bool:
        """Whether every golden image was classified as expected."""
        return not self.golden.wrong


def check_package(package: ModelPackage) -> PackageCheck:
    """Run the model of ``package`` on ONNX Runtime's CPU provider (a .pt2 model on torch) and check its scores.

    The model is first loaded in a sandbox, so that one that crashes does not end this process.

    Raises:
        SandboxFailed: the model crashed the sandbox, or exceeded its limits.
        ModelRejected: the model cannot be served, or its scores would not be probabilities.
        EngineUnavailable: ONNX Runtime, or torch, is not installed.
        ImageRejected: a golden or calibration image cannot be read.
    """
    # Read the images of int8 and of the accuracy check now, so that a damaged one is found here, not on the device.
    for path in (*package.calibration, *package.evaluation):
        read_image(path)
    if package.output.features is not None:
        package = package.with_features()
    raw, last = measure_raw_scores(package)
    model = build_serving_model(package) if package.format == "onnx" else None
    classes, activation = package.signature.classes, package.output.activation
    warning = judge_activation(raw, activation, name=package.title, classes=classes, last=last)
    is_independent = package.output.task is not Task.SINGLE_LABEL
    warnings = [warning] if warning and not (is_independent and activation == "none" and not raw.is_constant) else []
    if model is not None and (count := quantised_operators(model)):
        warnings.append(
            f"the model computes in int8 already ({count} quantised operators), so precision fp32 runs it as it is, "
            "and int8 is refused. To compare precisions, import the fp32 model"
        )
    warnings += _label_warnings(package)
    warnings += _manifest_warnings(package)
    with _reference_engine(package) as engine:
        golden = run_golden(package, engine)
        warnings += _feature_warnings(package, engine)
    return PackageCheck(
        package=package,
        max_batch=max_batch_of(model) if model else package.signature.batch,
        opset=opset_of(model) if model else None,
        raw=raw,
        golden=golden,
        warnings=tuple(warnings),
    )


def _label_warnings(package: ModelPackage) -> list[str]:
    warnings, labels = [], package.labels
    if len(labels) == 1 and package.output.task is Task.SINGLE_LABEL:
        warnings.append(
            f"there is one score for the one label {labels[0]!r}, but output.task is not stated, so each result names "
            "the label whatever its score. State task: multi_label, or task: binary with positive and both labels"
        )
    if twice := repeated_labels(labels):
        named = ", ".join(map(repr, twice[:5]))
        warnings.append(f"several classes have the label {named}, so results cannot tell them apart. Rename them")
    if reserved := [label for label in _RESERVED if label in labels]:
        named = " and ".join(map(repr, reserved))
        warnings.append(
            f"there is a label {named}, but the agent has this word for unsure or missing results, and refuses it. "
            "Rename it, or for 'unknown' set decide.unknown to another word"
        )
    return warnings


def _manifest_warnings(package: ModelPackage) -> list[str]:
    """What the manifest does not state, or states differently from the directory's name."""
    warnings = []
    if not package.golden:
        warnings.append("there are no golden images, so wrong preprocessing would go unnoticed")
    if not package.is_digest_stated:
        warnings.append(
            "package_sha256 is not stated, so changed labels, images or settings would go unnoticed. State it in "
            f"{MANIFEST_NAME}: package_sha256: {package.digest}"
        )
    if package.calibration:
        warnings += _missing_for_int8(package)
    expected = f"{package.name}-{package.version}"
    if package.directory.name != expected:
        warnings.append(f"the directory is named {package.directory.name}, by the manifest it would be {expected}")
    return warnings


def _feature_warnings(package: ModelPackage, engine: Engine) -> list[str]:
    """Run the embedding on noise and the golden images.

    Raises:
        ModelRejected: it has NaN or infinity.
    """
    if not package.gives_features:
        return []
    rows = []
    for image in _images_at_size(package):
        engine.infer(image[None])
        rows.append(features_of(engine))
    features = np.concatenate([row for row in rows if row is not None])
    name = package.output.features
    if not np.isfinite(features).all():
        raise ModelRejected(
            f"{package.title}: output.features names {name}, which has NaN or infinity for a test image, but an "
            "embedding is finite. Name another tensor, or export the model in fp32",
            output=name,
        )
    if np.ptp(features, axis=0).any():
        return []
    return [f"the embedding {name} is the same for every test image, so it would show no drift. Name another tensor"]


def _missing_for_int8(package: ModelPackage) -> list[str]:
    needed, found = BARS["int8"].min_images, len(divided(package).held_out)
    if found >= needed:
        return []
    advice = f"that are typical of what the cameras see into a folder of the package, and name it in {MANIFEST_NAME}"
    fact = f"int8 would be judged on {found} images that it is not calibrated on, but a proof needs {needed}"
    return [f"{fact}. Put {needed - found} more {advice}: evaluation: evaluation/"]


def measure_raw_scores(package: ModelPackage) -> tuple[RawScores, str]:
    """Return the range of the model's scores without an added activation, and its last operator.

    Raises:
        SandboxFailed: the model crashed the sandbox, or exceeded its limits.
        ModelRejected: the model cannot be run.
        EngineUnavailable: ONNX Runtime, or torch, is not installed.
    """
    images = _images_at_size(package)
    package = replace(package, output=replace(package.output, activation="none"))
    with tempfile.TemporaryDirectory(prefix="agent-check-") as cache:
        name = REFERENCE_ENGINES[package.format]
        try:
            load_in_sandbox(package, EngineOptions(engine=name, cache_dir=Path(cache), strict=True), name)
        except InferenceFailed as exc:
            # The advice of an engine that serves does not help here.
            fact, _, _ = exc.message.rpartition(". ")
            hint = "Were its weights converted to fp16, which ends at 65504? Export it in fp32"
            raise ModelRejected(
                f"{package.title} cannot be served: {fact or exc.message}. {hint}", **exc.fields
            ) from exc
    if package.format != "onnx":
        with _reference_engine(package) as engine:
            scores = np.concatenate([engine.infer(image[None]) for image in images])
        program = read_program(package.model_path, name=package.title)
        return raw_scores(scores), last_operation(program, package.signature.output_name)
    bare = build_serving_model(package)
    return raw_scores(run_serving_model(bare, images)), last_operator(bare, OUTPUT_NAME)


@contextmanager
def _reference_engine(package: ModelPackage) -> Iterator[Engine]:
    """Open the reference engine in this process; the sandboxed load has run before.

    ``open_engine`` would stop at the first wrong golden image; here all of them are run and reported.
    """
    with tempfile.TemporaryDirectory(prefix="agent-check-") as cache:
        name = REFERENCE_ENGINES[package.format]
        options = EngineOptions(engine=name, cache_dir=Path(cache), strict=True, sandbox=None)
        engine, _ = open_backend(package, options, name)
        with engine:
            yield engine


def _images_at_size(package: ModelPackage) -> Images:
    """Noise and the golden images, at the model's size."""
    resizer = Resizer(package.input)
    golden = np.empty((len(package.golden), package.input.height, package.input.width, 3), np.uint8)
    for place, item in enumerate(package.golden):
        resizer.fill(read_image(item.path), golden[place])
    return np.concatenate([noise_images(package, _NOISE_IMAGES), golden])
