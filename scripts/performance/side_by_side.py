"""Compares the agent with a plain script: the same clip, model, broker and subscriber, in alternating rounds.

Without a rate both run unpaced. Above the rate of the model both are overloaded, and the age of their results counts.
Run by scripts/measure.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from agent.mqtt.embedded.broker import EmbeddedBroker
from agent.runtime.statistics import percentiles
from agent.tools.benchmark.pipeline.agent_process import AgentProcess, running_agent
from agent.tools.benchmark.pipeline.subscriber import Arrival, arrivals_of, listening
from scripts.performance.agent_rows import config_of
from scripts.performance.environment import child_environment

_SETTLE_S = 2.0


@dataclass(slots=True)
class Seen:
    """Measurements of one contender over all rounds."""

    arrivals: list[Arrival] = field(default_factory=list)
    rates_hz: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    growth_mib: list[float] = field(default_factory=list)
    oldest_ms: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)


def agent_config(given: Match, port: int, options: Mapping[str, object]) -> dict[str, object]:
    """Configuration with one camera, and the model with ``options``."""
    source: Mapping[str, object] = {"type": "file", "path": str(given.clip.resolve()), "loop": True}
    if given.is_live:
        source = {"type": "pattern", "width": 1280, "height": 720, "fps": given.fps}
    return config_of(given.package, [source], port, rate_hz=given.fps, options=dict(options))


@contextmanager
def plain_script(package: Path, clip: Path, port: int, fps: float | None) -> Iterator[AgentProcess]:
    """The plain script as a process."""
    pace = [] if fps is None else ["--fps", str(fps)]
    began_s = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "scripts.performance.plain_pipeline",
            str(package / "model.onnx"),
            str(clip),
            str(port),
            *pace,
        ],
        env={**child_environment(), "ORT_DISABLE_TELEMETRY": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield AgentProcess(process.pid, time.monotonic() - began_s)
    finally:
        process.kill()
        process.wait()


def watch(given: Match, seen: Seen, options: Mapping[str, object] | None) -> None:
    """Run one round of the agent with ``options``, or of the script if None."""
    with EmbeddedBroker() as broker, listening(broker.address) as recorder:
        running = (
            plain_script(given.package, given.clip, broker.port, given.fps)
            if options is None
            else running_agent(agent_config(given, broker.port, options), given.cache, recorder.is_running.wait)
        )
        with running as process:
            if not recorder.is_running.wait(60.0):
                raise RuntimeError("nothing was published")
            time.sleep(_SETTLE_S)
            recorder.take()
            began_s, cpu_s, resident = time.monotonic(), process.cpu_s(), process.resident_bytes()
            time.sleep(given.seconds)
            found = arrivals_of(recorder.take())
            wall_s, used_s = time.monotonic() - began_s, process.cpu_s() - cpu_s
            seen.arrivals += found
            seen.rates_hz.append(len(found) / wall_s)
            seen.cpu_ms.append(used_s * 1e3 / max(len(found), 1))
            seen.resident_mib.append(process.resident_bytes() / 2**20)
            seen.growth_mib.append((process.resident_bytes() - resident) / 2**20)
            seen.oldest_ms.append(max(_in_hand_ms(one) for one in found[-20:]))
            seen.ready_s.append(process.ready_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The input of both contenders.

    ``is_live``: the agent reads a live pattern at ``fps`` instead of the clip, and newer frames replace older ones.
    ``has_spinning`` adds the agent with spinning ONNX Runtime threads, like the script's.
    """

    package: Path
    clip: Path
    cache: Path
    fps: float | None
    rounds: int
    seconds: float
    is_live: bool = False
    has_spinning: bool = False


def compare(match: Match) -> dict[str, Seen]:
    """Run the script and the agent in alternating rounds."""
    contenders: dict[str, Mapping[str, object] | None] = {"plain script": None, "agent": {}}
    if match.has_spinning:
        contenders["agent, threads spin"] = {"allow_spinning": True}
    found = {name: Seen() for name in contenders}
    for _ in range(match.rounds):
        for name, options in contenders.items():
            watch(match, found[name], options)
    return found


def table_of(found: Mapping[str, Seen]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and lines: each contender, with its ratio to the first one in brackets."""
    first, *_ = found.values()
    figures: tuple[tuple[str, Callable[[Seen], float]], ...] = (
        ("results a second", lambda one: median(one.rates_hz)),
        ("CPU ms a frame", lambda one: median(one.cpu_ms)),
        ("frame in hand to subscriber p50 ms", lambda one: _age(one, 50)),
        ("frame in hand to subscriber p99 ms", lambda one: _age(one, 99)),
        ("oldest of the last twenty answers ms", lambda one: median(one.oldest_ms)),
        ("resident MiB", lambda one: median(one.resident_mib)),
        ("growth MiB", lambda one: median(one.growth_mib)),
    )
    lines = []
    for name, value_of in figures:
        base = value_of(first)
        cells = [f"{base:.2f}"]
        for one in list(found.values())[1:]:
            value = value_of(one)
            times = f" ({value / base:.2f} ×)" if base > 0 and name != "growth MiB" else ""
            cells.append(f"{value:.2f}{times}")
        lines.append((name, *cells))
    return ("", *found), lines


def _in_hand_ms(one: Arrival) -> float:
    return one.end_to_end_ms - one.latency_ms["capture"]


def _age(seen: Seen, percent: int) -> float:
    return percentiles([_in_hand_ms(one) for one in seen.arrivals], (percent,))[0]
