"""Times the single steps that have a bar in docs/performance.md, each with its floor in the same run.

Times in the tables are microseconds unless the text says otherwise. Run by scripts/measure.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import orjson

from agent.config.broker_address import BrokerAddress
from agent.inference.decisions.classifications import top_scores
from agent.mqtt.client import MqttClient
from agent.mqtt.embedded.broker import EmbeddedBroker
from agent.mqtt.identity import Identity
from agent.mqtt.messages import Result, result_from_classification
from agent.mqtt.settings import MqttSettings
from agent.mqtt.topics import RESULT, Topics, encode
from agent.publish.publisher import Publisher
from agent.runtime.records import Classification, Score, ServedModel, StageTimes, Standing
from agent.runtime.statistics import percentiles
from agent.tools.benchmark.measure.bare import BareSession
from agent.tools.benchmark.statistics import REQUIRED_RUNS, Spread, spread_of
from engines import EngineOptions, open_engine
from engines.base import Engine, Images
from engines.graph.resize import Resizer
from engines.host import available_cores
from engines.package.load import ModelPackage
from scripts.performance.verdict import Bar, LoadWatch, Row

_IDENTITY = Identity(
    device="line-3", session=1, agent="0", started="2026-01-01T00:00:00.000000Z", topics=Topics("edge", "line-3")
)
_SERVED = ServedModel("inspect", "conveyor", "1.0.0", "6f" * 32, "ort-cpu", "fp32", degraded=False)
_STANDING = Standing("ok", ("ok",), "ok", 0.91, 0.5, 5, 3, 5, is_timed=False, runner_up=("scratch", 0.06))
_BLOCK = 35
_SWITCH_INTERVAL_S = 0.0002
"""As the agent sets it; see agent/app.py."""
_PERIOD_S = 1 / 30
_BUSY_TURNS = 12
# The bars, in microseconds. Source: the bars in docs/performance.md.
_ABOVE_SESSION = 50.0
_RESIZE = 85.0
_REFERENCE_RESIZE = 75.0
"""Time of cv2.resize, 720p to 224x224, hot, on the processor for which the bars in microseconds were set."""
_TEXT = 2.0
_HAND_OVER = 20.0
_BUSY_RATIO = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How often each step is timed: back to back, after a frame's sleep, and in a hand-over."""

    hot: int = 700
    busy: int = 280
    paced: int = 210
    handed_over: int = 1000


Call = Callable[[], object]


def in_turns(calls: Mapping[str, Call], *, runs: int, period_s: float = 0.0) -> dict[str, list[int]]:
    """Time each call in ns, in alternating blocks so that all see the same conditions.

    The first call of a block is not counted.
    """
    times: dict[str, list[int]] = {name: [] for name in calls}
    while len(next(iter(times.values()))) < runs:
        for name, call in calls.items():
            call()
            for _ in range(_BLOCK):
                if period_s:
                    time.sleep(period_s)
                started = time.perf_counter_ns()
                call()
                times[name].append(time.perf_counter_ns() - started)
    return times


def us(times_ns: list[int], percent: int = 50) -> float:
    """A percentile in microseconds."""
    return percentiles(times_ns, (percent,))[0] / 1e3


def both(times_ns: list[int]) -> str:
    """Median and p99 as the text of a table cell."""
    mark = "" if len(times_ns) >= REQUIRED_RUNS["p99"] else "\\*"
    return f"{us(times_ns):.1f} / {us(times_ns, 99):.1f}{mark}"


def pace() -> float:
    """How much slower this processor is than the one of the bars, at least 1; by the median of 200 resizes."""
    image = np.random.default_rng(2).integers(0, 256, (720, 1280, 3), np.uint8)
    row = np.empty((224, 224, 3), np.uint8)
    times = in_turns({"floor": lambda: cv2.resize(image, (224, 224), dst=row)}, runs=200)
    return pace_of(us(times["floor"]))


def pace_of(resize_us: float) -> float:
    """See ``pace``."""
    return max(resize_us / _REFERENCE_RESIZE, 1.0)


