"""The checks. Each examines one thing, returns its findings and changes nothing."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import agent
from agent.config.model import CameraConfig
from agent.config.sections.sources import FolderSource
from agent.config.sections.triggers import GpioConfig
from agent.config.state_dir import resolved_path
from agent.runtime.clock import SystemClock
from agent.runtime.errors import AgentError
from agent.tools.doctor.findings import Finding
from agent.tools.doctor.service import InstalledService
from engines import EngineError, EnvironmentRecord, ProbeResult

_CAMERA_S = 8.0
_ROOM_BYTES = 512 << 20
"""Wanted for the agent's files, in addition to what the outbox leaves free."""


def runtime_findings(record: EnvironmentRecord) -> Iterator[Finding]:
    """The program, the machine and the libraries."""
    yield Finding("agent", "ok", agent.__version__, facts={"folder": str(Path(agent.__file__).parent)})
    machine = ", ".join(part for part in (record.board, record.cpu, f"{record.cpu_cores} cores") if part)
    yield Finding(
        "machine", "ok", machine, facts={"board": record.board, "cpu": record.cpu, "cores": record.cpu_cores}
    )
    system = ", ".join(
        part
        for part in (
            record.os,
            f"kernel {record.kernel}",
            record.architecture,
            f"L4T {record.l4t}" if record.l4t else "",
            f"JetPack {record.jetpack}" if record.jetpack else "",
            f"power mode {record.power_mode}" if record.power_mode else "",
        )
        if part
    )
    yield Finding("system", "ok", system, facts={"l4t": record.l4t, "jetpack": record.jetpack})
    yield from _gpu(record)
    yield Finding("python", "ok", record.python)
    yield _library("numpy", record.numpy)
    yield opencv_finding(record.opencv)
    for name in ("onnx", "onnxruntime", "tensorrt", "torch"):
        yield _library(name, getattr(record, name))


def _gpu(record: EnvironmentRecord) -> Iterator[Finding]:
    for gpu in record.gpus:
        memory = "shared memory" if gpu.integrated else f"{gpu.memory_bytes / 2**30:.0f} GiB"
        detail = f"{gpu.name}, compute capability {gpu.compute_capability}, {memory}"
        yield Finding("gpu", "ok", f"{detail}, driver {record.driver}, CUDA {record.cuda}")
    if not record.gpus:
        yield Finding("gpu", "absent", "no CUDA device answers")


def _library(name: str, version: str | None) -> Finding:
    if version is None:
        return Finding(name, "absent", "not installed")
    if version.startswith("broken:"):
        remedy = "reinstall it, or install the version that fits this system"
        return Finding(
            name, "warning", f"installed, but does not load: {version.removeprefix('broken:').strip()}", remedy
        )
    return Finding(name, "ok", version)


def opencv_finding(version: str | None, module: str = "cv2") -> Finding:
    """Whether OpenCV loads: no frame can be read without it, and the system libraries it needs are often missing."""
    try:
        loaded = importlib.import_module(module)
    except (ImportError, AttributeError) as exc:
        text = f"{version or 'not installed'}, does not load: {type(exc).__name__}: {exc}"
        remedy = "install what it misses, or the build that needs less: pip install opencv-python-headless"
        return Finding("opencv", "failed", text, remedy, is_needed=True)
    # A system's own package is not known to pip.
    return _library("opencv", version or str(getattr(loaded, "__version__", "loads")))


def engine_findings(probes: Sequence[ProbeResult]) -> Iterator[Finding]:
    """Every engine that the agent knows."""
    for probe in probes:
        if probe.can_run:
            yield Finding(probe.name, "ok", probe.detail or "can run")
        else:
            yield Finding(probe.name, "absent", probe.reason, probe.remedy)
    if not any(probe.can_run for probe in probes):
        remedy = "install it: pip install onnxruntime"
        yield Finding("any engine", "failed", "no engine can run on this machine", remedy, is_needed=True)


def camera_finding(name: str, camera: CameraConfig, base_dir: Path) -> Finding:
    """Whether one camera delivers a frame."""
    from agent.cameras.sources.choose import for_probe, make_source, probe_source

    if not camera.enabled:
        return Finding(name, "absent", "disabled in the configuration")
    source = make_source(for_probe(camera.source, _CAMERA_S), base_dir=base_dir, clock=SystemClock())
    result = probe_source(source, deadline_s=_CAMERA_S)
    if result.ok and isinstance(camera.source, FolderSource) and (fault := _fault_of_after(camera.source, base_dir)):
        return Finding(name, "failed", f"{camera.source.type}, {source.description}: {fault}", is_needed=True)
    facts = {"width": result.width, "height": result.height, "fps": result.fps}
    detail = f"{camera.source.type}, {source.description}: {result.detail}"
    return Finding(name, "ok" if result.ok else "failed", detail, is_needed=True, facts=facts)


