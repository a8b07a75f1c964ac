"""What is known of a device: figures with their names and where they come from."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.cameras.sources.failures import StreamFailed
from agent.cameras.sources.ffmpeg import Video, open_video
from agent.config.model import ModelConfig
from agent.config.sections.sources import DecodeMode
from agent.runtime.clock import SystemClock
from agent.runtime.errors import UsageError
from agent.runtime.records import planes_or_image
from agent.tools.benchmark.recommend import headline_of
from agent.tools.benchmark.report import EngineResult, PipelineResult, Report
from engines import Planes, canonical_name
from engines.select.registry import AUTO_ORDER

CLIP_S = 10.0
"""A clip is decoded up to here."""
_READ_WITHIN_S = 5.0
_PATTERN = "pattern "
_MIB = 1 << 20
_SAME = ("architecture", "board", "cpu", "cpu_cores", "gpus", "power_mode")


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and where it comes from. Its name has the unit."""

    value: float
    source: str


def other_device(report: Report, environment: Mapping[str, object]) -> str | None:
    """In what the device of ``report`` differs from the one of ``environment``; None if they are the same."""
    for key in _SAME:
        measured, here = report.environment.get(key), environment.get(key)
        if _plain(measured) != _plain(here):
            return f"{key} {measured}, but this device has {key} {here}"
    return None


def _plain(value: object) -> object:
    # A report that was read from its file has lists where the environment has tuples.
    return list(value) if isinstance(value, tuple) else value


def engine_in(report: Report, model: ModelConfig) -> EngineResult:
    """The engine of ``report`` that would serve ``model``.

    Raises:
        UsageError: the report does not have it.
    """
    wanted = canonical_name(model.engine)
    engines = [one for one in report.engines if not one.is_bare and one.precision == model.precision]
    engines = [one for one in engines if headline_of(one) is not None]
    if wanted not in ("auto", "fastest"):
        engines = [one for one in engines if one.name == wanted]
    if not engines:
        there = ", ".join(one.label for one in report.engines if not one.is_bare) or "no engine"
        raise UsageError(
            f"the report of {report.model.name} has {there}, but the configuration asks for {wanted} "
            f"{model.precision}. Measure that: agent benchmark --engines {wanted} --precisions {model.precision}"
        )
    if wanted == "fastest":
        return min(engines, key=_infer_ms)
    return min(engines, key=lambda one: AUTO_ORDER.index(one.name) if one.name in AUTO_ORDER else len(AUTO_ORDER))


def report_figures(key: str, model: ModelConfig, report: Report, source: str) -> dict[str, Figure]:
    """What ``report`` says of the model ``key``. ``source``: the name of its file.

    Raises:
        UsageError: it does not have the engine that would serve the model.
    """
    engine = engine_in(report, model)
    found = {
        f"models.{key}.infer_ms": Figure(_infer_ms(engine), f"{source}: mean of one frame on {engine.label}"),
        f"models.{key}.further_mib": Figure(engine.own_bytes / _MIB, f"{source}: what {engine.label} took"),
    }
    paths = sorted(_paths(report, engine), key=lambda one: one.cameras)
    if paths:
        first, last = paths[0], paths[-1]
        found[f"models.{key}.cpu_ms"] = Figure(first.cpu_ms_per_frame, f"{source}: {first.name}")
        if first.cameras == 1:
            found[f"models.{key}.memory_mib"] = Figure(first.resident_bytes / _MIB, f"{source}: {first.name}")
        if last.cameras > first.cameras:
            each = max(0.0, last.resident_bytes - first.resident_bytes) / (last.cameras - first.cameras)
            found["camera_mib"] = Figure(each / _MIB, f"{source}: {last.name}, less {first.cameras}")
    return found


def _infer_ms(engine: EngineResult) -> float:
    result = headline_of(engine)
    return math.inf if result is None else result.spread.mean_ms / result.case.samples


