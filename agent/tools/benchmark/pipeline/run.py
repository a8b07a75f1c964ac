"""The agent's own path: from a frame to a real subscriber behind a real broker, against the bare session."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from agent.config.broker_address import BrokerAddress
from agent.mqtt.embedded.broker import EmbeddedBroker
from agent.runtime.statistics import percentiles
from agent.tools.benchmark.conditions import ConditionsWatch, Window, others_ratio_of
from agent.tools.benchmark.measure.rounds import Plan, Progress, ask_block, open_session
from agent.tools.benchmark.measure.session import Session
from agent.tools.benchmark.measure.target import BARE, Target
from agent.tools.benchmark.pipeline.agent_process import AgentProcess, running_agent
from agent.tools.benchmark.pipeline.subscriber import PREFIX, Arrival, Recorder, arrivals_of, documents_of, listening
from agent.tools.benchmark.report import PipelineResult, StageRow
from agent.tools.benchmark.statistics import Spread, spread_of

_SETTLE_S = 3.0
"""Not measured at the start: connections, first frames, cold caches."""
_LENGTH_S = 24.0
_QUICK_S = 6.0
_BARE_QUERIES = 100
_BARE_CLOSED_S = 2.0
_START_S = 4.0
"""Roughly what the agent takes to start and to stop."""
_STAGES = ("capture", "queue", "preprocess", "infer", "decide")
_TOO_BUSY_RATIO = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One measurement of the whole path: ``fps`` None is unpaced, ``seconds`` None the usual length."""

    cameras: int
    source: Mapping[str, object]
    description: str
    fps: float | None
    seconds: float | None = None

    @property
    def pace(self) -> str:
        """The name shown in tables."""
        return "unpaced" if self.fps is None else f"{self.fps:g} fps"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRequest:
    """Which cameras. Each clip is read once at the cameras' rate and once unpaced; without a clip, a pattern is used.

    ``setups`` replace all of that if given.
    """

    cameras: tuple[int, ...] = (1,)
    clips: tuple[Path, ...] = ()
    size: tuple[int, int] = (1280, 720)
    setups: tuple[Setup, ...] = ()


def clip_setup(clip: Path, *, cameras: int, fps: float | None, seconds: float | None = None) -> Setup:
    """Each of ``cameras`` reads ``clip`` again and again."""
    source = {"type": "file", "path": str(clip.resolve()), "loop": True}
    return Setup(cameras=cameras, source=source, description=clip.name, fps=fps, seconds=seconds)


def run_pipelines(
    plan: Plan,
    ready: Sequence[Target],
    request: PipelineRequest,
    watch: ConditionsWatch,
    progress: Progress,
    *,
    fps: float,
    is_quick: bool,
) -> tuple[PipelineResult, ...]:
    """Measure the path for each engine that is ready, each number of cameras and each source.

    Raises:
        BrokerUnavailable: no broker can be started here; Unavailable: the agent does not start.
    """
    usual_s = _QUICK_S if is_quick else _LENGTH_S
    targets = [target for target in ready if target.kind != BARE]
    found_setups = request.setups or [one for cameras in request.cameras for one in _setups(request, cameras, fps)]
    setups = [(one, one.seconds or usual_s) for one in found_setups]
    progress.phase("the agent's own path", len(targets) * sum(_expected_s(*one) for one in setups))
    found = []
    for target in targets:
        bare = Target(engine=target.engine, precision=target.precision, kind=BARE)
        with contextlib.ExitStack() as resources:
            bare_session = resources.enter_context(open_session(plan, bare))[0] if bare in ready else None
            for setup, length_s in setups:
                progress.step(f"{target.label}: {setup.cameras} × {setup.description}, {setup.pace}")
                found.append(_measure(plan, target, bare_session, setup, watch, length_s))
                progress.advance(_expected_s(setup, length_s))
    return tuple(found)


def _expected_s(setup: Setup, length_s: float) -> float:
    return length_s + _SETTLE_S + _START_S + 2 * _bare_s(setup)


