"""`agent demo`: the whole agent on bundled material."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import seconds

if TYPE_CHECKING:
    from agent.app import Agent
    from agent.config.loader import LoadedConfig
    from agent.watching.fleet import FleetView


@click.command()
@click.option("--for", "for_s", metavar="TIME", callback=seconds, help="End after this time, such as 20s.")
@click.option("--print", "is_printing", is_flag=True, help="Write every message as a JSON line instead of a view.")
def demo(*, for_s: float | None, is_printing: bool) -> int:
    """See it work: bundled clip, bundled model, broker included.

    Ends after --for or at Ctrl-C and says what it saw; exit code 1 when --for passed and nothing was classified. It
    keeps nothing.
    """
    with tempfile.TemporaryDirectory(prefix="agent-demo-") as folder:
        run = _run(_load(Path(folder)), for_s=for_s, is_printing=is_printing)
    for line in _summary(run):
        print(line, file=sys.stderr if is_printing else sys.stdout)
    return 0 if run.classified or run.was_interrupted else 1


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run of the demonstration came to; ``was_interrupted``: somebody ended it by a signal."""

    was_interrupted: bool
    lasted_s: float
    captured: int
    classified: int
    dropped: int
    engines: tuple[str, ...]
    view: FleetView


def _load(state_dir: Path) -> LoadedConfig:
    """The bundled configuration, which must not share the state of an agent that runs on this machine."""
    import agent.demo
    from agent.config.loader import load_config

    return replace(load_config(Path(agent.demo.__file__).with_name("demo.yaml")), state_dir=state_dir)


def _run(loaded: LoadedConfig, *, for_s: float | None, is_printing: bool) -> _Run:
    from agent.app import Agent
    from agent.cli.console import Console
    from agent.mqtt.base import Sink
    from agent.publish.json_lines import JsonLinesSink
    from agent.runtime import logs
    from agent.watching.fleet import FleetView
    from agent.watching.mirror import ViewSink
    from agent.watching.screen import Screen

    sink, view = ViewSink(), FleetView(loaded.config.mqtt.prefix)
    mirrors: list[Sink] = [JsonLinesSink(sys.stdout.buffer)] if is_printing else [sink]
    agent = Agent(loaded, mirrors=mirrors)
    agent.handle_signals()
    # The terminal was closed; there is no configuration here that could have changed.
    signal.signal(signal.SIGHUP, lambda *_: agent.request_stop())
    ready_s: list[float] = []

    def on_ready() -> None:
        ready_s.append(time.monotonic())
        print(
            f"Publishing to {agent.broker_address}. See it there: agent watch {agent.broker_address}", file=sys.stderr
        )

    with ExitStack() as resources:
        if not is_printing:
            ending = "ends by itself" if for_s is not None else "Ctrl-C ends"
            heading = f"agent demo · a clip of a conveyor, classified on this machine · {ending}"
            screen = Screen(sink, view, Console(), heading=heading, on_failure=agent.request_stop)
            resources.enter_context(screen)
            # On a terminal stderr now leads above the picture.
            logs.configure(level="warning", stream=sys.stderr)
        agent.run(for_s=for_s, on_ready=on_ready)
    return _gathered(agent, view, time.monotonic() - ready_s[0] if ready_s else 0.0)


def _gathered(agent: Agent, view: FleetView, lasted_s: float) -> _Run:
    statistics = agent.statistics().pipeline
    counts = [camera.counts for camera in statistics.cameras]
    return _Run(
        was_interrupted=agent.is_stop_requested,
        lasted_s=lasted_s,
        captured=sum(one.captured for one in counts),
        classified=sum(one.classified for one in counts),
        dropped=sum(sum(one.dropped.values()) for one in counts),
        engines=tuple(f"{one.info.name} {one.info.precision}" for one in statistics.workers if one.info is not None),
        view=view,
    )


def _summary(run: _Run) -> list[str]:
    rate_hz = run.classified / run.lasted_s if run.lasted_s else 0.0
    engines = ", ".join(run.engines) or "no engine"
    frames = f"{run.captured} frames, {run.classified} classified, {run.dropped} dropped"
    lines = [f"{run.lasted_s:.1f} s on {engines}: {frames}, {rate_hz:.1f} fps"]
    now_s = time.monotonic()
    for device in run.view.devices.values():
        for camera, seen in device.cameras.items():
            for name, classifier in seen.classifiers.items():
                p50, p99 = (classifier.latency_ms(now_s, share, window_s=float("inf")) for share in (0.5, 0.99))
                labels = sorted(classifier.labels.items(), key=lambda item: -item[1])
                if p50 is not None and p99 is not None:
                    lines.append(f"{camera}/{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms from capture to decision")
                lines.append(f"labels seen: {', '.join(f'{label} {count}' for label, count in labels) or 'none'}")
    return lines