def _paths(report: Report, engine: EngineResult) -> Iterator[PipelineResult]:
    """The agent's own path with pattern cameras: a clip would count its decoding twice."""
    for one in report.pipelines:
        is_same = (one.engine, one.precision) == (engine.name, engine.precision)
        if is_same and one.source.startswith(_PATTERN) and one.results:
            yield one


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCost:
    """What a clip costs to read here: CPU for a second of the stream, and for one frame that is classified.

    The latter is nearly nothing where its planes are scaled as they are.
    """

    decode_ms: float
    convert_ms: float
    fps: float
    width: int
    height: int
    remarks: tuple[str, ...] = ()
    """What speaks against the figures: frames of the clip that were not decoded."""


def clip_cost(clip: Path, *, decode: DecodeMode = "all", wanted_hz: float | None = None) -> ClipCost:
    """Decode up to ten seconds of ``clip`` on one thread, with the conversions that its frames need.

    Both are measured in one pass: the difference of two passes would drown in what else the machine does.

    Raises:
        UsageError: it cannot be read, or has fewer than two frames.
    """
    found = _read(clip, decode, wanted_hz)
    height, width = found.size
    return ClipCost(
        decode_ms=found.decode_s * 1e3 / found.stream_s,
        convert_ms=found.convert_s * 1e3 / found.frames,
        fps=found.fps,
        width=width,
        height=height,
        remarks=tuple(_remarks(found, decode)),
    )


def _remarks(reading: _Reading, decode: DecodeMode) -> Iterator[str]:
    announced = reading.announced_frames
    if reading.is_longer:
        length = f"has about {announced / reading.fps:.0f} s" if announced else "goes on"
        yield f"{length}, but only its first {reading.stream_s:.0f} s were decoded"
    elif announced and decode == "all" and reading.frames + 1 < announced:
        yield f"announces {announced} frames, but {reading.frames} could be decoded: it was cut off"
    if reading.damaged:
        yield f"has {reading.damaged} packets that could not be decoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    decode_s: float
    convert_s: float
    """CPU of all frames, as above."""
    size: tuple[int, int]
    """Height and width."""
    frames: int
    stream_s: float
    fps: float
    announced_frames: int | None
    is_longer: bool
    """Whether frames follow the last one."""
    damaged: int


def _read(clip: Path, decode: DecodeMode, wanted_hz: float | None) -> _Reading:
    if clip.exists() and not clip.is_file():  # the opening of a pipe would wait for who writes to it
        raise UsageError(f"a clip must be a video file, but {clip} is {'a folder' if clip.is_dir() else 'no file'}")
    try:
        video = open_video(f"file:{clip}", clock=SystemClock(), options={}, is_live=False, threads=1, decode=decode)
    except StreamFailed as exc:
        raise UsageError(f"the clip {clip} cannot be read: {exc}") from exc
    try:
        return _decoded(video, clip, wanted_hz)
    except StreamFailed as exc:
        raise UsageError(f"the clip {clip} cannot be decoded: {exc}") from exc
    finally:
        video.close()


def _decoded(video: Video, clip: Path, wanted_hz: float | None) -> _Reading:
    never, size, frames, last_s, convert_s = threading.Event(), (0, 0), 0, 0.0, 0.0
    began_s = time.process_time()
    while (frame := video.read(_READ_WITHIN_S, never, wanted_hz)) is not None:
        frames, last_s = frames + 1, video.position_s(frame)
        read_s = time.process_time()
        whole = planes_or_image(frame)
        height, width = (whole.y if isinstance(whole, Planes) else whole).shape[:2]
        size = (height, width)
        convert_s += time.process_time() - read_s
        if last_s >= CLIP_S:
            break
    decode_s = time.process_time() - began_s - convert_s
    is_longer = frame is not None and video.read(_READ_WITHIN_S, never, wanted_hz) is not None
    if frames < 2 or last_s <= 0 or not video.fps:
        raise UsageError(f"the clip {clip} has {frames} frames with a time, but two are needed: record ten seconds")
    return _Reading(
        decode_s=decode_s,
        convert_s=convert_s,
        size=size,
        frames=frames,
        stream_s=last_s + 1 / video.fps,
        fps=video.fps,
        announced_frames=video.frame_count,
        is_longer=is_longer,
        damaged=video.damaged,
    )