def engine_rows(package: ModelPackage, larger: ModelPackage, cache: Path, lengths: Lengths) -> Iterator[Row]:
    """Q2, Q9, Q22; the last with ``larger``, whose call takes milliseconds."""
    options = EngineOptions(cache_dir=cache, engine="ort-cpu", strict=True)
    size = package.input
    images = np.random.default_rng(1).integers(0, 256, (8, 1, size.height, size.width, 3), np.uint8)
    place = iter(range(10**9))
    yield load_row(package)
    with open_engine(package, options) as engine:
        bare = BareSession(package, options)

        def ours() -> object:
            return engine.infer(images[next(place) % 8])

        def floor() -> object:
            return bare.infer(images[next(place) % 8])

        for words, period_s, runs in (("back to back", 0.0, lengths.hot), ("paced 30 fps", _PERIOD_S, lengths.paced)):
            watch = LoadWatch()
            times = in_turns({"ours": ours, "floor": floor}, period_s=period_s, runs=runs)
            base = us(times["floor"])
            yield Row(
                f"Q2 infer, {words}",
                f"{both(times['ours'])} ({us(times['ours']) - base:+.1f})",
                f"session.run {both(times['floor'])}",
                f"p50 at most floor + {_ABOVE_SESSION:g}",
                (Bar(measured=us(times["ours"]), limit=base + _ABOVE_SESSION, unit="µs"),),
                watch.load(),
            )
    for threads in (1, 2):
        yield busy_thread_row(larger, cache, threads, runs=max(_BLOCK, lengths.busy // _BUSY_TURNS))


def load_row(package: ModelPackage) -> Row:
    """Q9: load time of a graph the first time, and with its optimised form in the cache; medians of three."""
    watch = LoadWatch()
    firsts: list[float] = []
    seconds: list[float] = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as fresh:
            for found in (firsts, seconds):
                with open_engine(package, EngineOptions(cache_dir=Path(fresh), engine="ort-cpu")) as engine:
                    found.append(engine.info.load_ms)
    first, second = sorted(firsts)[1], sorted(seconds)[1]
    return Row(
        "Q9 load with the optimised graph kept",
        f"{second:.1f} ms",
        f"first time {first:.1f} ms",
        "below the first time",
        (Bar(measured=second, limit=first, unit="ms"),),
        watch.load(),
    )


def busy_thread_row(package: ModelPackage, cache: Path, threads: int, *, runs: int) -> Row:
    """Q22: a Python thread that computes, with the default switch interval and with the agent's.

    Held to the bar where the model leaves a core to that thread; else it loses the core and not the interpreter.
    """
    watch, default = LoadWatch(), sys.getswitchinterval()
    size = package.input
    images = np.random.default_rng(1).integers(0, 256, (8, 1, size.height, size.width, 3), np.uint8)
    alone, with_default, with_ours = [], [], []
    options = EngineOptions(cache_dir=cache, engine="ort-cpu", strict=True, options={"threads": threads})
    with open_engine(package, options) as engine:
        for _ in range(_BUSY_TURNS):
            alone += _timed(engine, images, runs)
            with busy_thread():
                with_default += _timed(engine, images, runs)
                sys.setswitchinterval(_SWITCH_INTERVAL_S)
                with_ours += _timed(engine, images, runs)
                sys.setswitchinterval(default)
    base = us(alone)
    is_judged = threads < available_cores()
    return Row(
        f"Q22 {package.name} beside a busy Python thread, {threads} thread(s) of {available_cores()} cores",
        f"{both(with_ours)} ({us(with_ours) / base - 1:+.0%})",
        f"alone {both(alone)}; interpreter's default interval {us(with_default) / base - 1:+.0%}",
        f"p50 at most {_BUSY_RATIO - 1:+.0%}" if is_judged else "–",
        (Bar(measured=us(with_ours) / base, limit=_BUSY_RATIO, unit="times"),) if is_judged else (),
        watch.load(),
    )


def _timed(engine: Engine, images: Images, runs: int) -> list[int]:
    found = []
    for number in range(runs):
        started = time.perf_counter_ns()
        engine.infer(images[number % 8])
        found.append(time.perf_counter_ns() - started)
    return found


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that never releases the interpreter voluntarily."""
    is_over = threading.Event()

    def compute() -> None:
        total = 0
        while not is_over.is_set():
            total += sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def step_rows(package: ModelPackage, lengths: Lengths) -> Iterator[Row]:
    """Q19, the decision, Q28: hot, and with 33 ms of sleep before each call, as with a camera."""
    watch = LoadWatch()
    calls = _step_calls(package)
    hot = in_turns(calls, runs=lengths.hot)
    cold = in_turns(calls, period_s=_PERIOD_S, runs=lengths.paced)
    here = pace_of(us(hot["cv2.resize"]))
    for name, words, floor, bar in (
        ("resize", "Q19 720p to 224×224, an image that was just read", "cv2.resize", _RESIZE),
        ("resize, in turn", "720p to 224×224, six images in turn", "cv2.resize, in turn", None),
        ("decide", "best 3 of 1000 classes", None, None),
        ("text", "Q28 text of a result", "orjson", _TEXT),
        ("packet", "record to packet", "orjson", None),
    ):
        yield Row(
            words,
            f"{both(hot[name])} hot; {both(cold[name])} paced",
            "–" if floor is None else f"{floor} {both(hot[floor])} hot; {both(cold[floor])} paced",
            "–" if bar is None else f"hot p50 at most {bar:g}",
            ()
            if bar is None
            else (Bar(measured=us(hot[name]), limit=bar, unit="µs", floor=us(hot[floor or name]), pace=here),),
            watch.load(),
        )


def _step_calls(package: ModelPackage) -> dict[str, Call]:
    source = np.random.default_rng(2).integers(0, 256, (6, 720, 1280, 3), np.uint8)
    size = replace(package.input, width=224, height=224, resize="stretch", interpolation="linear")
    row, resizer = np.empty((size.height, size.width, 3), np.uint8), Resizer(size)
    place = iter(range(10**9))
    scores = np.random.default_rng(3).dirichlet(np.ones(1000)).astype(np.float32)
    labels = [f"class {n}" for n in range(1000)]
    record = classification(0)

    def fill(image: Images) -> object:
        resizer.fill(image, row)
        return row

    def floor(image: Images) -> object:
        return cv2.resize(image, (size.width, size.height), dst=row)

    def message() -> Result:
        return result_from_classification(record, device="line-3", session=1, seq=7, clock_state="synced")

    made = message()
    plain = orjson.loads(encode(made))
    return {
        "resize": lambda: fill(source[0]),
        "cv2.resize": lambda: floor(source[0]),
        "resize, in turn": lambda: fill(source[next(place) % 6]),
        "cv2.resize, in turn": lambda: floor(source[next(place) % 6]),
        "decide": lambda: top_scores(scores, labels, 3),
        "packet": lambda: RESULT.packet(message(), _IDENTITY.topics, qos=0),
        "text": lambda: encode(made),
        "orjson": lambda: orjson.dumps(plain),
    }


def classification(index: int) -> Classification:
    """A record like a worker's."""
    now_ns = time.monotonic_ns()
    return Classification(
        camera="front",
        classifier="inspect",
        served=_SERVED,
        frame_index=index,
        captured_at_ns=now_ns - 9_000_000,
        captured_at_utc_ns=time.time_ns(),
        decided_at_ns=now_ns,
        top=(Score(0, "ok", 0.91), Score(2, "scratch", 0.06), Score(1, "dent", 0.03)),
        margin=0.85,
        batch=1,
        times=StageTimes(3.1, 0.4, 0.3, 4.2, 0.05),
        standing=_STANDING,
    )


@dataclass(frozen=True, slots=True)
class HandOvers:
    """Handing over a result: the rows, and the times with a camera."""

    rows: tuple[Row, ...]
    paced: Spread


def hand_overs(package: ModelPackage, cache: Path, lengths: Lengths) -> HandOvers:
    """Q27: how long the worker waits when it hands over a result.

    After each call of a model that runs back to back, and at 100 Hz with a broker and without one.
    """
    bare = BareSession(package, EngineOptions(cache_dir=cache, engine="ort-cpu", strict=True))
    image = np.zeros((1, package.input.height, package.input.width, 3), np.uint8)
    with EmbeddedBroker() as broker:
        hot, _ = _hand_over(
            "after session.run, back to back",
            broker.address,
            lambda: bare.infer(image),
            lengths.handed_over,
            hot=True,
        )
        with_broker, times = _hand_over("at 100 Hz, with a broker", broker.address, _rest, lengths.handed_over)
    nobody = BrokerAddress("127.0.0.1", 1)
    without, _ = _hand_over("at 100 Hz, without a broker", nobody, _rest, lengths.handed_over)
    return HandOvers((hot, with_broker, without), spread_of(times))


def _rest() -> None:
    time.sleep(0.005)


def _hand_over(
    words: str, address: BrokerAddress, between: Call, runs: int, *, hot: bool = False
) -> tuple[Row, list[int]]:
    """One row and our times; like the other bars in microseconds, this one is for ``hot`` runs."""
    watch, default, before = LoadWatch(), sys.getswitchinterval(), pace()
    client = MqttClient(MqttSettings(address=address, client_id="rows"), will=_IDENTITY.status("offline"))
    publisher = Publisher(client, identity=_IDENTITY)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    waiting: queue.SimpleQueue[Classification | None] = queue.SimpleQueue()
    receiver = threading.Thread(target=lambda: [*iter(waiting.get, None)])
    receiver.start()
    publisher.start()
    ours: list[int] = []
    floor: list[int] = []
    try:
        time.sleep(1.0)
        for index in range(runs):
            for give, times in ((publisher.offer, ours), (waiting.put, floor)):
                record = classification(index)
                between()
                started = time.perf_counter_ns()
                give(record)
                times.append(time.perf_counter_ns() - started)
    finally:
        waiting.put(None)
        receiver.join()
        publisher.stop()
        sys.setswitchinterval(default)
    bar = Bar(
        measured=us(ours, 99),
        limit=_HAND_OVER,
        unit="µs",
        runs=len(ours),
        needed_runs=REQUIRED_RUNS["p99"],
        floor=us(floor, 99),
        pace=min(before, pace()),
    )
    row = Row(
        f"Q27 hand-over {words}",
        both(ours),
        f"SimpleQueue.put {both(floor)}",
        f"p99 at most {_HAND_OVER:g}" if hot else "–",
        (bar,) if hot else (),
        watch.load(),
    )
    return row, ours
