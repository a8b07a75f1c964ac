"""Runs a model on whatever this device has, and says what really runs. This is the whole public API."""

from __future__ import annotations

from engines.base import (
    PRECISIONS,
    Engine,
    EngineInfo,
    EngineOptions,
    Images,
    Measurement,
    Precision,
    Rejection,
    Scores,
)
from engines.environment import EnvironmentRecord, Gpu, describe
from engines.errors import (
    EngineError,
    EngineLost,
    EngineUnavailable,
    GoldenMismatch,
    ImageRejected,
    InferenceFailed,
    ModelRejected,
    OptionsRejected,
    PrecisionRejected,
)
from engines.golden import check_golden
from engines.graph import ServingGraph, build_serving_model, serving_graph
from engines.images import read_image
from engines.opening import open_engine
from engines.package import GoldenImage, InputSpec, ModelPackage, ModelSignature, OutputSpec, load_package
from engines.registry import ProbeResult, probe
from engines.resize import Resizer

__all__ = [
    "PRECISIONS",
    "Engine",
    "EngineError",
    "EngineInfo",
    "EngineLost",
    "EngineOptions",
    "EngineUnavailable",
    "EnvironmentRecord",
    "GoldenImage",
    "GoldenMismatch",
    "Gpu",
    "ImageRejected",
    "Images",
    "InferenceFailed",
    "InputSpec",
    "Measurement",
    "ModelPackage",
    "ModelRejected",
    "ModelSignature",
    "OptionsRejected",
    "OutputSpec",
    "Precision",
    "PrecisionRejected",
    "ProbeResult",
    "Rejection",
    "Resizer",
    "Scores",
    "ServingGraph",
    "build_serving_model",
    "check_golden",
    "describe",
    "load_package",
    "open_engine",
    "probe",
    "read_image",
    "serving_graph",
]
