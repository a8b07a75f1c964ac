"""Runs all checks in parallel, each with a deadline, and collects their findings in order."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.commands.overrides import FILE_NAME, Kept
from agent.config.loader import LoadedConfig
from agent.config.sections.thermal import ThermalConfig
from agent.config.sections.triggers import GpioConfig
from agent.runtime.errors import ConfigError
from agent.tools.doctor import checks
from agent.tools.doctor.broker import broker_findings, profile_findings
from agent.tools.doctor.findings import Finding, Report, sections_from
from agent.tools.doctor.heat import heat_findings
from agent.tools.doctor.models import copied_cache, label_findings, model_finding, used_models
from agent.tools.doctor.serve import serve_findings
from agent.tools.doctor.service import InstalledService
from engines import describe, probe

_FEW = 9
"""Threads for the checks that always run, and one spare."""
_ENGINES_S = 120.0
_OTHERS_S = 20.0


@dataclass(frozen=True, slots=True)
class _Check:
    """One check and the section for its findings. ``run`` is called on its own thread."""

    section: str
    name: str
    run: Callable[[], Sequence[Finding]]
    deadline_s: float = _OTHERS_S
    is_needed: bool = False


@dataclass(frozen=True, slots=True)
class Examination:
    """The report, and whether a check still hangs: then the process must end without waiting for it."""

    report: Report
    is_cut_off: bool


def examine(
    kept: Kept | None,
    *,
    state_dir: Path,
    service: InstalledService | None = None,
    with_cameras: bool = True,
    config_error: ConfigError | None = None,
) -> Examination:
    """Check all that a configuration with its kept overrides needs, or only the machine if it is None.

    Faults become findings, not errors. ``service`` is the installed one that runs with that configuration.
    """
    loaded = None if kept is None else kept.loaded
    # A thread per check: one after another, a dozen dead cameras would use up the time of the others.
    threads = _FEW if loaded is None else _FEW + len(loaded.config.models) + 2 * len(loaded.config.cameras)
    executor = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="doctor")
    found: list[tuple[str, Sequence[Finding]]] = [("configuration", [*_configuration(kept, config_error)])]
    with nullcontext(state_dir) if loaded is None else copied_cache(state_dir) as cache_dir:
        began_s = time.monotonic()
        try:
            started = [
                (check, executor.submit(check.run))
                for check in _checks(loaded, partial(_state, state_dir, service), cache_dir, with_cameras=with_cameras)
            ]
            found += [(check.section, _findings(check, future, began_s)) for check, future in started]
            is_cut_off = not all(future.done() for _, future in started)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    refused = None if config_error is None else config_error.fields.get("file")
    subject = refused or ("this machine" if loaded is None else loaded.path)
    return Examination(Report(str(subject), sections_from(found)), is_cut_off)


def _checks(
    loaded: LoadedConfig | None,
    state: Callable[[], Sequence[Finding]],
    cache_dir: Path,
    *,
    with_cameras: bool,
) -> Iterator[_Check]:
    yield _Check("runtime", "runtime", lambda: [*checks.runtime_findings(describe())])
    yield _Check("engines", "engines", lambda: [*checks.engine_findings(probe())], _ENGINES_S, is_needed=True)
    if loaded is not None:
        yield from _checks_of_config(loaded, cache_dir, with_cameras=with_cameras)
    yield _Check("machine", "state_dir", state, is_needed=True)
    thermal = ThermalConfig() if loaded is None else loaded.config.thermal
    yield _Check("machine", "temperatures", lambda: heat_findings(thermal))
    yield _Check("machine", "clock", lambda: [checks.clock_finding()])


def _checks_of_config(loaded: LoadedConfig, cache_dir: Path, *, with_cameras: bool) -> Iterator[_Check]:
    config = loaded.config
    for name in used_models(loaded):
        yield _Check("models", name, partial(_model, loaded, name, cache_dir), _ENGINES_S, is_needed=True)
    yield _Check("models", "labels", lambda: [*label_findings(loaded)], is_needed=True)
    for name, camera in config.cameras.items() if with_cameras else ():
        run = partial(_camera, loaded, name)
        yield _Check("cameras", name, run, is_needed=camera.enabled)
        if camera.enabled and camera.trigger is not None and (line := camera.trigger.gpio) is not None:
            yield _Check("cameras", name, partial(_line, name, line), is_needed=True)
    yield _Check("broker", "broker", lambda: broker_findings(loaded), is_needed=True)
    if config.serve.is_on:
        yield _Check("serve", "serve", lambda: [*serve_findings(loaded)], is_needed=True)
    yield _Check("broker", "profile", lambda: [*profile_findings(loaded)])


def _state(state_dir: Path, service: InstalledService | None) -> list[Finding]:
    is_its = service is not None and state_dir == service.state_dir
    return [checks.state_dir_finding(state_dir, service if is_its else None), *checks.state_file_findings(state_dir)]


def _model(loaded: LoadedConfig, name: str, cache_dir: Path) -> list[Finding]:
    return [model_finding(name, loaded, cache_dir)]


def _camera(loaded: LoadedConfig, name: str) -> list[Finding]:
    return [checks.camera_finding(name, loaded.config.cameras[name], loaded.base_dir)]


def _line(name: str, config: GpioConfig) -> list[Finding]:
    return [checks.line_finding(name, config)]


def _findings(
    check: _Check, future: concurrent.futures.Future[Sequence[Finding]], began_s: float
) -> Sequence[Finding]:
    left_s = max(0.0, began_s + check.deadline_s - time.monotonic())
    done, _ = concurrent.futures.wait([future], timeout=left_s)
    if not done:
        text = f"no answer within {check.deadline_s:g} s"
        return [Finding(check.name, "failed", text, is_needed=check.is_needed)]
    error = future.exception()
    return future.result() if error is None else [checks.failure(check.name, error, is_needed=check.is_needed)]


def _configuration(kept: Kept | None, error: ConfigError | None) -> Iterator[Finding]:
    if error is not None:
        problems = error.fields.get("problems")
        for line in problems if isinstance(problems, list) else [error.message]:
            yield Finding("file", "failed", str(line), is_needed=True)
    if kept is None:
        return
    loaded = kept.loaded
    facts = {"path": str(loaded.path), "device": loaded.device_id, "sha256": loaded.sha256}
    yield Finding("file", "ok", f"{loaded.path} is good, device {loaded.device_id}", facts=facts)
    for warning in loaded.warnings:
        yield Finding("file", "warning", warning)
    remedy = f"set it to the file's value with keep: true, or delete {loaded.state_dir / FILE_NAME}"
    for text in kept.in_force():
        yield Finding("kept", "warning", text, remedy)
    for text in (*kept.edited, *kept.unfit):
        yield Finding("kept", "warning", text)