def _bare_s(setup: Setup) -> float:
    return _BARE_CLOSED_S if setup.fps is None else _BARE_QUERIES / setup.fps


def _setups(request: PipelineRequest, cameras: int, fps: float) -> Iterator[Setup]:
    if not request.clips:
        width, height = request.size
        pattern = {"type": "pattern", "width": width, "height": height, "fps": fps}
        yield Setup(cameras=cameras, source=pattern, description=f"pattern {width}x{height}", fps=fps)
    for clip in request.clips:
        yield clip_setup(clip, cameras=cameras, fps=fps)
        yield clip_setup(clip, cameras=cameras, fps=None)


def _config(plan: Plan, target: Target, setup: Setup, address: BrokerAddress) -> dict[str, object]:
    # A live source is paced already. With rate_hz as well, a frame that comes early would be skipped.
    rate_hz = setup.fps if setup.source["type"] == "file" else None
    camera = {"source": dict(setup.source), "rate_hz": rate_hz, "classify": [{"model": "measured"}]}
    return {
        "version": 1,
        "device": {"id": "measured"},
        "models": {
            "measured": {
                "package": str(plan.package_dir.resolve()),
                "max_file_mib": plan.max_file_mib,
                "engine": target.engine,
                "precision": target.precision,
                "strict": True,
                "batching": {"max_size": plan.max_batch},
                "options": dict(plan.options),
            }
        },
        "cameras": {f"camera{number}": camera for number in range(1, setup.cameras + 1)},
        "mqtt": {"broker": f"mqtt://{address.host}:{address.port}", "prefix": PREFIX},
        "thermal": {"governor": {"enabled": False}},
    }


@dataclass(slots=True)
class _Stretch:
    """Everything recorded between the end of settling and the end of the measurement."""

    arrivals: list[Arrival]
    publish_ms: list[dict[str, float]]
    dropped: dict[str, int]
    cpu_s: float
    wall_s: float
    resident_bytes: int
    growth_bytes: int
    ready_s: float
    window: Window


def _measure(
    plan: Plan,
    target: Target,
    bare: Session | None,
    setup: Setup,
    watch: ConditionsWatch,
    length_s: float,
) -> PipelineResult:
    before = _bare_times(bare, setup, watch)
    # A new broker each time: one with a retained status of the agent before would look ready at once.
    with EmbeddedBroker() as broker, listening(broker.address) as recorder:
        config = _config(plan, target, setup, broker.address)
        with running_agent(config, plan.cache_dir, recorder.is_running.wait) as process:
            stretch = _stretch(process, recorder, watch, length_s)
        health = documents_of(recorder.take(), "health")
    if health:
        stretch.dropped = drops_of(health[-1])
    times = [*before, *_bare_times(bare, setup, watch)]
    return _result(target, setup, stretch, spread_of(times) if times else None)


def _bare_times(bare: Session | None, setup: Setup, watch: ConditionsWatch) -> tuple[int, ...]:
    """The bare session at the same rate."""
    if bare is None:
        return ()
    block = {
        "batch": 1,
        "samples": 1,
        "duration_ns": int(_bare_s(setup) * 1e9),
        "queries": _BARE_QUERIES,
        "period_ns": None if setup.fps is None else int(1e9 / setup.fps),
    }
    return ask_block(bare, block, watch, expected_s=_bare_s(setup))[0].times_ns


def _stretch(process: AgentProcess, recorder: Recorder, watch: ConditionsWatch, length_s: float) -> _Stretch:
    time.sleep(_SETTLE_S)
    recorder.take()
    cpu_s, resident, first = process.cpu_s(), process.resident_bytes(), watch.look()
    began_s, began_ns = time.monotonic(), time.perf_counter_ns()
    time.sleep(length_s)
    messages = recorder.take()
    ended_ns, last = time.perf_counter_ns(), watch.look()
    used_s, now_resident = process.cpu_s() - cpu_s, process.resident_bytes()
    windows = documents_of(messages, "latency")
    return _Stretch(
        arrivals=arrivals_of(messages),
        publish_ms=[model["publish"] for one in windows for model in one["models"].values() if model["publish"]],
        dropped={},
        cpu_s=used_s,
        wall_s=time.monotonic() - began_s,
        resident_bytes=now_resident,
        growth_bytes=now_resident - resident,
        ready_s=process.ready_s,
        window=Window(began_ns, ended_ns, used_s, first, last),
    )


