"""``open_engine``: selects and opens the engine that the configuration asks for, and reports what was rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from engines.backends.load import options_for, options_of
from engines.backends.onnxruntime.options import provider_of, session_settings
from engines.base import PRECISIONS, Engine, EngineOptions, Rejection
from engines.errors import (
    BuildNeeded,
    EngineError,
    EngineUnavailable,
    GoldenMismatch,
    InferenceFailed,
    OptionsRejected,
    PrecisionRejected,
)
from engines.host import l4t_release
from engines.package.load import ModelPackage
from engines.sandbox.load import REFERENCE
from engines.select.candidate import machine_errors, open_candidate
from engines.select.registry import AUTO_ORDER, CHOOSERS, REMOTE, Prober, canonical_name
from engines.select.selection import Selection, SelectionStore, measure, remember_selection, selection_key_here
from engines.select.served import ServedEngine

_ON_CPU = ("ort-cpu", "ort-openvino", "ort-xnnpack", "ort-dnnl")
# Faults of one engine. A wrong model, option or image would fail on every engine and is raised.
_PASSED_OVER = (EngineUnavailable, PrecisionRejected, GoldenMismatch, InferenceFailed)


def open_engine(package: ModelPackage, options: EngineOptions) -> Engine:
    """Open the engine that ``options`` asks for.

    ``auto`` takes the engine that a measurement on this device found fastest, else the first in the documented order
    that works; ``fastest`` measures once and remembers. If a named engine cannot run, ``strict`` makes that an error;
    otherwise the next engine of ``auto`` serves and ``info.degraded`` says so. ``info.rejected`` lists every engine
    that was considered and not selected, with reason and remedy.

    Raises:
        OptionsRejected: an engine, precision or option that does not exist.
        EngineUnavailable: no allowed engine can run here; the message lists each attempt.
        PrecisionRejected: ``strict``, and the precision fails the accuracy check.
        ModelRejected: the model cannot be served; GoldenMismatch: a golden image is not classified as expected.
        InferenceFailed: the first run failed.
    """
    # Probes, the environment and the remembered selection need files and processes too.
    with machine_errors(options.engine, options):
        return _selected(package, options)


def _selected(package: ModelPackage, options: EngineOptions) -> Engine:
    requested = canonical_name(options.engine)
    _check_request(requested, options)
    search = _Search(package, options, requested)
    engine = search.fastest() if requested == "fastest" else search.first(search.order())
    degraded = search.degradation(engine)
    if options.strict and degraded is not None:
        engine.close()
        raise EngineUnavailable(
            f"{degraded}. strict is set: clear the cause or set strict: false", engine=engine.info.name
        )
    info = replace(
        engine.info,
        requested=options.engine,
        requested_precision=options.precision,
        rejected=search.rejections(engine),
        degraded=degraded,
        pending=search.pending,
        away=REMOTE if requested == REMOTE != engine.info.name else None,
        measurements=search.selection.measurements if search.selection else (),
    )
    return ServedEngine(engine, info)


@dataclass(slots=True)
class _Search:
    """One search for an engine; collects the rejections, and the measurement that the selection is based on."""

    package: ModelPackage
    options: EngineOptions
    requested: str
    prober: Prober = field(default_factory=Prober)
    rejected: list[Rejection] = field(default_factory=list)
    selection: Selection | None = None
    pending: str | None = None

    def order(self) -> tuple[str, ...]:
        """The engines that may serve, best first."""
        if self.requested in CHOOSERS:
            self.selection = self._remembered()
            fastest = (self.selection.engine,) if self.selection else ()
            return (*fastest, *(name for name in AUTO_ORDER if name not in fastest))
        if self.options.strict or self.options.building.requested_only:
            return (self.requested,)
        return (self.requested, *(name for name in AUTO_ORDER if name != self.requested))

    def first(self, names: tuple[str, ...]) -> Engine:
        """Open the first engine that works."""
        for name in names:
            engine = self._try(name)
            if engine is not None:
                return engine
        attempts = "; ".join(f"{one.engine}: {one.reason} (to get it, {one.remedy})" for one in self.rejected)
        raise EngineUnavailable(
            f"no engine can serve {self.package.name} here; {self.requested} was requested. Tried {attempts}",
            engine=self.requested,
            attempts=len(self.rejected),
        )

    def fastest(self) -> Engine:
        """Open the remembered fastest engine; without one, or if the measurement has aged, measure all that work."""
        self.selection = self._remembered()
        if self.selection is not None and self.selection.is_aged(datetime.now(timezone.utc)):
            self.selection = None
        if self.selection is not None:
            engine = self._try(self.selection.engine)
            if engine is not None:
                return engine
        return self._measured()

    def degradation(self, engine: Engine) -> str | None:
        """One sentence on what was requested, or can be expected of this device, and is missing."""
        name = engine.info.name
        sentences = [engine.info.degraded] if engine.info.degraded else []
        if self.requested not in CHOOSERS and name != self.requested:
            sentences.insert(0, f"{self.requested} was requested, but {name} runs: {self.rejected[0].reason}")
        elif self.requested == "auto" and name in _ON_CPU and (gpu := self._unused_gpu()) is not None:
            why = "; ".join(f"{one.engine}: {one.reason}" for one in self.rejected)
            sentences.insert(0, f"{gpu} is not used; {name} runs: {why}")
        return "; ".join(sentences) or None

    def rejections(self, engine: Engine) -> tuple[Rejection, ...]:
        """Every engine that was considered and not selected, once each."""
        # Later entries win: a failure of this start is newer than a measurement.
        rejections = {
            one.engine: one for one in (*(self.selection.rejections if self.selection else ()), *self.rejected)
        }
        rejections.pop(engine.info.name, None)
        return tuple(rejections.values())

    def _try(self, name: str) -> Engine | None:
        options = self.options
        # The options are for the requested engine; another one would refuse those that it does not know.
        if name != self.requested:
            options = replace(options, options=self._options_for_another(name))
        failed_server = options.building.failed_server
        if name == REMOTE and failed_server is not None and not options.strict:
            self.rejected.append(Rejection(engine=name, reason=failed_server, remedy="see to that server"))
            return None
        try:
            return open_candidate(self.package, options, name, self.prober)
        except _PASSED_OVER as exc:
            if self._is_final(name, exc):
                raise
            if isinstance(exc, BuildNeeded) and self.pending is None:
                self.pending = name
            self.rejected.append(_rejection_from(name, exc))
            return None

    def _options_for_another(self, name: str) -> dict[str, object]:
        # Those of a remote engine name its server and a token, which no library of this device may see.
        return {} if self.requested == REMOTE else options_for(name, self.options.options)

    def _is_final(self, name: str, error: EngineError) -> bool:
        """Whether another engine would hide the fault: the model's own, or one that ``strict`` forbids."""
        # If the reference itself fails its checks, the model or its manifest is wrong, not the engine.
        if name == REFERENCE and isinstance(error, GoldenMismatch | PrecisionRejected):
            return True
        is_only = self.options.strict or self.options.building.requested_only
        return is_only and name == self.requested

    def _measured(self) -> Engine:
        opened: dict[str, Engine] = {}
        kept: str | None = None
        try:
            for name in self.prober.names():
                engine = self._try(name)
                if engine is not None:
                    opened[name] = engine
            if not opened:
                return self.first(())
            kept = self._fastest_of(opened)
            return opened[kept]
        finally:
            for name, engine in opened.items():
                if name != kept:
                    engine.close()

    def _fastest_of(self, opened: Mapping[str, Engine]) -> str:
        if self.pending is not None:
            # An engine that is not built yet cannot be measured, so this selection must not be remembered.
            return next(iter(opened))
        measured = measure(opened, self.package, batch=self.options.max_batch)
        self.selection = remember_selection(self.package, self.options, measured, self.rejected)
        return self.selection.engine

    def _remembered(self) -> Selection | None:
        memory = SelectionStore(self.options.cache_dir)
        return memory.load(selection_key_here(self.package, self.options)) if memory.is_used() else None

    def _unused_gpu(self) -> str | None:
        if self.prober.gpus:
            return self.prober.gpus[0].name
        release = l4t_release()
        return f"the GPU of this Jetson (L4T {release})" if release else None


