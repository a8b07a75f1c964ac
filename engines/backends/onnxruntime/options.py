"""The options of each ONNX Runtime engine: names, kinds, and the text that the provider gets.

Source: ONNX Runtime 1.31, documentation of the execution providers, and the errors of the providers themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from engines.errors import OptionsRejected
from engines.host import MAX_THREADS

_SESSION = {"threads": "int", "allow_spinning": "bool"}
# Spinning costs ten times the CPU time with a paced camera, and the calls are no faster.
# See docs/decisions/0003-threads-asleep.md.
_SPINS = False

_CUDA = {
    "device_id": "int",
    "gpu_mem_limit": "int",
    "arena_extend_strategy": "text",
    "cudnn_conv_algo_search": "text",
    "cudnn_conv_use_max_workspace": "bit",
    "cudnn_conv1d_pad_to_nc1d": "bit",
    "do_copy_in_default_stream": "bit",
    "enable_cuda_graph": "bit",
    "enable_skip_layer_norm_strict_mode": "bit",
    "fuse_conv_bias": "bit",
    "prefer_nhwc": "bit",
    "sdpa_kernel": "int",
    "tunable_op_enable": "bit",
    "tunable_op_tuning_enable": "bit",
    "tunable_op_max_tuning_duration_ms": "int",
    "use_ep_level_unified_stream": "bit",
    "use_tf32": "bit",
}

_TENSORRT = {
    "device_id": "int",
    "trt_auxiliary_streams": "int",
    "trt_bf16_enable": "flag",
    "trt_build_heuristics_enable": "flag",
    "trt_builder_optimization_level": "int",
    "trt_context_memory_sharing_enable": "flag",
    "trt_cuda_graph_enable": "flag",
    "trt_detailed_build_log": "flag",
    "trt_dla_core": "int",
    "trt_dla_enable": "flag",
    "trt_dump_subgraphs": "flag",
    "trt_engine_hw_compatible": "flag",
    "trt_extra_plugin_lib_paths": "text",
    "trt_force_sequential_engine_build": "flag",
    "trt_force_timing_cache": "flag",
    "trt_layer_norm_fp32_fallback": "flag",
    "trt_max_partition_iterations": "int",
    "trt_max_workspace_size": "int",
    "trt_min_subgraph_size": "int",
    "trt_op_types_to_exclude": "text",
    "trt_preview_features": "text",
    "trt_sparsity_enable": "flag",
    "trt_tactic_sources": "text",
    "trt_timing_cache_enable": "flag",
}

_OPENVINO = {
    "cache_dir": "text",
    "device_type": "text",
    "disable_dynamic_shapes": "flag",
    "enable_opencl_throttling": "flag",
    "enable_qdq_optimizer": "flag",
    "layout": "text",
    "load_config": "text",
    "model_priority": "text",
    "num_of_threads": "int",
    "num_streams": "int",
    "precision": "text",
}

_KNOWN: Mapping[str, Mapping[str, str]] = {
    "CPUExecutionProvider": {"use_arena": "bit"},
    "CUDAExecutionProvider": _CUDA,
    "TensorrtExecutionProvider": _TENSORRT,
    "OpenVINOExecutionProvider": _OPENVINO,
    "XnnpackExecutionProvider": {"intra_op_num_threads": "int"},
}


_SHORT_NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "dml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "acl": "ACLExecutionProvider",
    "armnn": "ArmNNExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Checked options. ``provider`` holds the provider's own options as the strings it expects.

    ``allow_spinning``: the session's threads spin for some milliseconds while they wait for the next call, else they
    sleep.
    """

    threads: int
    allow_spinning: bool
    provider: Mapping[str, str] = field(default_factory=dict)

    def details(self, provider: str) -> dict[str, str | int]:
        """Return what ``EngineInfo.details`` shows. ``threads_wait`` is left out where ONNX Runtime has no threads of
        its own.

        With one thread the caller computes, and other providers have their own threads.
        """
        if provider != "CPUExecutionProvider" or self.threads == 1:
            return {"threads": self.threads}
        return {"threads": self.threads, "threads_wait": "spinning" if self.allow_spinning else "asleep"}


def provider_of(engine: str) -> str:
    """Return the execution provider of ``ort-<short name>``, installed or not."""
    short = engine.removeprefix("ort-")
    return _SHORT_NAMES.get(short, f"{short}ExecutionProvider")


def engine_of(provider: str) -> str:
    """Return the engine name of an execution provider."""
    for short, name in _SHORT_NAMES.items():
        if name == provider:
            return f"ort-{short}"
    return f"ort-{provider.removesuffix('ExecutionProvider').lower()}"


def known_options(engine: str) -> frozenset[str] | None:
    """Return the option names of an ONNX Runtime engine; None for a provider that is not in the table."""
    provider = _KNOWN.get(provider_of(engine))
    return None if provider is None else frozenset({*provider, *_SESSION})


def session_settings(
    engine: str, provider: str, options: Mapping[str, object], *, default_threads: int
) -> SessionSettings:
    """Check the options of ``engine``; a provider that is not in the table gets its options unchecked.

    Raises:
        OptionsRejected: an option that the engine does not have, or a value of the wrong kind.
    """
    known = _KNOWN.get(provider)
    given: dict[str, str] = {}
    session: dict[str, int] = {}
    for name, value in options.items():
        kind = _SESSION.get(name)
        if kind is not None:
            session[name] = int(_as_text(engine, name, value, kind))
            continue
        if known is not None and name not in known:
            raise OptionsRejected(_unknown(engine, name, known), engine=engine, option=name)
        given[name] = _as_text(engine, name, value, known[name] if known is not None else "text")
    threads = session.get("threads", default_threads)
    if not 1 <= threads <= MAX_THREADS:
        raise OptionsRejected(
            f"option threads of engine {engine} is {threads}, but 1 to {MAX_THREADS} are possible. Leave it out for "
            "this device's share of cores",
            engine=engine,
            option="threads",
        )
    return SessionSettings(threads=threads, allow_spinning=bool(session.get("allow_spinning", _SPINS)), provider=given)


def _unknown(engine: str, name: str, known: Mapping[str, str]) -> str:
    names = sorted({*known, *_SESSION})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}."
    return f"engine {engine} has no option {name}: {hint} Correct or remove it under options of this model"


def _as_text(engine: str, name: str, value: object, kind: str) -> str:
    """Format a value as its reader expects: a session bool as 1/0, TensorRT's as True/False."""
    if kind in ("bool", "bit", "flag") and isinstance(value, bool):
        return str(value) if kind == "flag" else str(int(value))
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64:
        return str(value)
    if kind == "text" and isinstance(value, str | int | float):
        return str(value)
    wanted = {"int": "a whole number", "text": "a text"}.get(kind, "true or false")
    raise OptionsRejected(
        f"option {name} of engine {engine} is {value!r}, but {wanted} is needed. Correct it under options of this "
        "model",
        engine=engine,
        option=name,
    )
