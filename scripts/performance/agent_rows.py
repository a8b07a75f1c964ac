"""Rows that need the whole agent as a process: Q20, Q21 and Q23 to Q27. Run by scripts/measure."""

from __future__ import annotations

import ast
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import agent
from agent.mqtt.embedded.broker import EmbeddedBroker
from agent.tools.benchmark.measure.bare import BareSession
from agent.tools.benchmark.measure.blocks import Block, BlockRequest, ImageFeed, run_block
from agent.tools.benchmark.pipeline.agent_process import AgentProcess, running_agent
from agent.tools.benchmark.pipeline.run import drops_of
from agent.tools.benchmark.pipeline.subscriber import PREFIX, Arrival, Recorder, arrivals_of, documents_of, listening
from agent.tools.benchmark.statistics import REQUIRED_RUNS, Spread, spread_of
from engines.base import EngineOptions
from engines.graph.image_set import image_set_of
from engines.package.load import load_package
from scripts.performance.quality_rows import pace
from scripts.performance.verdict import ANY_LOAD, Bar, Load, LoadWatch, Row

_SETTLE_S = 3.0
_ALL_SAID_S = 12.0
"""By then the agent has sent each kind of message once, so memory for that is not counted as growth."""
_LOOK_S = 0.5
_LOOKS = 16
"""Samples per memory figure, of which the largest counts: memory jitters by one 720p frame, 2.6 MiB."""
_MIB = 2.0**20
_WITHIN_S = 120.0
# The bars. Source: the bars in docs/performance.md.
_GLUE_P50_MS, _GLUE_P99_MS = 0.60, 2.0
_ABOVE_BARE_MS = 0.65
_OVERLOAD_MS = 10.0
_OVERLOAD_RATIO = 40.0 * 0.034
"""A camera with 40 frames per second and a model that takes 34 ms."""
_KEPT_RATIO = 0.97
_GROWTH_MIB = 1.0

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Duration of each measurement in seconds, and the number of frames for the memory row."""

    paced_s: float = 24.0
    overload_s: float = 60.0
    outage_s: float = 60.0
    frames: int = 10_000
    bare_s: float = 4.0


@dataclass(slots=True)
class Watched:
    """Measurements of one agent after it has settled."""

    arrivals: list[Arrival] = field(default_factory=list)
    results: list[Json] = field(default_factory=list)
    latency: list[Json] = field(default_factory=list)
    health: list[Json] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    @property
    def growth_mib(self) -> float:
        """Growth from the first samples to the last ones; the peak of each group counts."""
        return (max(self.resident[-_LOOKS:]) - max(self.resident[:_LOOKS])) / _MIB

    @property
    def rate_hz(self) -> float:
        """Results per second, by capture times."""
        span_s = (self.arrivals[-1].captured_ns - self.arrivals[0].captured_ns) / 1e9
        return (len(self.arrivals) - 1) / span_s


def config_of(
    package: Path, sources: Sequence[Json], port: int, *, rate_hz: float | None = None, **model: object
) -> dict[str, object]:
    """Configuration with one model for all ``sources``, and status messages every few seconds."""
    return {
        "version": 1,
        "device": {"id": "measured"},
        "models": {"m": {"package": str(package.resolve()), "engine": "ort-cpu", "strict": True, **model}},
        "cameras": {
            f"camera{number}": {"source": dict(source), "rate_hz": rate_hz, "classify": [{"model": "m"}]}
            for number, source in enumerate(sources, 1)
        },
        "mqtt": {"broker": f"mqtt://127.0.0.1:{port}", "prefix": PREFIX},
        "thermal": {"governor": {"enabled": False}},
    }


def pattern(fps: float) -> Json:
    """A live 720p source without decoding."""
    return {"type": "pattern", "width": 1280, "height": 720, "fps": fps}


def watch_agent(config: Json, cache: Path, broker: EmbeddedBroker, until: Callable[[Watched, float], bool]) -> Watched:
    """Wait until the agent has settled, then sample it twice per second until ``until(seconds)`` is true."""
    seen = Watched()
    with listening(broker.address) as recorder, running_agent(config, cache, recorder.is_running.wait) as process:
        time.sleep(_SETTLE_S)
        recorder.take()
        began_s = time.monotonic()
        _look(seen, recorder, process)
        while not until(seen, time.monotonic() - began_s) and time.monotonic() - began_s < _WITHIN_S:
            time.sleep(_LOOK_S)
            _look(seen, recorder, process)
    messages = recorder.take()  # the final report has the final counters
    seen.health += documents_of(messages, "health")
    return seen


def _look(seen: Watched, recorder: Recorder, process: AgentProcess) -> None:
    messages = recorder.take()
    seen.arrivals += arrivals_of(messages)
    seen.results += documents_of(messages, "result")
    seen.latency += documents_of(messages, "latency")
    seen.health += documents_of(messages, "health")
    seen.resident.append(process.resident_bytes())


def agent_rows(package: Path, slow: Path, cache: Path, lengths: Lengths, *, hand_over: Spread) -> Iterator[Row]:
    """Measure all rows; ``slow`` is a package whose model takes about 34 ms on one thread.

    ``hand_over`` is how long a result takes to reach the publisher.
    """
    yield from glue_rows(package, cache, lengths, hand_over)
    yield from overload_rows(slow, cache, lengths)
    yield lossless_row(package, cache)
    yield pickle_row()
    yield growth_row(package, cache, lengths)
    yield shared_session_row(package, cache)
    yield from outage_rows(package, cache, lengths)


def glue_rows(package: Path, cache: Path, lengths: Lengths, hand_over: Spread) -> Iterator[Row]:
    """Q20: everything except inference, from the captured frame to the packet handed to the connection.

    The bar was set by a prototype that gave its results to a publisher's thread. It counts what the inferring thread
    does beside its call: preprocessing and decision, summed frame by frame, and the hand-over, whose medians are those
    of Q27. What publishing takes, from the decision until the connection has the packet, comes in percentiles
    of windows; their medians are added, which for the p99 is more than the p99 of the sum.
    """
    watch, before = LoadWatch(), pace()
    bare = _bare(package, cache, {}, 1 / 30, lengths)
    with EmbeddedBroker() as broker:
        config = config_of(package, [pattern(30.0)], broker.port)
        seen = watch_agent(config, cache, broker, lambda _, seconds: seconds >= lengths.paced_s)
    here = min(before, pace())
    publish = [one["models"]["m"]["publish"] for one in seen.latency if one["models"]["m"]["publish"]]
    sent = {name: median([one[name] for one in publish] or [float("nan")]) for name in ("p50", "p99")}
    given = {"p50": hand_over.p50_ms, "p99": hand_over.p99_ms}
    for words, stages, last, is_judged in (
        ("preprocess + decide + hand-over", ("preprocess", "decide"), given, True),
        ("preprocess + decide + publish", ("preprocess", "decide"), sent, False),
        ("the same and the wait in the queue", ("queue", "preprocess", "decide"), sent, False),
    ):
        spread = _sums(seen.arrivals, stages)
        p50, p99 = spread.p50_ms + last["p50"], spread.p99_ms + last["p99"]
        bars = (
            Bar(measured=p50, limit=_GLUE_P50_MS, unit="ms", pace=here),
            Bar(
                measured=p99, limit=_GLUE_P99_MS, unit="ms", runs=spread.n, needed_runs=REQUIRED_RUNS["p99"], pace=here
            ),
        )
        yield Row(
            f"Q20 paced 30 fps, {words}",
            f"{p50:.3f} / {p99:.3f} ms, of which the last {last['p50']:.3f} / {last['p99']:.3f}",
            "–",
            f"p50 at most {_GLUE_P50_MS:g} ms, p99 {_GLUE_P99_MS:g} ms" if is_judged else "–",
            bars if is_judged else (),
            watch.load(),
        )
    yield from _way_rows(seen, bare, sent["p50"], here, watch.load())


def _way_rows(seen: Watched, bare: Spread, sent_p50_ms: float, here: float, load: Load) -> Iterator[Row]:
    """Q20 with inference: until the packet is sent, and until a subscriber has it."""
    whole = _sums(seen.arrivals, ("queue", "preprocess", "infer", "decide")).p50_ms + sent_p50_ms
    above = whole - bare.p50_ms
    yield Row(
        "Q20 frame in hand until the connection has the packet",
        f"{whole:.3f} ms ({above:+.3f})",
        f"session.run paced {bare.p50_ms:.3f} ms",
        f"p50 at most floor + {_ABOVE_BARE_MS:g} ms",
        (Bar(measured=above, limit=_ABOVE_BARE_MS, unit="ms", pace=here),),
        load,
    )
    in_hand = spread_of([round((one.end_to_end_ms - one.latency_ms["capture"]) * 1e6) for one in seen.arrivals])
    yield Row(
        "Q20 frame in hand to the subscriber",
        f"{in_hand.p50_ms:.3f} / {in_hand.p99_ms:.3f} ms",
        f"session.run paced {bare.p50_ms:.3f} / {bare.p99_ms:.3f} ms",
        "–",
        (),
        load,
    )


def overload_rows(package: Path, cache: Path, lengths: Lengths) -> Iterator[Row]:
    """Q21: frames arrive 1.36 times as fast as one thread can classify them."""
    watch = LoadWatch()
    alone = [_bare(package, cache, {"threads": 1}, None, lengths)]
    fps = _OVERLOAD_RATIO * 1000 / alone[0].p50_ms
    rounds: list[Watched] = []
    for is_over in (_is_over_after(lengths.overload_s), *[_is_after(lengths.overload_s / 5)] * 4):
        with EmbeddedBroker() as broker:
            config = config_of(package, [pattern(fps)], broker.port, options={"threads": 1})
            rounds.append(watch_agent(config, cache, broker, is_over))
        alone.append(_bare(package, cache, {"threads": 1}, None, lengths))
    seen, load = rounds[0], watch.load()
    bare_hz = [2000 / (before.mean_ms + after.mean_ms) for before, after in pairwise(alone)]
    infer_ms = _sums(seen.arrivals, ("infer",)).p50_ms
    age = spread_of([round((one.end_to_end_ms - one.latency_ms["capture"]) * 1e6) for one in seen.arrivals])
    limit, needed = infer_ms + 1000 / fps + _OVERLOAD_MS, REQUIRED_RUNS["p99"]
    drops = drops_of(seen.health[-1]) if seen.health else {}
    kept = median([one.rate_hz / bare for one, bare in zip(rounds, bare_hz, strict=True)])
    yield Row(
        f"Q21 {fps:.0f} fps into a model of {alone[0].p50_ms:.0f} ms, frame in hand to the subscriber",
        f"{age.p50_ms:.1f} / {age.p99_ms:.1f} ms",
        f"infer p50 {infer_ms:.1f} ms",
        f"p99 at most infer + a frame + {_OVERLOAD_MS:g} ms",
        (Bar(measured=age.p99_ms, limit=limit, unit="ms", runs=age.n, needed_runs=needed),),
        load,
    )
    yield Row(
        "Q21 results a second",
        f"{median([one.rate_hz for one in rounds]):.2f} ({kept:.3f} of the floor)",
        f"session.run back to back {median(bare_hz):.2f}",
        f"at least {_KEPT_RATIO:g} of it",
        (Bar(measured=kept, limit=_KEPT_RATIO, unit="of the bare loop", is_minimum=True),),
        load,
    )
    yield Row(
        "Q21 growth of memory; frames dropped and counted",
        f"{seen.growth_mib:+.2f} MiB; {', '.join(f'{n} {why}' for why, n in drops.items()) or 'none'}",
        "–",
        f"at most {_GROWTH_MIB:g} MiB; counted",
        (
            Bar(measured=seen.growth_mib, limit=_GROWTH_MIB, unit="MiB"),
            Bar(measured=sum(drops.values()), limit=1, unit="drop", is_minimum=True),
        ),
        load,
    )


def _is_after(seconds: float) -> Callable[[Watched, float], bool]:
    return lambda _, passed_s: passed_s >= seconds


def _is_over_after(seconds: float) -> Callable[[Watched, float], bool]:
    """True once each kind of message was sent and memory was sampled for ``seconds`` after that."""

    def is_over(seen: Watched, passed_s: float) -> bool:
        if passed_s <= _ALL_SAID_S:
            seen.resident = seen.resident[-1:]
        return passed_s >= _ALL_SAID_S + seconds

    return is_over


def lossless_row(package: Path, cache: Path) -> Row:
    """Q23: a file is read to its end, each frame once and in order."""
    frames = 0
    seqs: list[int] = []
    with EmbeddedBroker() as broker:
        config = config_of(package, [{"type": "file", "path": "demo"}], broker.port)
        seen = Watched()
        with listening(broker.address) as recorder, running_agent(config, cache, recorder.is_running.wait) as process:
            ends_s = time.monotonic() + _WITHIN_S
            while time.monotonic() < ends_s:
                time.sleep(_LOOK_S)
                before = len(seen.results)
                _look(seen, recorder, process)
                if seen.results and len(seen.results) == before:
                    break
        seen.health += documents_of(recorder.take(), "health")
    seqs = [one["seq"] for one in seen.results]
    frames = sum(camera["captured"] for camera in seen.health[-1]["cameras"].values()) if seen.health else 0
    wrong = abs(frames - len(seqs)) + sum(1 for place, seq in enumerate(seqs) if seq != place)
    return Row(
        "Q23 a file: frames answered exactly once and in order",
        f"{len(seqs)} of {frames}",
        "–",
        "all",
        (Bar(measured=wrong if frames else float("nan"), limit=0, unit="frames"),),
        ANY_LOAD,
    )


def pickle_row() -> Row:
    """Q24: no module imports anything that could send a frame to another process."""
    found = []
    for path in sorted(Path(agent.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [name for name in names if name.split(".")[0] in ("multiprocessing", "pickle")]
    bar = Bar(measured=len(found), limit=0, unit="imports")
    return Row("Q24 imports of multiprocessing and pickle", str(len(found)), "–", "none", (bar,), ANY_LOAD)


def growth_row(package: Path, cache: Path, lengths: Lengths) -> Row:
    """Q25: memory over many results at the highest possible rate."""
    watch = LoadWatch()
    first = 0

    def is_over(seen: Watched, passed_s: float) -> bool:
        nonlocal first
        if passed_s <= _ALL_SAID_S:
            seen.resident, first = seen.resident[-1:], len(seen.arrivals)
        return len(seen.arrivals) >= lengths.frames + first

    with EmbeddedBroker() as broker:
        seen = watch_agent(config_of(package, [pattern(400.0)], broker.port), cache, broker, is_over)
    return Row(
        f"Q25 growth of memory over {len(seen.arrivals) - first:,} frames",
        f"{seen.growth_mib:+.2f} MiB",
        "–",
        f"at most {_GROWTH_MIB:g} MiB in {lengths.frames:,}",
        (
            Bar(
                measured=seen.growth_mib,
                limit=_GROWTH_MIB,
                unit="MiB",
                runs=len(seen.arrivals) - first,
                needed_runs=lengths.frames,
            ),
        ),
        watch.load(),
    )


def shared_session_row(package: Path, cache: Path) -> Row:
    """Q26: more cameras on one model add no session, and on a CPU none waits for a batch."""
    resident, batches = [], []
    for cameras in (1, 4):
        with EmbeddedBroker() as broker:
            config = config_of(package, [pattern(30.0)] * cameras, broker.port)
            seen = watch_agent(config, cache, broker, lambda _, seconds: seconds >= _SETTLE_S)
        resident.append(seen.resident[-1] / _MIB)
        batches.append(max(one.get("batch", 1) for one in seen.results))
    return Row(
        "Q26 four cameras on one model: largest batch; memory",
        f"{batches[1]}; {resident[1]:.0f} MiB",
        f"one camera {resident[0]:.0f} MiB",
        "no batching on a CPU unless configured",
        (Bar(measured=batches[1], limit=1, unit="images"),),
    )


def outage_rows(package: Path, cache: Path, lengths: Lengths) -> Iterator[Row]:
    """Q27: the broker is away for a minute; sequence numbers show how many results there were meanwhile."""
    watch = LoadWatch()
    seen = Watched()
    with contextlib.ExitStack() as stack:
        with EmbeddedBroker("mosquitto") as broker, listening(broker.address) as recorder:
            config = config_of(package, [pattern(30.0)], broker.port)
            process = stack.enter_context(running_agent(config, cache, recorder.is_running.wait))
            time.sleep(_SETTLE_S)
            recorder.take()
            ends_s = time.monotonic() + _LOOKS * _LOOK_S
            while time.monotonic() < ends_s:
                time.sleep(_LOOK_S)
                _look(seen, recorder, process)
        before, looks_before = list(seen.arrivals), len(seen.resident)
        away = Watched()
        time.sleep(lengths.outage_s / 3)
        ends_s = time.monotonic() + lengths.outage_s * 2 / 3
        while time.monotonic() < ends_s:
            away.resident.append(process.resident_bytes())
            time.sleep(_LOOK_S)
        with EmbeddedBroker("mosquitto", port=broker.port) as broker, listening(broker.address) as recorder:
            ends_s = time.monotonic() + _WITHIN_S
            while (
                len(seen.arrivals) < len(before) + 30 or len(seen.resident) < looks_before + _LOOKS
            ) and time.monotonic() < ends_s:
                time.sleep(_LOOK_S)
                _look(seen, recorder, process)
    # Between the last result before the broker left and the first live one after it, results had no broker.
    after = [one for one in seen.arrivals[len(before) :] if one.seq > before[-1].seq]
    last, first = before[-1], after[-1]
    during_hz = (first.seq - last.seq) / ((first.captured_ns - last.captured_ns) / 1e9)
    with_hz = (last.seq - before[0].seq) / ((last.captured_ns - before[0].captured_ns) / 1e9)
    load = watch.load()
    yield Row(
        f"Q27 results a second while the broker is away for {lengths.outage_s:.0f} s",
        f"{during_hz:.2f}",
        f"with it {with_hz:.2f}",
        f"at least {_KEPT_RATIO:g} of it",
        (Bar(measured=during_hz / with_hz, limit=_KEPT_RATIO, unit="of the rate before", is_minimum=True),),
        load,
    )
    yield Row(
        "Q27 growth of memory over the last two thirds of it; with the return",
        f"{away.growth_mib:+.2f} MiB; {seen.growth_mib:+.2f} MiB",
        "–",
        f"bounded: at most {_GROWTH_MIB:g} MiB once it is away",
        (Bar(measured=away.growth_mib, limit=_GROWTH_MIB, unit="MiB"),),
        load,
    )


def _bare(
    package: Path, cache: Path, options: Mapping[str, object], period_s: float | None, lengths: Lengths
) -> Spread:
    loaded = load_package(package)
    session = BareSession(loaded, EngineOptions(cache_dir=cache, engine="ort-cpu", options=options))
    request = BlockRequest(
        batch=1,
        samples=1,
        duration_ns=int(lengths.bare_s * 1e9),
        queries=20,
        period_ns=None if period_s is None else int(period_s * 1e9),
    )
    block: Block = run_block(session.infer, ImageFeed(image_set_of(loaded).batch, 1), request)
    return spread_of(block.times_ns)


def _sums(arrivals: Sequence[Arrival], stages: Sequence[str]) -> Spread:
    return spread_of([round(sum(one.latency_ms[stage] for stage in stages) * 1e6) for one in arrivals])
