"""Opens one engine by name and checks it: probe, golden images, accuracy check."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from engines.backends.load import open_backend
from engines.base import Engine, EngineOptions, Precision
from engines.check.golden import check_golden
from engines.check.reference import certificate_for
from engines.errors import BuildNeeded, EngineUnavailable, GoldenMismatch, OutOfMemory, PrecisionRejected
from engines.package.load import ModelPackage
from engines.sandbox.load import REFERENCE, load_in_sandbox
from engines.select.registry import Prober
from engines.select.served import ServedEngine

_SAFER: Mapping[Precision, Precision | None] = {"int8": "fp16", "fp16": "fp32", "fp32": None}


def open_candidate(package: ModelPackage, options: EngineOptions, name: str, prober: Prober) -> Engine:
    """Open the engine ``name`` in the precision of ``options``, or in the next safer one that passes the checks.

    ``info`` has the result of the accuracy check, and what is degraded: a precision that passes and is not proven too.

    Raises:
        EngineUnavailable: the engine cannot run here, or not with this package; also for an error of the operating
            system, such as a full disk.
        OutOfMemory: the process has no memory left.
        PrecisionRejected: the precision fails the accuracy check and ``strict`` is set, or fp32 fails too.
        GoldenMismatch: fp32 does not classify the golden images as expected.
        ModelRejected, OptionsRejected, InferenceFailed: as in ``open_engine``.
    """
    with machine_errors(name, options):
        require_runnable(package, name, prober)
        return _open_or_safer(package, options, name)


@contextmanager
def machine_errors(name: str, options: EngineOptions) -> Iterator[None]:
    """Translate what the machine refuses while the engine ``name`` is opened: room on a disk, processes, memory.

    Raises:
        EngineUnavailable: an error of the operating system. OutOfMemory: the process has no memory left.
    """
    try:
        yield
    except OSError as exc:
        # Graphs, plans, certificates and records go to the cache directory, and a child process needs room as well.
        raise _unavailable(name, options, exc) from exc
    except MemoryError as exc:
        remedy = "free some memory, or use a smaller model or max_batch"
        raise OutOfMemory(
            f"{name} cannot be loaded: this process got no more memory. To get it, {remedy}",
            engine=name,
            reason="this process got no more memory",
            remedy=remedy,
        ) from exc


def _unavailable(name: str, options: EngineOptions, error: OSError) -> EngineUnavailable:
    place = error.filename or options.cache_dir
    reason = f"{place}: {error.strerror or error}"
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = f"free some space there (the cache {options.cache_dir} can be deleted)" if is_full else "repair that"
    return EngineUnavailable(
        f"{name} cannot be loaded: {reason}. To get it, {remedy}", engine=name, reason=reason, remedy=remedy
    )


def require_runnable(package: ModelPackage, name: str, prober: Prober) -> None:
    """Refuse an engine that cannot run here, or not with this package.

    Raises:
        EngineUnavailable: with reason and remedy. The reference is not probed: opening it gives the same error.
    """
    _require_format(name, package)
    _require_features(name, package)
    if name != REFERENCE:
        _require_probe(name, prober)


def _open_or_safer(package: ModelPackage, options: EngineOptions, name: str) -> Engine:
    try:
        return _open_checked(package, options, name)
    except (PrecisionRejected, GoldenMismatch) as exc:
        safer = _SAFER[options.precision]
        if options.strict or safer is None:
            raise
        reason = f"{options.precision} was requested and fails: {exc.message}"
        engine = _open_or_safer(package, replace(options, precision=safer), name)
    degraded = "; ".join(part for part in (reason, engine.info.degraded) if part)
    return ServedEngine(engine, replace(engine.info, requested_precision=options.precision, degraded=degraded))


def open_unchecked(package: ModelPackage, options: EngineOptions, name: str) -> tuple[Engine, tuple[str, ...]]:
    """Open an engine in exactly the precision of ``options``, without golden images and accuracy check.

    A model that is new to this device is loaded in a sandbox first. Returns the engine and the layers that its graph
    keeps in fp32.
    """
    loaded = load_in_sandbox(package, options, name)
    try:
        engine, kept_layers = open_backend(package, loaded.options, name)
    except BuildNeeded:
        if options.building.defer and not options.strict:
            raise
        # The model has loaded here before, but its plan is gone: build it in the sandbox.
        loaded = load_in_sandbox(package, options, name, is_repeated=True)
        engine, kept_layers = open_backend(package, loaded.options, name)
    if loaded.why_built is not None:
        details = {**engine.info.details, "why_built": loaded.why_built}
        engine = ServedEngine(engine, replace(engine.info, details=details))
    return engine, kept_layers


def _open_checked(package: ModelPackage, options: EngineOptions, name: str) -> Engine:
    engine, kept_layers = open_unchecked(package, options, name)
    return _or_close(engine, lambda: _checked_engine(package, options, engine, kept_layers))


def _checked_engine(
    package: ModelPackage, options: EngineOptions, engine: Engine, kept_layers: tuple[str, ...]
) -> Engine:
    if engine.info.precision != options.precision:
        raise PrecisionRejected(
            f"{engine.info.degraded or engine.info.precision}. Use precision {engine.info.precision}",
            engine=engine.info.name,
            precision=options.precision,
        )
    check_golden(package, engine)
    # The reference is not compared with itself, and a torch package has no ONNX model to compare with.
    is_reference = engine.info.name == REFERENCE and engine.info.precision == "fp32"
    if is_reference or package.format != "onnx":
        return engine
    certificate = certificate_for(package, engine, options, kept_layers=kept_layers)
    certificate.require()
    unproven = None if certificate.is_proven else f"{options.precision} is not proven: {certificate.why_not_proven}"
    degraded = "; ".join(part for part in (engine.info.degraded, unproven) if part) or None
    info = replace(engine.info, accuracy=certificate.as_accuracy(), kept_layers=kept_layers, degraded=degraded)
    return ServedEngine(engine, info)


def _or_close(engine: Engine, check: Callable[[], Engine]) -> Engine:
    with ExitStack() as undo:
        undo.callback(engine.close)
        checked = check()
        undo.pop_all()
    return checked


def _require_format(name: str, package: ModelPackage) -> None:
    is_torch = name == "torch"
    if is_torch == (package.format == "pt2"):
        return
    wanted = "a torch.export program (model.pt2)" if is_torch else "an ONNX model"
    raise EngineUnavailable(
        f"{name} needs {wanted}, but the package {package.name}-{package.version} holds {package.model_path.name}. "
        "Choose another engine, or export the model in that form",
        engine=name,
        reason=f"it needs {wanted}, but the package holds {package.model_path.name}",
        remedy="export the model in that form",
    )


def _require_features(name: str, package: ModelPackage) -> None:
    if not package.gives_features or name.startswith("ort-"):
        return
    reason = f"it gives scores only, but features: true also needs the embedding {package.output.features}"
    remedy = "use an engine of ONNX Runtime (ort-tensorrt, ort-cuda, ort-cpu), or set features: false"
    raise EngineUnavailable(
        f"{name} cannot serve {package.name}-{package.version}: {reason}. To get it, {remedy}",
        engine=name,
        reason=reason,
        remedy=remedy,
    )


def _require_probe(name: str, prober: Prober) -> None:
    result = prober.probe(name)
    if not result.can_run:
        raise EngineUnavailable(
            f"{name} cannot run here: {result.reason}. To get it, {result.remedy}",
            engine=name,
            reason=result.reason,
            remedy=result.remedy,
        )