def _result(target: Target, setup: Setup, stretch: _Stretch, bare: Spread | None) -> PipelineResult:
    arrivals = stretch.arrivals
    whole = [one.end_to_end_ms for one in arrivals]
    in_hand = [one.end_to_end_ms - one.latency_ms["capture"] for one in arrivals]
    others = [one.end_to_end_ms - one.latency_ms["capture"] - one.latency_ms["infer"] for one in arrivals]
    from_hand = _spread_of_ms(in_hand)
    seconds = (stretch.window.ended_ns - stretch.window.began_ns) / 1e9
    others_ratio = others_ratio_of(stretch.window)
    warnings = []
    if others_ratio > _TOO_BUSY_RATIO:
        warnings.append(f"{setup.description}, {setup.pace}: broker and other programs took {others_ratio:.0%}")
    plural = "s" if setup.cameras > 1 else ""
    return PipelineResult(
        name=f"{setup.cameras} camera{plural}, {setup.description}, {setup.pace}, {target.label}",
        cameras=setup.cameras,
        source=setup.description,
        fps=setup.fps,
        engine=target.engine,
        precision=target.precision,
        results=len(arrivals),
        wall_s=stretch.wall_s,
        throughput_hz=len(arrivals) / seconds,
        end_to_end=_spread_of_ms(whole),
        from_hand=from_hand,
        without_infer=_spread_of_ms(others),
        stages=tuple(_stage_rows(stretch)),
        bare=bare,
        overhead_p50_ms=None if bare is None else from_hand.p50_ms - bare.p50_ms,
        dropped=stretch.dropped,
        lost_on_the_way=_holes(arrivals),
        cpu_ms_per_frame=stretch.cpu_s * 1e3 / max(len(arrivals), 1),
        ready_s=stretch.ready_s,
        resident_bytes=stretch.resident_bytes,
        growth_bytes=stretch.growth_bytes,
        others_ratio=others_ratio,
        warnings=tuple(warnings),
    )


def _stage_rows(stretch: _Stretch) -> Iterator[StageRow]:
    for stage in _STAGES:
        times_ms = [one.latency_ms[stage] for one in stretch.arrivals]
        p50, p95, p99, highest = percentiles(times_ms, (50, 95, 99, 100))
        yield StageRow(stage=stage, p50_ms=p50, p95_ms=p95, p99_ms=p99, max_ms=highest)
    if stretch.publish_ms:
        # The agent publishes percentiles per window of 5 s: take the median window, and the highest maximum.
        yield StageRow(
            stage="publish",
            p50_ms=median(one["p50"] for one in stretch.publish_ms),
            p95_ms=median(one["p95"] for one in stretch.publish_ms),
            p99_ms=median(one["p99"] for one in stretch.publish_ms),
            max_ms=max(one["max"] for one in stretch.publish_ms),
        )


def _holes(arrivals: Sequence[Arrival]) -> int:
    """Results whose sequence number never arrived."""
    by_camera: dict[str, list[int]] = {}
    for one in arrivals:
        by_camera.setdefault(one.camera, []).append(one.seq)
    return sum(max(seqs) - min(seqs) + 1 - len(set(seqs)) for seqs in by_camera.values())


def drops_of(health: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]) -> dict[str, int]:
    """Dropped frames of the whole run by reason, over all cameras, from the agent's ``health`` message."""
    found: dict[str, int] = {}
    for camera in health["cameras"].values():
        for reason, count in camera["dropped"].items():
            found[reason] = found.get(reason, 0) + count
    return {reason: count for reason, count in found.items() if count}


def _spread_of_ms(values: Sequence[float]) -> Spread:
    return spread_of([round(value * 1e6) for value in values])
