"""One turn of one contender."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import Received
from agent.runtime.statistics import percentiles
from agent.tools.benchmark.pipeline.subscriber import Recorder, arrivals_of, listening
from scripts.performance.peers.age import Pushes, ages_ms
from scripts.performance.peers.contenders import NotMeasured, Scene, Setup, running
from scripts.performance.peers.table import Seen
from scripts.performance.processes import family_cpu_s, family_peak_mib
from tests.fixtures.mosquitto import MosquittoBroker

_SETTLE_S = 2.0
_FIRST_WITHIN_S = 180.0
"""Roboflow alone imports for ten seconds on a quiet machine, and for a minute on a busy one."""


def measure(kind: str, setup: Setup, scene: Scene, seen: Seen, folder: Path, pushes: Pushes | None) -> None:
    """Add the figures of one turn to ``seen``. With ``pushes`` of the scene's server, the true age too.

    Raises:
        NotMeasured: it published nothing.
        ProcessLookupError: it ended meanwhile.
    """
    with MosquittoBroker(folder / "broker") as broker, listening(BrokerAddress.parse(broker.url), qos=0) as recorder:
        began_ns = time.time_ns()
        with running(kind, setup, scene, broker.port, recorder) as pids:
            first_s = first_result_s(recorder, began_ns)
            time.sleep(_SETTLE_S)
            recorder.take()
            if pushes is not None:
                pushes.turns_ns.clear()
            began_s, cpu_s = time.monotonic(), family_cpu_s(pids)
            time.sleep(setup.seconds)
            messages, wall_s = recorder.take(), time.monotonic() - began_s
            used_s, peak_mib = family_cpu_s(pids) - cpu_s, family_peak_mib(pids)
    arrivals = arrivals_of(messages)
    if not arrivals:
        raise NotMeasured("its results stopped")
    name = scene.name
    seen.add(f"{name}, results/s", len(arrivals) / wall_s)
    seen.add(f"{name}, CPU ms a result", used_s * 1e3 / len(arrivals))
    in_hand = [one.end_to_end_ms - one.latency_ms["capture"] for one in arrivals]
    for percent, value in zip((50, 99), percentiles(in_hand, (50, 99)), strict=True):
        seen.add(f"{name}, in hand to subscriber p{percent} ms", value)
    ages = [] if pushes is None else ages_ms(pushes.turns_ns, labels_of(messages))
    if ages:
        seen.add(f"{name}, pushed by the server to subscriber p50 ms", percentiles(ages, (50,))[0])
    seen.add(f"{name}, start to first result s", first_s)
    seen.add(f"{name}, peak MiB", peak_mib)


def labels_of(messages: Sequence[tuple[int, Received]]) -> list[tuple[int, object]]:
    """When each result arrived, and its best class."""
    results = [(at_ns, message) for at_ns, message in messages if message.topic.endswith("/result")]
    return [(at_ns, orjson.loads(message.payload)["label"]) for at_ns, message in results]


def first_result_s(recorder: Recorder, began_ns: int) -> float:
    """Wait for the first result; seconds since ``began_ns`` of the wall clock."""
    deadline = time.monotonic() + _FIRST_WITHIN_S
    while time.monotonic() < deadline:
        found = arrivals_of(recorder.take())
        if found:
            return (found[0].at_ns - began_ns) / 1e9
        time.sleep(0.01)
    raise NotMeasured(f"no result within {_FIRST_WITHIN_S:g} s")
