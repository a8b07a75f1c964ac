"""One measurement: an agent under one load, behind a mosquitto with its default settings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.config.broker_address import BrokerAddress
from agent.runtime.statistics import percentiles
from agent.tools.benchmark.pipeline.agent_process import running_agent
from agent.tools.benchmark.pipeline.subscriber import PREFIX, Recorder, arrivals_of, listening
from scripts.performance.processes import resident_mib, threads
from tests.fixtures.mosquitto import MosquittoBroker

_SETTLE_S = 2.5
_SETTLE_CAMERA_S = 0.15
_FIRST_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A load: ``cameras`` and ``models`` as in the configuration.

    ``offered_hz`` is how many results a second it asks for. ``prepare`` gets the empty state directory before the
    agent starts; ``counter`` reads how many rows have left the outbox there.
    """

    models: Mapping[str, object]
    cameras: Mapping[str, object]
    offered_hz: float
    mqtt: Mapping[str, object] | None = None
    prepare: Callable[[Path], None] | None = None
    counter: Callable[[Path], int] | None = None

    def config(self, port: int) -> dict[str, object]:
        """The configuration, for a broker on ``port``."""
        return {
            "version": 1,
            "device": {"id": "measured"},
            "models": dict(self.models),
            "cameras": dict(self.cameras),
            "mqtt": {"broker": f"mqtt://127.0.0.1:{port}", "prefix": PREFIX, **(self.mqtt or {})},
            "thermal": {"governor": {"enabled": False}},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was measured at ``work`` units of load. Times from the frame in hand until a subscriber has the result.

    ``cpu_ms`` is of the whole process, for each result; ``events_hz`` and ``drained_hz`` are events that reached the
    subscriber, and rows that left the outbox.
    """

    work: float
    offered_hz: float
    results_hz: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    resident_mib: float
    threads: int
    ready_s: float
    events_hz: float = 0.0
    drained_hz: float | None = None

    @property
    def keeps_up(self) -> bool:
        """Whether nearly all results that were asked for came: 95 %."""
        return self.results_hz >= 0.95 * self.offered_hz


def measure(units: float, work: Work, cache: Path, seconds: float) -> Point:
    """Start an agent with ``work``, let it settle, and watch it for ``seconds``.

    Raises:
        RuntimeError: no result came.
        Unavailable: the agent did not start.
    """
    with tempfile.TemporaryDirectory() as folder, MosquittoBroker(Path(folder) / "broker") as broker:
        states: list[Path] = []

        def prepare(state: Path) -> None:
            states.append(state)
            if work.prepare is not None:
                work.prepare(state)

        with (
            listening(BrokerAddress.parse(broker.url)) as recorder,
            running_agent(work.config(broker.port), cache, recorder.is_running.wait, prepare=prepare) as process,
        ):
            _wait_for_result(recorder)
            time.sleep(_SETTLE_S + _SETTLE_CAMERA_S * len(work.cameras))
            recorder.take()
            left = work.counter(states[0]) if work.counter else 0
            began_s, cpu_s = time.monotonic(), process.cpu_s()
            time.sleep(seconds)
            messages, wall_s = recorder.take(), time.monotonic() - began_s
            used_s = process.cpu_s() - cpu_s
            drained = (work.counter(states[0]) - left) / wall_s if work.counter else None
            mib, count = resident_mib(process.pid), threads(process.pid)
    arrivals = arrivals_of(messages)
    if not arrivals:
        raise RuntimeError(f"no result in {seconds:g} s at {units:g}")
    in_hand = [one.end_to_end_ms - one.latency_ms["capture"] for one in arrivals]
    p50, p99 = percentiles(in_hand, (50, 99))
    return Point(
        work=units,
        offered_hz=work.offered_hz,
        results_hz=len(arrivals) / wall_s,
        p50_ms=p50,
        p99_ms=p99,
        cpu_ms=used_s * 1e3 / len(arrivals),
        resident_mib=mib,
        threads=count,
        ready_s=process.ready_s,
        events_hz=sum(message.topic.endswith("/event") for _, message in messages) / wall_s,
        drained_hz=drained,
    )


def _wait_for_result(recorder: Recorder) -> None:
    deadline = time.monotonic() + _FIRST_WITHIN_S
    while not arrivals_of(recorder.take()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no result within {_FIRST_WITHIN_S:g} s")
        time.sleep(0.05)
