"""Which figures a configuration needs, and how each is measured."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.loader import LoadedConfig
from agent.config.model import CameraConfig, ModelConfig
from agent.config.state_dir import cache_dir_in
from agent.demo import demo_clip
from agent.runtime.errors import Unavailable, UsageError
from agent.tools.benchmark.report import EngineResult, Report
from agent.tools.plan.figures import ClipCost, Figure, clip_cost, engine_in, other_device, report_figures
from engines import canonical_name, describe, nearest_key

CHOOSERS = ("auto", "fastest")
_MODEL = ("infer_ms", "cpu_ms", "memory_mib", "further_mib")
_CAMERA = ("rate_hz", "decode_ms", "convert_ms")
FURTHER_CAMERA = "camera_mib"


@dataclass(frozen=True, slots=True)
class Need:
    """A figure that the plan needs, and how to get it."""

    name: str
    remedy: str


def enabled_cameras(loaded: LoadedConfig) -> dict[str, CameraConfig]:
    """The cameras that run."""
    return {name: camera for name, camera in loaded.config.cameras.items() if camera.enabled}


def used_models(loaded: LoadedConfig) -> dict[str, ModelConfig]:
    """The models that run on this device's own frames, or are served."""
    return {key: model for key, model in loaded.config.models.items() if key in loaded.config.used_models}


def stated_rate(camera: CameraConfig) -> float | None:
    """Frames a second that the configuration states for the classifiers; None if it states none."""
    if camera.rate_hz is not None or camera.trigger is not None:
        return camera.rate_hz
    return getattr(camera.source, "fps", None)


def needs_of(loaded: LoadedConfig) -> Iterator[Need]:
    """Every figure that the plan of ``loaded`` needs."""
    cameras, models = enabled_cameras(loaded), used_models(loaded)
    for key, model in models.items():
        remedy = _benchmark(key, model, loaded, has_cameras=len(cameras) > 1)
        for figure in _MODEL[:3] if len(models) == 1 else _MODEL:
            yield Need(f"models.{key}.{figure}", remedy)
    if len(cameras) > 1:
        key, model = next(iter(models.items()))
        yield Need(FURTHER_CAMERA, _benchmark(key, model, loaded, has_cameras=True))
    for name, camera in cameras.items():
        if stated_rate(camera) is None:
            yield Need(f"cameras.{name}.rate_hz", f"{_why_no_rate(camera)}: --figure cameras.{name}.rate_hz=HZ")
        if camera.source.type != "pattern":
            remedy = f"record ten seconds of it and add --clip {name}=FILE"
            yield from (Need(f"cameras.{name}.{figure}", remedy) for figure in _CAMERA[1:])


def _why_no_rate(camera: CameraConfig) -> str:
    if camera.trigger is not None:
        return "how often it is triggered is stated nowhere"
    if camera.source.type == "file":
        return "it reads as fast as it can, so it takes all that is left; write rate_hz"
    return "neither rate_hz nor fps is written; write one"


def _benchmark(key: str, model: ModelConfig, loaded: LoadedConfig, *, has_cameras: bool) -> str:
    package = "demo" if model.package == "demo" else str(loaded.package_dir(key))
    engine = canonical_name(model.engine)
    words = ["agent", "benchmark", "--package", package, "--engines", "all" if engine in CHOOSERS else engine]
    words += ["--precisions", model.precision, "--scenario", "latency,pipeline"]
    words += ["--cameras", "1,4"] if has_cameras else []
    file = f"{key}.json"
    return f"{shlex.join([*words, '--output', file])}, then add --report {file}"


@dataclass(slots=True)
class Known:
    """The figures by name, the engine that a report found for each model, and warnings about both."""

    figures: dict[str, Figure] = field(default_factory=dict)
    engines: dict[str, EngineResult] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def gather(
    loaded: LoadedConfig,
    *,
    reports: Mapping[str, Report],
    clips: Mapping[str, Path],
    stated: Mapping[str, float],
    accepts_invalid: bool = False,
) -> Known:
    """All figures that the plan needs. What is stated replaces what was measured.

    Raises:
        UsageError: a report is of another device or model, or is not valid and ``accepts_invalid`` is not set, a clip
            cannot be read, or a name means nothing here.
        Unavailable: figures are missing; the message names each and what measures it.
    """
    needs = tuple(needs_of(loaded))
    _check_names(needs, loaded, clips, stated)
    known = _from_reports(loaded, reports, accepts_invalid=accepts_invalid)
    for name, camera in enabled_cameras(loaded).items():
        clip = clips.get(name) or _own_clip(camera, loaded)
        if clip is not None:
            cost = clip_cost(clip, decode=getattr(camera.source, "decode", "all"), wanted_hz=camera.rate_hz)
            rate_hz = stated.get(f"cameras.{name}.rate_hz", camera.rate_hz)
            known.figures |= _clip_figures(name, camera, clip, cost, rate_hz)
            known.warnings += [f"{clip.name}, the clip of {name}, {text}" for text in cost.remarks]
    known.figures |= {name: Figure(value, "stated") for name, value in stated.items()}
    _refuse_missing(needs, known.figures)
    return known


