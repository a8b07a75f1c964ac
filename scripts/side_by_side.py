"""The agent beside the script that one writes first: the same clip, model, broker and subscriber, in turns.

Without a rate both go as fast as they can; with more than the model can do both are overloaded, and are asked how old
their answers are. Run by scripts/measure.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from agent.benchmark.agent_process import AgentProcess, running_agent
from agent.benchmark.session import child_environment
from agent.benchmark.subscriber import Arrival, arrivals_of, listening
from agent.publish.broker import EmbeddedBroker
from engines.choices import percentile_ms
from scripts.agent_rows import config_of

_SETTLE_S = 2.0


@dataclass(slots=True)
class Seen:
    """What one of the two did, over all turns."""

    arrivals: list[Arrival] = field(default_factory=list)
    rates_hz: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    growth_mib: list[float] = field(default_factory=list)
    oldest_ms: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)


def agent_config(package: Path, clip: Path, port: int, fps: float | None, *, is_live: bool) -> dict[str, object]:
    """One camera; ``is_live`` draws a pattern in place of the clip, where newer frames replace older ones."""
    source: Mapping[str, object] = {"type": "file", "path": str(clip.resolve()), "loop": True}
    if is_live:
        source = {"type": "pattern", "width": 1280, "height": 720, "fps": fps}
    return config_of(package, [source], port, rate_hz=fps)


@contextmanager
def plain_script(package: Path, clip: Path, port: int, fps: float | None) -> Iterator[AgentProcess]:
    """The plain script as a process."""
    rhythm = [] if fps is None else ["--fps", str(fps)]
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.plain_pipeline", str(package / "model.onnx"), str(clip), str(port), *rhythm],
        env={**child_environment(), "ORT_DISABLE_TELEMETRY": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield AgentProcess(process.pid, time.monotonic() - began_s)
    finally:
        process.kill()
        process.wait()


def watch(given: Match, seen: Seen, *, is_agent: bool) -> None:
    """One turn."""
    with EmbeddedBroker() as broker, listening(broker.address) as inbox:
        config = agent_config(given.package, given.clip, broker.port, given.fps, is_live=given.is_live)
        running = (
            running_agent(config, given.cache, inbox.is_running.wait)
            if is_agent
            else plain_script(given.package, given.clip, broker.port, given.fps)
        )
        with running as process:
            if not inbox.is_running.wait(60.0):
                raise RuntimeError("nothing was published")
            time.sleep(_SETTLE_S)
            inbox.take()
            began_s, cpu_s, resident = time.monotonic(), process.cpu_s(), process.resident_bytes()
            time.sleep(given.seconds)
            found = arrivals_of(inbox.take())
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
    """What both are given; ``is_live`` has the agent read a live pattern at ``fps`` in place of the clip."""

    package: Path
    clip: Path
    cache: Path
    fps: float | None
    turns: int
    seconds: float
    is_live: bool = False


def compare(match: Match) -> tuple[Seen, Seen]:
    """The agent and the plain script, by turns."""
    ours, plain = Seen(), Seen()
    for _ in range(match.turns):
        watch(match, plain, is_agent=False)
        watch(match, ours, is_agent=True)
    return ours, plain


def lines_of(ours: Seen, plain: Seen) -> list[tuple[str, str, str, str]]:
    """Figure, agent, script, and agent over script."""
    found = []
    for name, values in (
        ("results a second", [median(one.rates_hz) for one in (ours, plain)]),
        ("CPU ms a frame", [median(one.cpu_ms) for one in (ours, plain)]),
        ("frame in hand to subscriber p50 ms", [_age(one, 0.5) for one in (ours, plain)]),
        ("frame in hand to subscriber p99 ms", [_age(one, 0.99) for one in (ours, plain)]),
        ("oldest of the last twenty answers ms", [median(one.oldest_ms) for one in (ours, plain)]),
        ("resident MiB", [median(one.resident_mib) for one in (ours, plain)]),
        ("growth MiB", [median(one.growth_mib) for one in (ours, plain)]),
    ):
        ratio = f"{values[0] / values[1]:.2f}" if values[1] > 0 and name != "growth MiB" else "–"
        found.append((name, f"{values[0]:.2f}", f"{values[1]:.2f}", ratio))
    return found


def _in_hand_ms(one: Arrival) -> float:
    return one.end_to_end_ms - one.latency_ms["capture"]


def _age(seen: Seen, ratio: float) -> float:
    return percentile_ms(sorted(round(_in_hand_ms(one) * 1e6) for one in seen.arrivals), ratio)
