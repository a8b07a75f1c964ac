"""What the protocol says of the server and its models: metadata, configuration, statistics and index, as JSON values.

Names and structure are those of Triton, so that its clients and tools work; 64-bit numbers are numbers.
Source: Triton Inference Server, docs/protocol, and model_config.proto.
"""

from __future__ import annotations

from typing import Any

import agent
from agent.web.served_models import Duration, IndexEntry, ModelStatistics, ServedModel

SERVER_NAME = "edge-inference-agent"
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
PLATFORM = "edge_inference_agent"
IMAGES, ENCODED, SCORES, LABELS = "images", "encoded", "scores", "labels"

NO_TRACE = "this server has no trace settings; /metrics and the statistics tell where the time of a request goes"
NO_SHARED_MEMORY = "this server has no shared memory; send tensors as binary data"
NO_LOG_SETTINGS = "this server has no log settings; `agent --help` names the options of its log"


def server_metadata() -> dict[str, Any]:
    """Of `GET /v2`."""
    return {"name": SERVER_NAME, "version": agent.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """Of `GET /v2/models/M`; -1 is the batch."""
    height, width = model.input_size
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [
            {"name": IMAGES, "datatype": "UINT8", "shape": [-1, height, width, 3]},
            {"name": ENCODED, "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [
            {"name": SCORES, "datatype": "FP32", "shape": [-1, model.classes]},
            {"name": LABELS, "datatype": "BYTES", "shape": [-1, 1]},
        ],
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """Of `GET /v2/models/M/config`: what really runs, with package and engine as parameters."""
    height, width = model.input_size
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": {"specific": {"versions": [int(model.version)]}},
        "max_batch_size": model.max_batch,
        "input": [
            {"name": IMAGES, "data_type": "TYPE_UINT8", "dims": [height, width, 3], "optional": False},
            {"name": ENCODED, "data_type": "TYPE_STRING", "dims": [1], "optional": True},
        ],
        "output": [
            {"name": SCORES, "data_type": "TYPE_FP32", "dims": [model.classes], "label_filename": ""},
            {"name": LABELS, "data_type": "TYPE_STRING", "dims": [1], "label_filename": ""},
        ],
        "dynamic_batching": {"priority_levels": 9, "default_priority_level": 5},
        "parameters": {key: {"string_value": value} for key, value in _facts(model).items()},
    }


def _facts(model: ServedModel) -> dict[str, str]:
    package, loaded = model.package, model.loaded
    facts = {"package": package.name, "package_version": package.version, "sha256": package.sha256}
    if loaded is not None:
        facts |= {"engine": loaded.info.name, "precision": loaded.info.precision}
        facts["degraded"] = loaded.info.degraded or ""
    return facts


def statistics_of(name: str, version: str, statistics: ModelStatistics) -> dict[str, Any]:
    """One model of `GET /v2/models/stats`."""
    return {
        "name": name,
        "version": version,
        "last_inference": statistics.last_inference_ms,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {
            "success": _duration(statistics.success),
            "fail": _duration(statistics.fail),
            "queue": _duration(statistics.queue),
            "compute_input": _duration(statistics.compute_input),
            "compute_infer": _duration(statistics.compute_infer),
            "compute_output": _duration(statistics.compute_output),
            "cache_hit": _duration(Duration()),
            "cache_miss": _duration(Duration()),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(into),
                "compute_infer": _duration(infer),
                "compute_output": _duration(out),
            }
            for size, (into, infer, out) in statistics.calls.items()
        ],
        "memory_usage": [],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}


def index_entry(entry: IndexEntry) -> dict[str, str]:
    """One model of `POST /v2/repository/index`."""
    return {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