def _own_clip(camera: CameraConfig, loaded: LoadedConfig) -> Path | None:
    source = camera.source
    if source.type != "file":
        return None
    return demo_clip() if source.path == "demo" else loaded.resolve(source.path)


def _clip_figures(
    name: str, camera: CameraConfig, clip: Path, cost: ClipCost, rate_hz: float | None
) -> dict[str, Figure]:
    source = f"{clip.name} ({cost.width}x{cost.height}, {cost.fps:g} fps), decoded here"
    found = {
        f"cameras.{name}.decode_ms": Figure(_decode_ms(camera, cost, rate_hz), source),
        f"cameras.{name}.convert_ms": Figure(cost.convert_ms, source),
    }
    if stated_rate(camera) is None and camera.trigger is None and camera.source.type != "file":
        found[f"cameras.{name}.rate_hz"] = Figure(cost.fps, source)
    return found


def _decode_ms(camera: CameraConfig, cost: ClipCost, rate_hz: float | None) -> float:
    """For one second: a file is read frame by frame at ``rate_hz``, a live stream comes at its own rate."""
    fps = rate_hz if camera.source.type == "file" else getattr(camera.source, "fps", None)
    return cost.decode_ms * (fps / cost.fps if fps else 1.0)


def _from_reports(loaded: LoadedConfig, reports: Mapping[str, Report], *, accepts_invalid: bool) -> Known:
    known = Known()
    if not reports:
        return known
    environment = describe().as_dict()
    cache = cache_dir_in(loaded.state_dir)
    hashes = {key: loaded.read_package(key, cache).sha256 for key in used_models(loaded)}
    for file, report in reports.items():
        if (difference := other_device(report, environment)) is not None:
            raise UsageError(f"{file} was measured with {difference}: measure on this device")
        keys = [key for key, sha256 in hashes.items() if sha256 == report.model.sha256]
        if not keys:
            used = ", ".join(f"{key} ({sha256[:12]})" for key, sha256 in hashes.items())
            raise UsageError(
                f"{file} is of {report.model.name} {report.model.version} ({report.model.sha256[:12]}), but the "
                f"configuration uses {used}: measure those packages"
            )
        if report.invalid and not accepts_invalid:
            raise UsageError(
                f"a plan needs figures that hold, but {file} is not valid: {report.invalid[0]}. Measure again on a "
                "quiet machine, or add --accept-invalid"
            )
        for key in keys:
            _add(known, key, loaded.config.models[key], report, file)
        known.warnings += [f"{file} is not valid: {why}" for why in report.invalid]
        known.warnings += [f"{file} is of a quick run"] if report.is_quick else []
    return known


def _add(known: Known, key: str, model: ModelConfig, report: Report, file: str) -> None:
    if key in known.engines:
        raise UsageError(f"{file} is of the model {key}, but another report is too: give one of them")
    figures = report_figures(key, model, report, file)
    before = known.figures.get(FURTHER_CAMERA)
    known.engines[key] = engine_in(report, model)
    known.figures |= figures
    if before is not None and before.value > known.figures[FURTHER_CAMERA].value:
        # What a further camera takes does not depend on the model: the largest is taken.
        known.figures[FURTHER_CAMERA] = before


def _check_names(needs: Sequence[Need], loaded: LoadedConfig, clips: Collection[str], stated: Collection[str]) -> None:
    cameras = enabled_cameras(loaded)
    for camera in clips:
        if camera not in cameras:
            raise UsageError(f"--clip {camera}=…: there is no camera {camera!r}; there are {', '.join(cameras)}")
    known = {need.name for need in needs} | {f"cameras.{name}.{one}" for name in cameras for one in _CAMERA}
    known |= {f"models.{key}.{one}" for key in used_models(loaded) for one in _MODEL} | {FURTHER_CAMERA}
    for name in stated:
        if name not in known:
            near = nearest_key(name, sorted(known))
            hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(known))}"
            raise UsageError(f"--figure {name}: this configuration has no such figure; {hint}")


def _refuse_missing(needs: Sequence[Need], found: Collection[str]) -> None:
    missing: dict[str, list[str]] = {}
    for need in needs:
        if need.name not in found:
            missing.setdefault(need.remedy, []).append(need.name)
    if missing:
        lines = [f"  {', '.join(names)}: {remedy}" for remedy, names in missing.items()]
        raise Unavailable(
            "the plan needs figures that nobody has measured or stated on this device (or state one with --figure "
            "NAME=VALUE):\n" + "\n".join(lines),
            missing=[name for names in missing.values() for name in names],
        )
