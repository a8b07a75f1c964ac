"""Times the single steps that docs/performance.md has a bar for, each beside its floor in the same run.

python -m scripts.quality_rows --package PACKAGE --cache FOLDER     about a minute; prints a Markdown table
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import orjson

from agent.benchmark.bare import BareSession
from agent.benchmark.statistics import spread_of
from agent.pipeline.decide import top_scores
from agent.publish.broker import EmbeddedBroker
from agent.publish.client import MqttClient
from agent.publish.identity import Identity
from agent.publish.messages import result_from_classification
from agent.publish.publisher import Publisher
from agent.publish.routes import result_outgoing
from agent.publish.settings import BrokerAddress, MqttSettings
from agent.publish.topics import Topics
from agent.records import Classification, Score, ServedModel, StageTimes
from agent.service import logs
from engines import EngineOptions, load_package, open_engine
from engines.base import Engine, Images
from engines.package import ModelPackage
from engines.resize import Resizer

_IDENTITY = Identity(
    device="line-3", session=1, agent="0", started="2026-01-01T00:00:00.000000Z", topics=Topics("edge", "line-3")
)
_SERVED = ServedModel("inspect", "conveyor", "1.0.0", "6f" * 32, "ort-cpu", "fp32", degraded=False)
_RUNS, _BLOCK = 700, 35
_SWITCH_INTERVAL_S = 0.0002
"""As the agent sets it; see agent/app.py."""
_PERIOD_S = 1 / 30


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; times in microseconds unless the text says otherwise."""

    name: str
    figure: str
    floor: str
    bar: str


Call = Callable[[], object]


def in_turns(calls: dict[str, Call], *, runs: int = _RUNS, period_s: float = 0.0) -> dict[str, list[int]]:
    """Times of each call in ns, in blocks by turns so that all meet the same machine; the first of a block is not
    counted."""
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


def us(times_ns: list[int], ratio: float = 0.5) -> float:
    """A percentile in microseconds."""
    spread = spread_of(times_ns)
    return {0.5: spread.p50_ms, 0.99: spread.p99_ms}[ratio] * 1e3


def engine_rows(package: ModelPackage, cache: Path) -> Iterator[Row]:
    """Q2, Q9, Q22."""
    options = EngineOptions(cache_dir=cache, engine="ort-cpu", strict=True)
    size = package.input
    pictures = np.random.default_rng(1).integers(0, 256, (8, 1, size.height, size.width, 3), np.uint8)
    place = iter(range(10**9))
    with tempfile.TemporaryDirectory() as fresh:
        with open_engine(package, EngineOptions(cache_dir=Path(fresh), engine="ort-cpu")) as first:
            first_ms = first.info.load_ms
        with open_engine(package, EngineOptions(cache_dir=Path(fresh), engine="ort-cpu")) as second:
            second_ms = second.info.load_ms
    yield Row("Q9 load, graph kept", f"{second_ms:.0f} ms", f"first time {first_ms:.0f} ms", "all optimisations")
    with open_engine(package, options) as engine:
        bare = BareSession(package, options)

        def ours() -> object:
            return engine.infer(pictures[next(place) % 8])

        def floor() -> object:
            return bare.infer(pictures[next(place) % 8])

        for words, period_s, runs in (("back to back", 0.0, _RUNS), ("paced 30 fps", _PERIOD_S, 210)):
            times = in_turns({"ours": ours, "floor": floor}, period_s=period_s, runs=runs)
            yield Row(
                f"Q2 infer, {words}",
                f"{us(times['ours']):.0f} ({us(times['ours']) - us(times['floor']):+.0f})",
                f"{us(times['floor']):.0f} session.run",
                "floor + 50",
            )
        yield busy_thread_row(engine, pictures)


def busy_thread_row(engine: Engine, pictures: Images) -> Row:
    """Q22: a Python thread that computes, with the default switch interval and with the agent's."""
    default = sys.getswitchinterval()
    alone, with_default, with_ours = [], [], []
    for _ in range(4):
        alone += _timed(engine, pictures)
        with busy_thread():
            with_default += _timed(engine, pictures)
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            with_ours += _timed(engine, pictures)
            sys.setswitchinterval(default)
    base = us(alone)
    return Row(
        "Q22 infer beside a busy thread",
        f"{us(with_ours):.0f} ({us(with_ours) / base - 1:+.0%})",
        f"alone {base:.0f}, default interval {us(with_default):.0f}",
        "+10 %",
    )


