"""The sandboxed load: a model that is new to this device is first loaded and run in a child process.

    <cache>/sandboxed_loads/<model>-<engine>-<precision>-<hash>.json    one model that has loaded and run here

A hostile or broken model crashes that child only. A record holds everything that it depends on: the graph, the engine
and its options, library versions, the device. When one of them changes the model is new again. To make all models new,
delete the folder.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from engines import errors
from engines.base import Building, BuildProgress, EngineOptions, SandboxOptions
from engines.errors import EngineError, EngineLost, SandboxFailed
from engines.graph.serving import graph_address
from engines.host import cpu_model, driver_version, installed_version, l4t_release
from engines.package.images import image_hashes
from engines.package.load import ModelPackage
from engines.sandbox.child import ChildLimits, ErrorTexts, run_in_sandbox
from engines.sandbox.memory import default_memory_bytes
from engines.store.records import JsonRecord, record_path

REFERENCE = "ort-cpu"
_CHILD = "engines.select.load_child"
_BUILDS_IN_CHILD = "ort-tensorrt"
_REMOTE = "triton"
_BUILDERS = ("tensorrt", _BUILDS_IN_CHILD)
# For what always takes long: a build, and the search for the layers that int8 leaves in fp32.
_LONG_WORK_S = 3600.0
_QUIET_S = 2.0
_PROGRAM = tuple(Path(__file__).resolve().parents[2] / name for name in ("agent", "engines"))


@dataclass(frozen=True, slots=True)
class SandboxedLoad:
    """How to go on in this process; ``why_built`` says why the child built a plan, None if it did not."""

    options: EngineOptions
    why_built: str | None = None


def load_in_sandbox(
    package: ModelPackage, options: EngineOptions, name: str, *, is_repeated: bool = False
) -> SandboxedLoad:
    """Load and run ``package`` on engine ``name`` in a child process, unless that has worked here before.

    Called on the thread that opens the engine, before the library sees the model in this process. What the child makes
    (serving graph, quantised graph, plan) is in the cache afterwards.

    Raises:
        SandboxFailed: the child was killed by a signal or exceeded a limit.
        BuildCancelled: ``options.building.is_cancelled`` returned True.
        EngineError: the engine's own error about the model.
    """
    limits = options.sandbox
    # ONNX Runtime's TensorRT provider builds inside the process, so it needs the child for trusted packages too.
    if limits is None or (is_part_of_program(package.directory) and name != _BUILDS_IN_CHILD):
        return SandboxedLoad(options)
    # A remote engine loads nothing here; the server has its own protection.
    if name == _REMOTE:
        return SandboxedLoad(options)
    # The conversion to int8 runs the fp32 graph on the reference, in the child and later here.
    if options.precision == "int8" and package.format == "onnx":
        load_in_sandbox(package, reference_options(options), REFERENCE)
    facts = _facts(package, options, name)
    record = _record(package, options, name, facts)
    is_forced = options.building.force
    if not is_repeated and not is_forced and record.load() is not None:
        return SandboxedLoad(options)
    result = _run(package, options, name, limits)
    _save(record)
    why_built = result.get("why_built")
    return SandboxedLoad(
        # The child has built the plan by force; this process must only load it.
        replace(options, building=replace(options.building, force=False)),
        why_built if isinstance(why_built, str) else None,
    )


def reference_options(options: EngineOptions) -> EngineOptions:
    """Return the options for the reference beside an engine with ``options``."""
    building = options.building
    return EngineOptions(
        cache_dir=options.cache_dir,
        engine=REFERENCE,
        building=Building(on_progress=building.on_progress, is_cancelled=building.is_cancelled),
        sandbox=options.sandbox,
    )


def is_part_of_program(directory: Path) -> bool:
    """Whether a package is among the program's own files: who can change it can change the program as well."""
    return any(directory.is_relative_to(folder) for folder in _PROGRAM)


