"""`agent demo`: the whole agent on a bundled clip and model, or that clip alone as a network camera."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.io.options import PATH, own_command, seconds
from agent.cli.io.signals import sigterm_as_ctrl_c
from agent.runtime.errors import UsageError

if TYPE_CHECKING:
    from agent.app import Agent
    from agent.config.loader import LoadedConfig
    from agent.tools.watch.fleet import FleetView


_LISTEN = "127.0.0.1:8554"
"""This machine alone can reach it: a clip may show what is nobody else's business."""


def _host_and_port(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not an address; write it like {_LISTEN} or [::1]:8554")
    return host, int(port)


@click.command()
@click.option("--for", "for_s", metavar="TIME", callback=seconds, help="End after this time, such as 20s.")
@click.option("--print", "is_printing", is_flag=True, help="Print every message as a JSON line instead of a view.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--rtsp", "is_camera", is_flag=True, help="Only serve a clip as a network camera, for your own agent.")
@click.option("--clip", metavar="FILE", type=PATH, help="With --rtsp: a video (H.264, H.265).  [default: bundled]")
@click.option(
    "--listen", callback=_host_and_port, metavar="HOST:PORT", help=f"With --rtsp: where.  [default: {_LISTEN}]"
)
def demo(
    *,
    for_s: float | None,
    is_printing: bool,
    as_json: bool,
    is_camera: bool,
    clip: Path | None,
    listen: tuple[str, int] | None,
) -> int:
    """Run a bundled clip, model and broker for a first look.

    Ends after --for or at Ctrl-C and prints a summary. Leaves no files behind. Exit code 1 when --for has passed and
    nothing was classified.
    """
    if is_camera:
        if is_printing or as_json:
            raise UsageError("--rtsp only serves a camera, but --print and --json show results; leave them out")
        return _serve_camera(clip, listen, for_s)
    if clip is not None or listen is not None:
        raise UsageError("--clip and --listen are about the camera of --rtsp; give --rtsp too")
    if is_printing and as_json:
        raise UsageError("--print writes messages and --json the summary to standard output; give one of them")
    with tempfile.TemporaryDirectory(prefix="agent-demo-") as folder:
        run = _run(demo_configuration(Path(folder)), for_s=for_s, is_printing=is_printing, as_json=as_json)
    if as_json:
        print(json.dumps(_figures(run), indent=2))
    else:
        for line in _summary(run):
            print(line, file=sys.stderr if is_printing else sys.stdout)
    return 0 if run.classified or run.was_interrupted else 1


def _serve_camera(path: Path | None, listen: tuple[str, int] | None, for_s: float | None) -> int:
    from agent.demo import demo_clip
    from agent.tools.clip_camera.clip import clip_from_file
    from agent.tools.clip_camera.server import ClipServer

    clip = clip_from_file(demo_clip() if path is None else path)
    default_host, _, default_port = _LISTEN.rpartition(":")
    host, port = listen or (default_host, int(default_port))
    # Ctrl-C is the normal way to end it.
    with suppress(KeyboardInterrupt), sigterm_as_ctrl_c(), ClipServer(clip, host, port) as server:
        print(f"Serving {clip} at {server.url}, again and again. Ctrl-C ends", flush=True)
        server.serve(for_s)
    return 0


@dataclass(frozen=True, slots=True)
class _Run:
    """The outcome of one run; ``was_interrupted``: a signal ended it."""

    was_interrupted: bool
    lasted_s: float
    captured: int
    classified: int
    dropped: int
    engines: tuple[str, ...]
    view: FleetView


def demo_configuration(state_dir: Path) -> LoadedConfig:
    """The bundled configuration, with a state directory apart from an agent that runs on this machine.

    Where the libraries of the page cannot be imported, it runs without one and says why.
    """
    import agent.demo
    from agent.build import require_serve_part
    from agent.config.loader import load_config
    from agent.config.sections.serve import ServeConfig
    from agent.runtime.errors import PartMissing

    loaded = load_config(Path(agent.demo.__file__).with_name("demo.yaml"))
    try:
        require_serve_part()
    except PartMissing as exc:
        print(f"Without a page: {exc.message}", file=sys.stderr)
        # The document too, because the agent reads the configuration from it again for what was kept over MQTT.
        given = loaded.document.data
        document = replace(loaded.document, data={**given, "serve": {}} if isinstance(given, dict) else given)
        config = loaded.config.model_copy(update={"serve": ServeConfig()})
        loaded = replace(loaded, config=config, document=document)
    return replace(loaded, state_dir=state_dir)


def _run(loaded: LoadedConfig, *, for_s: float | None, is_printing: bool, as_json: bool) -> _Run:
    from agent.app import Agent
    from agent.cli.io.console import Console
    from agent.mqtt.base import Sink
    from agent.publish.json_lines import JsonLinesSink
    from agent.runtime import logs
    from agent.tools.watch.fleet import FleetView
    from agent.tools.watch.screen import Screen
    from agent.tools.watch.sink import ViewSink

    sink, view = ViewSink(), FleetView(loaded.config.mqtt.prefix)
    extra_sinks: list[Sink] = [JsonLinesSink(sys.stdout.buffer)] if is_printing else [sink]
    agent = Agent(loaded, extra_sinks=extra_sinks)
    agent.handle_signals()
    # The terminal was closed; there is no configuration here that could have changed.
    signal.signal(signal.SIGHUP, lambda *_: agent.request_stop())
    ready_s: list[float] = []

    def on_ready() -> None:
        ready_s.append(time.monotonic())
        here = f"{own_command()} watch {agent.broker_address}"
        print(f"Publishing to {agent.broker_address}. See it there: {here}", file=sys.stderr)
        if agent.page_url is not None:
            print(f"In a browser: {agent.page_url}", file=sys.stderr)

    with ExitStack() as resources:
        if not is_printing:
            ending = f"ends after {for_s:g} s" if for_s is not None else "Ctrl-C ends"
            heading = f"agent demo · a clip of a conveyor, classified on this machine · {ending}"
            # Standard output holds nothing but JSON where that is asked for.
            console = Console(stderr=as_json)
            screen = Screen(sink, view, console, heading=heading, on_failure=agent.request_stop)
            resources.enter_context(screen)
            # On a terminal, what goes to stderr now appears above the view.
            logs.configure(level="warning", stream=sys.stderr)
        agent.run(for_s=for_s, on_ready=on_ready)
    return _gathered(agent, view, time.monotonic() - ready_s[0] if ready_s else 0.0)


def _gathered(agent: Agent, view: FleetView, lasted_s: float) -> _Run:
    statistics = agent.statistics()
    # None where Ctrl-C ended the start before there was anything to count.
    cameras = () if statistics is None else statistics.pipeline.cameras
    workers = () if statistics is None else statistics.pipeline.workers
    counts = [camera.counts for camera in cameras]
    return _Run(
        was_interrupted=agent.is_stop_requested,
        lasted_s=lasted_s,
        captured=sum(one.captured for one in counts),
        classified=sum(one.classified for one in counts),
        dropped=sum(sum(one.dropped.values()) for one in counts),
        engines=tuple(f"{one.info.name} {one.info.precision}" for one in workers if one.info is not None),
        view=view,
    )


def _figures(run: _Run) -> dict[str, object]:
    """The summary as JSON values; latencies from capture to decision."""
    now_s = time.monotonic()
    classifiers = [
        {
            "camera": camera,
            "model": name,
            "p50_ms": classifier.latency_ms(now_s, 50, window_s=float("inf")),
            "p99_ms": classifier.latency_ms(now_s, 99, window_s=float("inf")),
            "labels": classifier.labels,
        }
        for device in run.view.devices.values()
        for camera, seen in device.cameras.items()
        for name, classifier in seen.classifiers.items()
    ]
    return {
        "duration_s": run.lasted_s,
        "engines": list(run.engines),
        "captured": run.captured,
        "classified": run.classified,
        "dropped": run.dropped,
        "classifiers": classifiers,
    }


def _summary(run: _Run) -> list[str]:
    rate_hz = run.classified / run.lasted_s if run.lasted_s else 0.0
    engines = ", ".join(run.engines) or "no engine"
    frames = f"{run.captured} frames, {run.classified} classified, {run.dropped} dropped"
    lines = [f"{run.lasted_s:.1f} s on {engines}: {frames}, {rate_hz:.1f} fps"]
    now_s = time.monotonic()
    for device in run.view.devices.values():
        for camera, seen in device.cameras.items():
            for name, classifier in seen.classifiers.items():
                p50, p99 = (classifier.latency_ms(now_s, percent, window_s=float("inf")) for percent in (50, 99))
                labels = sorted(classifier.labels.items(), key=lambda item: -item[1])
                if p50 is not None and p99 is not None:
                    lines.append(f"{camera}/{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms from capture to decision")
                lines.append(f"labels seen: {', '.join(f'{label} {count}' for label, count in labels) or 'none'}")
    return lines
