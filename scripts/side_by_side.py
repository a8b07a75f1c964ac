"""The agent beside the script that one writes first: the same clip, model, broker and subscriber, in turns.

python -m scripts.side_by_side --package PACKAGE --clip CLIP --cache FOLDER [--fps 30] [--turns 2] [--seconds 15]

Without --fps both go as fast as they can; with more than the model can do both are overloaded, and are asked how old
their answers are.
"""

from __future__ import annotations

import argparse
import os
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
from agent.benchmark.subscriber import PREFIX, Arrival, arrivals_of, listening
from agent.publish.broker import EmbeddedBroker
from agent.service import logs
from engines.choices import percentile_ms

_SETTLE_S = 3.0


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
    return {
        "version": 1,
        "device": {"id": "measured"},
        "models": {"m": {"package": str(package.resolve()), "engine": "ort-cpu", "strict": True}},
        "cameras": {"camera1": {"source": source, "rate_hz": fps, "classify": [{"model": "m"}]}},
        "mqtt": {"broker": f"mqtt://127.0.0.1:{port}", "prefix": PREFIX},
        "thermal": {"governor": {"enabled": False}},
    }


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


def watch(given: argparse.Namespace, seen: Seen, *, is_agent: bool) -> None:
    """One turn."""
    with EmbeddedBroker() as broker, listening(broker.address) as inbox:
        config = agent_config(given.package, given.clip, broker.port, given.fps, is_live=given.live)
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
            seen.oldest_ms.append(max(one.end_to_end_ms for one in found[-20:]))
            seen.ready_s.append(process.ready_s)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--live", action="store_true", help="the agent reads a live pattern of 720p")
    given = parser.parse_args()
    logs.configure(level="error")
    ours, plain = Seen(), Seen()
    for _ in range(given.turns):
        watch(given, plain, is_agent=False)
        watch(given, ours, is_agent=True)
    print(f"load {os.getloadavg()[0]:.1f}\n\n| | agent | plain script |\n| :-- | --: | --: |")
    for name, values in (
        ("results a second", [median(one.rates_hz) for one in (ours, plain)]),
        ("CPU ms a frame", [median(one.cpu_ms) for one in (ours, plain)]),
        ("capture to subscriber p50 ms", [_age(one, 0.5) for one in (ours, plain)]),
        ("capture to subscriber p99 ms", [_age(one, 0.99) for one in (ours, plain)]),
        ("age of the last answers ms", [median(one.oldest_ms) for one in (ours, plain)]),
        ("resident MiB", [median(one.resident_mib) for one in (ours, plain)]),
        ("growth MiB", [median(one.growth_mib) for one in (ours, plain)]),
    ):
        print(f"| {name} | {values[0]:.2f} | {values[1]:.2f} |")


def _age(seen: Seen, ratio: float) -> float:
    return percentile_ms(sorted(round(one.end_to_end_ms * 1e6) for one in seen.arrivals), ratio)


if __name__ == "__main__":
    main()