def _run(package: ModelPackage, options: EngineOptions, name: str, limits: SandboxOptions) -> dict[str, object]:
    model = f"{package.name}-{package.version}"
    building = options.building

    def report(phase: str, elapsed_s: float, ratio: float | None) -> None:
        if name in _BUILDERS or elapsed_s > _QUIET_S:
            building.on_progress(
                BuildProgress(engine=name, model=model, phase=phase, elapsed_s=elapsed_s, done_ratio=ratio)
            )

    result = run_in_sandbox(
        _CHILD,
        _job(package, options, name),
        texts=_texts(f"the first load of {model} on {name} in {options.precision}"),
        limits=ChildLimits(
            timeout_s=limits.timeout_s + _long_work_s(options, name),
            memory_bytes=default_memory_bytes() if limits.memory_bytes is None else limits.memory_bytes,
        ),
        report=report,
        is_cancelled=building.is_cancelled,
    )
    error = result.get("error")
    if isinstance(error, dict):
        raise error_from(error)
    return result


def _job(package: ModelPackage, options: EngineOptions, name: str) -> dict[str, object]:
    return {
        "package": str(package.directory),
        "max_file_bytes": package.max_file_bytes,
        "sha256": package.sha256,
        "activation": package.output.activation,
        "features": package.gives_features,
        "cache_dir": str(options.cache_dir.absolute()),
        "engine": name,
        "precision": options.precision,
        "strict": options.strict,
        "max_batch": options.max_batch,
        "options": dict(options.options),
        "workers": options.workers,
        "defer": options.building.defer,
        "force": options.building.force,
    }


def _texts(subject: str) -> ErrorTexts:
    doubt = "The model may be broken, hostile or too large for this engine: check where it comes from"
    return ErrorTexts(
        subject=subject,
        failed=f"{doubt}, or choose another engine",
        too_long=f"{doubt}, or choose another engine",
        too_large=f"{doubt}, or use a smaller model",
        no_memory_left=f"{doubt}, or free some memory",
        failure=SandboxFailed,
    )


def _long_work_s(options: EngineOptions, name: str) -> float:
    given = options.options.get("build_timeout_s")
    build_s = float(given) if isinstance(given, int) else _LONG_WORK_S
    return (build_s if name in _BUILDERS else 0.0) + (_LONG_WORK_S if options.precision == "int8" else 0.0)


def error_from(stated: Mapping[str, object]) -> EngineError:
    """Rebuild the child's error. EngineLost becomes SandboxFailed: the device is lost to the child only."""
    kind = getattr(errors, str(stated.get("kind")), None)
    if not isinstance(kind, type) or not issubclass(kind, EngineError) or issubclass(kind, EngineLost):
        kind = SandboxFailed
    fields = stated.get("fields")
    given = {str(name): value for name, value in fields.items()} if isinstance(fields, dict) else {}
    make: Callable[..., EngineError] = kind
    return make(str(stated.get("message")), **given)


def _facts(package: ModelPackage, options: EngineOptions, name: str) -> dict[str, object]:
    """Return everything that decides how a model behaves when it is loaded."""
    facts: dict[str, object] = {
        "graph": graph_address(package),
        "engine": name,
        "precision": options.precision,
        "max_batch": options.max_batch,
        "options": {key: str(value) for key, value in sorted(options.options.items())},
        "versions": {library: installed_version(library) for library in _libraries(name)},
        "device": [platform.machine(), cpu_model(), l4t_release(), driver_version()],
    }
    if options.precision == "int8":
        facts["images"] = image_hashes(package.images)
    return facts


def _libraries(name: str) -> tuple[str, ...]:
    if name in ("torch", "tensorrt"):
        return (name,)
    return ("onnxruntime", "tensorrt") if name == _BUILDS_IN_CHILD else ("onnxruntime",)


def _record(package: ModelPackage, options: EngineOptions, name: str, facts: Mapping[str, object]) -> JsonRecord[str]:
    """Return the record of a load with ``facts``; owner-checked, since a forged one would bypass the sandbox."""
    prefix = f"{package.name}-{package.version}-{name}-{options.precision}-"
    path = record_path(options.cache_dir / "sandboxed_loads", facts, prefix=prefix)
    return JsonRecord(path, encode=str, decode=str, facts=facts, is_owned=True)


def _save(record: JsonRecord[str]) -> None:
    with contextlib.suppress(OSError):  # without a writable cache the model is new at every start
        record.save(datetime.now(timezone.utc).isoformat(timespec="seconds"))