def _fault_of_after(source: FolderSource, base_dir: Path) -> str | None:
    """Why this user cannot take images out of a watched folder, or not put them where they go."""
    folders = [] if source.after == "keep" else [resolved_path(source.path, base_dir)]
    if source.move_to is not None:
        target = resolved_path(source.move_to, base_dir)
        folders.append(next(one for one in (target, *target.parents) if os.path.exists(one)))  # noqa: PTH110 - no errors
    closed = [one for one in folders if not (one.is_dir() and os.access(one, os.W_OK | os.X_OK))]
    if not closed:
        return None
    return (
        f"`after: {source.after}` needs a folder that user number {os.geteuid()} may write to, but {closed[0]} is "
        "none. Correct its permissions, `path` or `move_to`"
    )


def line_finding(name: str, config: GpioConfig) -> Finding:
    """Whether the GPIO line of one camera's trigger can be watched; it is given back at once."""
    from agent.cameras.gpio import GpioUnavailable, open_line

    try:
        open_line(config).close()
    except GpioUnavailable as exc:
        return Finding(f"{name} trigger", "failed", exc.message, is_needed=True)
    return Finding(f"{name} trigger", "ok", f"line {config.line} of {config.chip} can be watched", is_needed=True)


def failure(name: str, error: BaseException, *, is_needed: bool) -> Finding:
    """The finding for a check that raised ``error``."""
    if isinstance(error, AgentError | EngineError):
        return Finding(name, "failed", error.message, is_needed=is_needed)
    return Finding(name, "failed", f"{type(error).__name__}: {error}", is_needed=is_needed)


def state_dir_finding(directory: Path, service: InstalledService | None = None) -> Finding:
    """Whether the state directory can be written and has space; ``service`` owns it, or the caller where None."""
    from agent.publish.outbox.file import kept_free_bytes

    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    facts = {"path": str(directory), "free_bytes": usage.free, "total_bytes": usage.total}
    whose = "" if service is None else f" (of {service.unit.name})"
    text = f"{directory}{whose}, {usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free"
    if not existing.is_dir():
        text = f"{directory} cannot be a directory: {existing} is none"
        return Finding("state_dir", "failed", text, "set another state_dir", is_needed=True, facts=facts)
    if not os.access(existing, os.W_OK | os.X_OK):
        if service is not None:
            # systemd gives it to the service's user; that this one may not write there is as it should be.
            remedy = "run this with sudo to look at what the service has"
            return Finding("state_dir", "warning", f"{text}; belongs to the service's user", remedy, facts=facts)
        remedy = f"give this user the right to write to {existing}, or set state_dir"
        return Finding(
            "state_dir", "failed", f"{text}: {existing} is not writable", remedy, is_needed=True, facts=facts
        )
    kept = kept_free_bytes(usage.total)
    if usage.free < kept + _ROOM_BYTES:
        text = f"{text}, of which the outbox leaves {kept / 2**30:.1f} GiB to others"
        remedy = "free some space: events wait here while the broker is away, and engines are kept here"
        return Finding("state_dir", "warning", text, remedy, facts=facts)
    return Finding("state_dir", "ok", text, facts=facts)


def state_file_findings(directory: Path) -> Iterator[Finding]:
    """Files in the state directory that cannot be used because something else has their name."""
    from agent.daemon.state_directory import blocked_in
    from agent.publish.outbox.choose import FILE_NAME

    remedy = "delete it or move it away while the agent is stopped"
    for file in blocked_in(directory):
        text = f"{file} must be a regular file and is none: the agent does not start"
        yield Finding(file.name, "failed", text, remedy, is_needed=True)
    outbox = directory / FILE_NAME
    with suppress(OSError):  # in a directory that this user cannot enter
        if outbox.exists() and not outbox.is_file():
            text = f"{outbox} must be a regular file and is none: events wait in memory, and a restart loses them"
            yield Finding(FILE_NAME, "warning", text, remedy)


def clock_finding() -> Finding:
    """Whether the clock follows a time server."""
    from agent.runtime.clock_sync import ClockWatch

    if ClockWatch().state() == "synced":
        return Finding("clock", "ok", "follows a time server")
    remedy = "let it follow a time server: timedatectl set-ntp true"
    return Finding("clock", "warning", "follows no time server; messages say `unsynced`", remedy)
