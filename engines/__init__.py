"""Runs a model on whatever this device has, and says what really runs. This is the whole public API."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.base import (
        PRECISIONS,
        Building,
        BuildProgress,
        Engine,
        EngineInfo,
        EngineOptions,
        FirstOpening,
        Images,
        Measurement,
        Precision,
        Rejection,
        Scores,
    )
    from engines.certify import verify
    from engines.choices import Choice, remember
    from engines.environment import EnvironmentRecord, Gpu, describe
    from engines.errors import (
        BuildCancelled,
        BuildFailed,
        BuildNeeded,
        EngineError,
        EngineLost,
        EngineUnavailable,
        GoldenMismatch,
        ImageRejected,
        InferenceFailed,
        ModelRejected,
        OptionsRejected,
        OutOfMemory,
        PrecisionRejected,
        RehearsalFailed,
    )
    from engines.golden import check_golden
    from engines.graph import ServingGraph, build_serving_model, serving_graph
    from engines.images import read_image
    from engines.opening import open_engine
    from engines.package import GoldenImage, InputSpec, ModelPackage, ModelSignature, OutputSpec, load_package
    from engines.parity import Certificate
    from engines.registry import ProbeResult, probe
    from engines.resize import Resizer

__all__ = [
    "PRECISIONS",
    "BuildCancelled",
    "BuildFailed",
    "BuildNeeded",
    "BuildProgress",
    "Building",
    "Certificate",
    "Choice",
    "Engine",
    "EngineError",
    "EngineInfo",
    "EngineLost",
    "EngineOptions",
    "EngineUnavailable",
    "EnvironmentRecord",
    "FirstOpening",
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
    "OutOfMemory",
    "OutputSpec",
    "Precision",
    "PrecisionRejected",
    "ProbeResult",
    "RehearsalFailed",
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
    "remember",
    "serving_graph",
    "verify",
]

# Imported when they are first asked for: reading a configuration must not wait for numpy, OpenCV and ONNX.
_HOMES = {
    "BuildCancelled": "engines.errors",
    "BuildFailed": "engines.errors",
    "BuildNeeded": "engines.errors",
    "BuildProgress": "engines.base",
    "Building": "engines.base",
    "Certificate": "engines.parity",
    "Choice": "engines.choices",
    "Engine": "engines.base",
    "EngineError": "engines.errors",
    "EngineInfo": "engines.base",
    "EngineLost": "engines.errors",
    "EngineOptions": "engines.base",
    "EngineUnavailable": "engines.errors",
    "EnvironmentRecord": "engines.environment",
    "FirstOpening": "engines.base",
    "GoldenImage": "engines.package",
    "GoldenMismatch": "engines.errors",
    "Gpu": "engines.environment",
    "ImageRejected": "engines.errors",
    "Images": "engines.base",
    "InferenceFailed": "engines.errors",
    "InputSpec": "engines.package",
    "Measurement": "engines.base",
    "ModelPackage": "engines.package",
    "ModelRejected": "engines.errors",
    "ModelSignature": "engines.package",
    "OptionsRejected": "engines.errors",
    "OutOfMemory": "engines.errors",
    "OutputSpec": "engines.package",
    "PRECISIONS": "engines.base",
    "Precision": "engines.base",
    "PrecisionRejected": "engines.errors",
    "ProbeResult": "engines.registry",
    "RehearsalFailed": "engines.errors",
    "Rejection": "engines.base",
    "Resizer": "engines.resize",
    "Scores": "engines.base",
    "ServingGraph": "engines.graph",
    "build_serving_model": "engines.graph",
    "check_golden": "engines.golden",
    "describe": "engines.environment",
    "load_package": "engines.package",
    "open_engine": "engines.opening",
    "probe": "engines.registry",
    "read_image": "engines.images",
    "remember": "engines.choices",
    "serving_graph": "engines.graph",
    "verify": "engines.certify",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
