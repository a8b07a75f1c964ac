"""Runs a classifier on whatever this device has, and reports what really runs. This module is the whole public API.

base.py         the contract of an engine, and the records around it
errors.py       what is raised, with exit codes
host.py         this machine
percentiles.py  the definition of a percentile, for engines and agent
store/          files, records and plans on disk
package/        model packages
graph/          the serving graph and its precisions
sandbox/        child processes with limits
probes/         what can run here
environment.py  the libraries of this device, described
backends/       ONNX Runtime, TensorRT, PyTorch
check/          golden images, accuracy check, package check, import
select/         which engine serves: ``open_engine``

Each may import those above it. No thread is started here, except a timer that ends a model's test run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engines.backends.load import options_for
    from engines.backends.onnxruntime.options import provider_of, session_settings
    from engines.backends.triton.messages import SERVICE as PROTOCOL_SERVICE
    from engines.backends.triton.messages import message as protocol_message
    from engines.base import (
        INPUT_NAME,
        OUTPUT_NAME,
        PRECISIONS,
        Building,
        BuildProgress,
        Engine,
        EngineInfo,
        EngineOptions,
        Features,
        Images,
        Measurement,
        Precision,
        Rejection,
        SandboxOptions,
        Scores,
        features_of,
    )
    from engines.check.certificate import Certificate
    from engines.check.golden import GoldenResult, check_golden, golden_input, golden_result, run_golden
    from engines.check.import_request import ImportRequest
    from engines.check.importer import import_model
    from engines.check.package_check import PackageCheck, check_package
    from engines.environment import DeviceRecord, EnvironmentRecord, Gpu, describe, describe_device
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
        SandboxFailed,
        ServerFailed,
    )
    from engines.graph.image_set import image_set_of
    from engines.graph.ort_library import library as onnxruntime_library
    from engines.graph.planes import Planes, yuv_to_bgr
    from engines.graph.precision import precise_graph
    from engines.graph.resize import Resizer
    from engines.graph.serving import ServingGraph, serving_graph
    from engines.graph.serving_model import build_serving_model
    from engines.host import available_cores
    from engines.package.decisions import answer_for
    from engines.package.images import IMAGE_SUFFIXES, decode_image, has_16_bits, read_image, read_image_bytes
    from engines.package.load import GoldenImage, InputSpec, ModelPackage, ModelSignature, OutputSpec, load_package
    from engines.package.specs import Activation, Task
    from engines.package.strict_yaml import MAX_BYTES as MAX_YAML_BYTES
    from engines.package.strict_yaml import StrictDocument, StrictYamlError, load_strict, nearest_key, parse_options
    from engines.percentiles import Number, percentile, rank_of
    from engines.sandbox.isolated import import_path, module_command, script_command
    from engines.sandbox.json_child import JsonChild
    from engines.sandbox.package_check import load_unknown_package
    from engines.sandbox.serve import serve_parent
    from engines.select.candidate import open_candidate
    from engines.select.open import check_options, open_engine
    from engines.select.prepared import open_prepared, prepared_precisions
    from engines.select.registry import CHOOSERS, Prober, ProbeResult, canonical_name, probe
    from engines.select.selection import Selection, remember_selection
    from engines.select.verify import verify
    from engines.store.files import content_address, path_exists, read_regular, write_atomic
    from engines.store.plan_cache import PlanCache, PlanEntry
    from engines.store.records import JsonRecord, RecordDamaged, record_path

__all__ = [
    "CHOOSERS",
    "IMAGE_SUFFIXES",
    "INPUT_NAME",
    "MAX_YAML_BYTES",
    "OUTPUT_NAME",
    "PRECISIONS",
    "PROTOCOL_SERVICE",
    "Activation",
    "BuildCancelled",
    "BuildFailed",
    "BuildNeeded",
    "BuildProgress",
    "Building",
    "Certificate",
    "DeviceRecord",
    "Engine",
    "EngineError",
    "EngineInfo",
    "EngineLost",
    "EngineOptions",
    "EngineUnavailable",
    "EnvironmentRecord",
    "Features",
    "GoldenImage",
    "GoldenMismatch",
    "GoldenResult",
    "Gpu",
    "ImageRejected",
    "Images",
    "ImportRequest",
    "InferenceFailed",
    "InputSpec",
    "JsonChild",
    "JsonRecord",
    "Measurement",
    "ModelPackage",
    "ModelRejected",
    "ModelSignature",
    "Number",
    "OptionsRejected",
    "OutOfMemory",
    "OutputSpec",
    "PackageCheck",
    "PlanCache",
    "PlanEntry",
    "Planes",
    "Precision",
    "PrecisionRejected",
    "ProbeResult",
    "Prober",
    "RecordDamaged",
    "Rejection",
    "Resizer",
    "SandboxFailed",
    "SandboxOptions",
    "Scores",
    "Selection",
    "ServerFailed",
    "ServingGraph",
    "StrictDocument",
    "StrictYamlError",
    "Task",
    "answer_for",
    "available_cores",
    "build_serving_model",
    "canonical_name",
    "check_golden",
    "check_options",
    "check_package",
    "content_address",
    "decode_image",
    "describe",
    "describe_device",
    "features_of",
    "golden_input",
    "golden_result",
    "has_16_bits",
    "image_set_of",
    "import_model",
    "import_path",
    "load_package",
    "load_strict",
    "load_unknown_package",
    "module_command",
    "nearest_key",
    "onnxruntime_library",
    "open_candidate",
    "open_engine",
    "open_prepared",
    "options_for",
    "parse_options",
    "path_exists",
    "percentile",
    "precise_graph",
    "prepared_precisions",
    "probe",
    "protocol_message",
    "provider_of",
    "rank_of",
    "read_image",
    "read_image_bytes",
    "read_regular",
    "record_path",
    "remember_selection",
    "run_golden",
    "script_command",
    "serve_parent",
    "serving_graph",
    "session_settings",
    "verify",
    "write_atomic",
    "yuv_to_bgr",
]

# Imported on first use: reading a configuration must not wait for numpy, OpenCV and ONNX.
_HOMES = {
    "Activation": "engines.package.specs",
    "Task": "engines.package.specs",
    "BuildCancelled": "engines.errors",
    "BuildFailed": "engines.errors",
    "BuildNeeded": "engines.errors",
    "BuildProgress": "engines.base",
    "Building": "engines.base",
    "CHOOSERS": "engines.select.registry",
    "Certificate": "engines.check.certificate",
    "Engine": "engines.base",
    "EngineError": "engines.errors",
    "EngineInfo": "engines.base",
    "EngineLost": "engines.errors",
    "EngineOptions": "engines.base",
    "EngineUnavailable": "engines.errors",
    "PlanEntry": "engines.store.plan_cache",
    "DeviceRecord": "engines.environment",
    "EnvironmentRecord": "engines.environment",
    "SandboxOptions": "engines.base",
    "GoldenImage": "engines.package.load",
    "GoldenMismatch": "engines.errors",
    "GoldenResult": "engines.check.golden",
    "Gpu": "engines.environment",
    "IMAGE_SUFFIXES": "engines.package.images",
    "INPUT_NAME": "engines.base",
    "ImageRejected": "engines.errors",
    "Images": "engines.base",
    "ImportRequest": "engines.check.import_request",
    "InferenceFailed": "engines.errors",
    "InputSpec": "engines.package.load",
    "JsonChild": "engines.sandbox.json_child",
    "JsonRecord": "engines.store.records",
    "MAX_YAML_BYTES": "engines.package.strict_yaml:MAX_BYTES",
    "Features": "engines.base",
    "Measurement": "engines.base",
    "ModelPackage": "engines.package.load",
    "PackageCheck": "engines.check.package_check",
    "ModelRejected": "engines.errors",
    "ModelSignature": "engines.package.load",
    "OUTPUT_NAME": "engines.base",
    "OptionsRejected": "engines.errors",
    "OutOfMemory": "engines.errors",
    "OutputSpec": "engines.package.load",
    "PRECISIONS": "engines.base",
    "PROTOCOL_SERVICE": "engines.backends.triton.messages:SERVICE",
    "PlanCache": "engines.store.plan_cache",
    "Planes": "engines.graph.planes",
    "Precision": "engines.base",
    "PrecisionRejected": "engines.errors",
    "ProbeResult": "engines.select.registry",
    "Prober": "engines.select.registry",
    "RecordDamaged": "engines.store.records",
    "SandboxFailed": "engines.errors",
    "Rejection": "engines.base",
    "Resizer": "engines.graph.resize",
    "Scores": "engines.base",
    "Selection": "engines.select.selection",
    "ServerFailed": "engines.errors",
    "ServingGraph": "engines.graph.serving",
    "StrictDocument": "engines.package.strict_yaml",
    "StrictYamlError": "engines.package.strict_yaml",
    "answer_for": "engines.package.decisions",
    "available_cores": "engines.host",
    "build_serving_model": "engines.graph.serving_model",
    "canonical_name": "engines.select.registry",
    "check_golden": "engines.check.golden",
    "golden_input": "engines.check.golden",
    "golden_result": "engines.check.golden",
    "check_options": "engines.select.open",
    "content_address": "engines.store.files",
    "describe": "engines.environment",
    "describe_device": "engines.environment",
    "features_of": "engines.base",
    "import_path": "engines.sandbox.isolated",
    "import_model": "engines.check.importer",
    "load_package": "engines.package.load",
    "load_unknown_package": "engines.sandbox.package_check",
    "load_strict": "engines.package.strict_yaml",
    "module_command": "engines.sandbox.isolated",
    "nearest_key": "engines.package.strict_yaml",
    "onnxruntime_library": "engines.graph.ort_library:library",
    "open_candidate": "engines.select.candidate",
    "open_engine": "engines.select.open",
    "open_prepared": "engines.select.prepared",
    "path_exists": "engines.store.files",
    "prepared_precisions": "engines.select.prepared",
    "options_for": "engines.backends.load",
    "parse_options": "engines.package.strict_yaml",
    "Number": "engines.percentiles",
    "percentile": "engines.percentiles",
    "rank_of": "engines.percentiles",
    "image_set_of": "engines.graph.image_set",
    "precise_graph": "engines.graph.precision",
    "probe": "engines.select.registry",
    "check_package": "engines.check.package_check",
    "protocol_message": "engines.backends.triton.messages:message",
    "provider_of": "engines.backends.onnxruntime.options",
    "decode_image": "engines.package.images",
    "has_16_bits": "engines.package.images",
    "read_image": "engines.package.images",
    "read_image_bytes": "engines.package.images",
    "read_regular": "engines.store.files",
    "record_path": "engines.store.records",
    "remember_selection": "engines.select.selection",
    "run_golden": "engines.check.golden",
    "script_command": "engines.sandbox.isolated",
    "serve_parent": "engines.sandbox.serve",
    "serving_graph": "engines.graph.serving",
    "session_settings": "engines.backends.onnxruntime.options",
    "verify": "engines.select.verify",
    "write_atomic": "engines.store.files",
    "yuv_to_bgr": "engines.graph.planes",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own_name = _HOMES[name].partition(":")
    value: object = getattr(importlib.import_module(module), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
