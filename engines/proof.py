"""Proves a model package: it loads, its scores are probabilities, it gives its known answers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from engines.activation import RawScores, judge_activation, last_operator, raw_scores
from engines.base import EngineOptions, Images
from engines.batch_dimension import run_serving_model, trial_pictures
from engines.golden import GoldenReport, run_golden
from engines.graph import build_serving_model, max_batch_of
from engines.images import read_image
from engines.model_file import opset_of
from engines.package import ModelPackage
from engines.preprocessing import OUTPUT_NAME
from engines.resize import Resizer
from engines.specs import OutputSpec

REFERENCE_ENGINE = "ort-cpu"
_TRIAL_PICTURES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProof:
    """What was found out about a package. ``max_batch`` is None where the batch dimension is dynamic."""

    package: ModelPackage
    max_batch: int | None
    opset: int
    raw: RawScores
    golden: GoldenReport
    warnings: tuple[str, ...]

    @property
    def has_passed(self) -> bool:
        """Whether every golden picture gave its known answer."""
        return not self.golden.wrong


def prove_package(package: ModelPackage) -> ModelProof:
    """Build the serving graph of ``package`` and run it on ONNX Runtime's CPU provider.

    Raises:
        ModelRejected: the model cannot be served, or its scores would not be probabilities.
        EngineUnavailable: ONNX Runtime is not there.
        ImageRejected: a golden picture cannot be read.
    """
    from engines.opening import open_engine

    model = build_serving_model(package)
    raw, _ = measure_raw_scores(package)
    warning = judge_activation(
        raw, package.output.activation, name=package.model_path.name, classes=package.signature.classes
    )
    warnings = [warning] if warning else []
    if not package.golden:
        warnings.append("there are no golden pictures: wrong preprocessing would not be noticed")
    expected = f"{package.name}-{package.version}"
    if package.directory.name != expected:
        warnings.append(f"the directory is named {package.directory.name}, by the manifest it would be {expected}")
    with tempfile.TemporaryDirectory(prefix="agent-proof-") as cache:
        options = EngineOptions(engine=REFERENCE_ENGINE, cache_dir=Path(cache), strict=True)
        # Without its known answers, so that all of them are run and none ends the opening.
        with open_engine(replace(package, golden=()), options) as engine:
            golden = run_golden(package, engine)
    return ModelProof(
        package=package,
        max_batch=max_batch_of(model),
        opset=opset_of(model),
        raw=raw,
        golden=golden,
        warnings=tuple(warnings),
    )


def measure_raw_scores(package: ModelPackage) -> tuple[RawScores, str]:
    """What the model gives before any added activation, and the operator at its end.

    Raises:
        ModelRejected: the model cannot be run.
        EngineUnavailable: ONNX Runtime is not there.
    """
    bare: onnx.ModelProto = build_serving_model(replace(package, output=OutputSpec(activation="none")))
    return raw_scores(run_serving_model(bare, _pictures(package))), last_operator(bare, OUTPUT_NAME)


def _pictures(package: ModelPackage) -> Images:
    """Noise and the golden pictures, at the model's size."""
    resizer = Resizer(package.input)
    golden = np.empty((len(package.golden), package.input.height, package.input.width, 3), np.uint8)
    for place, item in enumerate(package.golden):
        resizer.fill(read_image(item.path), golden[place])
    return np.concatenate([trial_pictures(package, _TRIAL_PICTURES), golden])