def _check_request(requested: str, options: EngineOptions) -> None:
    if options.precision not in PRECISIONS:
        raise OptionsRejected(
            f"there is no precision {options.precision!r}; choose one of {', '.join(PRECISIONS)}",
            precision=options.precision,
        )
    if options.max_batch < 1:
        raise OptionsRejected(f"max_batch is {options.max_batch}, at least 1 is needed", max_batch=options.max_batch)
    if requested in CHOOSERS:
        check_options(requested, options.options)


def check_options(engine: str, options: Mapping[str, object]) -> None:
    """Refuse options that ``engine``, a canonical name, would refuse when it is opened, without opening it.

    Raises:
        OptionsRejected: an option that does not exist, or an invalid value for a named engine.
    """
    if engine == "tensorrt":
        from engines.backends.tensorrt.options import checked_options

        checked_options(options)
    elif engine == REMOTE:
        from engines.backends.triton.options import remote_options

        remote_options(options)
    elif engine.startswith("ort-"):
        session_settings(engine, provider_of(engine), options, default_threads=1)
    tables = [options_of(one) for one in (AUTO_ORDER if engine in CHOOSERS else (engine,))]
    for name in options:
        if not any(table is None or name in table for table in tables):
            if engine in CHOOSERS:
                fault = f"no engine that {engine} may choose has an option {name!r}. Remove it or name the engine"
            else:
                fault = f"engine {engine} does not have an option {name!r}. Remove it"
            raise OptionsRejected(fault, option=name)


def _rejection_from(name: str, error: EngineError) -> Rejection:
    reason = str(error.fields.get("reason", error.message))
    remedy = str(error.fields.get("remedy", "see the reason"))
    return Rejection(engine=name, reason=reason, remedy=remedy)