def _timed(engine: Engine, pictures: Images) -> list[int]:
    found = []
    for number in range(170):
        started = time.perf_counter_ns()
        engine.infer(pictures[number % 8])
        found.append(time.perf_counter_ns() - started)
    return found


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that never gives the interpreter up by itself."""
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


def step_rows(package: ModelPackage) -> Iterator[Row]:
    """Q19, the decision, Q28: hot, and with 33 ms of sleep before each call, as beside a camera."""
    source = np.random.default_rng(2).integers(0, 256, (6, 720, 1280, 3), np.uint8)
    size = replace(package.input, width=224, height=224, resize="stretch", interpolation="linear")
    row, resizer = np.empty((size.height, size.width, 3), np.uint8), Resizer(size)
    place = iter(range(10**9))
    scores = np.random.default_rng(3).dirichlet(np.ones(1000)).astype(np.float32)
    labels = [f"class {n}" for n in range(1000)]
    record = classification(0)

    def fill() -> object:
        resizer.fill(source[next(place) % 6], row)
        return row

    def floor() -> object:
        return cv2.resize(source[next(place) % 6], (size.width, size.height), dst=row)

    def serialise() -> object:
        message = result_from_classification(record, device="line-3", session=1, seq=7, clock_state="synced")
        return result_outgoing(message, _IDENTITY.topics, qos=0).packet()

    packet = serialise()
    payload = orjson.loads(packet.payload)  # type: ignore[attr-defined] # a packet, typed object here
    calls: dict[str, Call] = {
        "resize": fill,
        "cv2.resize": floor,
        "decide": lambda: top_scores(scores, labels, 3),
        "serialise": serialise,
        "orjson": lambda: orjson.dumps(payload),
    }
    hot, cold = in_turns(calls), in_turns(calls, period_s=_PERIOD_S, runs=_BLOCK)
    for name, words, floor_name, bar in (
        ("resize", f"Q19 720p to {size.width}×{size.height}", "cv2.resize", "85"),
        ("decide", "best 3 of 1000 classes", None, "–"),
        ("serialise", "Q28 record to packet", "orjson", "2 (the text alone)"),
    ):
        floor_words = "–" if floor_name is None else f"{floor_name} {us(hot[floor_name]):.1f}"
        yield Row(words, f"{us(hot[name]):.1f} hot, {us(cold[name]):.1f} paced", floor_words, bar)


def classification(index: int) -> Classification:
    """A record as a worker makes it."""
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
    )


def hand_over_rows() -> Iterator[Row]:
    """Q27: what the worker waits for when it gives a result away, with a broker and without one."""
    with EmbeddedBroker() as broker:
        yield _hand_over("with a broker", broker.address)
    yield _hand_over("without a broker", BrokerAddress("127.0.0.1", 1))


def _hand_over(words: str, address: BrokerAddress) -> Row:
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
        for index in range(1000):
            for give, times in ((publisher.offer, ours), (waiting.put, floor)):
                time.sleep(0.005)
                record = classification(index)
                started = time.perf_counter_ns()
                give(record)
                times.append(time.perf_counter_ns() - started)
    finally:
        waiting.put(None)
        receiver.join()
        publisher.stop()
    floor_words = f"SimpleQueue {us(floor):.1f}, p99 {us(floor, 0.99):.1f}"
    return Row(f"Q27 hand-over at 100 Hz, {words}", f"{us(ours):.1f}, p99 {us(ours, 0.99):.1f}", floor_words, "p99 20")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    given = parser.parse_args()
    logs.configure(level="error")
    package = load_package(given.package)
    rows = [*engine_rows(package, given.cache), *step_rows(package), *hand_over_rows()]
    print(f"{package.name}, load {os.getloadavg()[0]:.1f}, µs unless said otherwise\n")
    print("| row | p50 | floor | bar |\n| :-- | --: | --: | --: |")
    for row in rows:
        print(f"| {row.name} | {row.figure} | {row.floor} | {row.bar} |")


if __name__ == "__main__":
    main()
