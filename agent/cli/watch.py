"""`agent watch`: show live what agents publish."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.io.options import broker_options, seconds, subscribed, subscriber_settings
from agent.cli.io.signals import signals_end_loop, sigterm_as_ctrl_c

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agent.mqtt.subscriber import Subscriber
    from agent.tools.watch.fleet import FleetView

_REDRAW_S = 0.25
_LINES_S = 2.0


@click.command()
@broker_options
@click.option("--for", "for_s", metavar="TIME", callback=seconds, help="End after this time, such as 20s.")
@click.option("--json", "as_json", is_flag=True, help="Print every message as a JSON line.")
def watch(
    *,
    broker: str | None,
    path: Path | None,
    prefix: str | None,
    device: str | None,
    username: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    for_s: float | None,
    as_json: bool,
) -> None:
    """Show live what agents publish at BROKER_URL (default: mqtt://127.0.0.1:1883)."""
    from agent.mqtt.topics import level
    from agent.runtime import logs
    from agent.tools.watch.fleet import FleetView

    # The view shows the state of the connection; log lines would break its layout.
    logs.configure(level="error")
    settings, configured_prefix = subscriber_settings(broker, path, username, password_file, ca_file)
    prefix = configured_prefix if prefix is None else prefix
    topic = f"{prefix}/{level(device) if device else '+'}/#"
    # Restore the terminal also after SIGTERM.
    with sigterm_as_ctrl_c(), subscribed(settings, topic) as subscriber:
        # Counted from here, because a broker may take time to answer.
        end_s = time.monotonic() + for_s if for_s is not None else float("inf")
        try:
            if as_json:
                _print_messages(subscriber, end_s)
            elif sys.stdout.isatty():
                _draw(subscriber, FleetView(prefix), end_s, topic)
            else:
                _print_lines(subscriber, FleetView(prefix), end_s)
        except KeyboardInterrupt:
            return  # the normal way to end it


def _print_messages(subscriber: Subscriber, end_s: float) -> None:
    import orjson

    from agent.runtime.terminal import escaped_json

    while time.monotonic() < end_s:
        received = subscriber.receive(min(1.0, max(0.0, end_s - time.monotonic())))
        if received is None:
            continue
        try:
            message = orjson.loads(received.payload)
        except orjson.JSONDecodeError:  # an image
            message = {"bytes": len(received.payload)}
        line = orjson.dumps({"topic": received.topic, "retain": received.retain, "message": message})
        sys.stdout.buffer.write(escaped_json(line) + b"\n")
        sys.stdout.buffer.flush()


def _receive(subscriber: Subscriber, view: FleetView, until_s: float) -> None:
    """Process messages until ``until_s`` (monotonic)."""
    while (left_s := until_s - time.monotonic()) > 0:
        received = subscriber.receive(left_s)
        if received is not None:
            view.update(received.topic, received.payload, now_s=time.monotonic())


def _print_lines(subscriber: Subscriber, view: FleetView, end_s: float) -> None:
    from agent.tools.watch.lines import lines_from_fleet

    while (now_s := time.monotonic()) < end_s:
        _receive(subscriber, view, min(end_s, now_s + _LINES_S))
        for line in lines_from_fleet(view, now_s=time.monotonic()):
            print(line, flush=True)


def _draw(subscriber: Subscriber, view: FleetView, end_s: float, topic: str) -> None:
    from rich.live import Live

    from agent.cli.io.console import Console
    from agent.tools.watch.terminal import render

    console = Console()

    def tables() -> RenderableType:
        connection = subscriber.connection()
        reason = f": {connection.reason}" if connection.reason else ""
        heading = f"{topic} at {connection.address} · {connection.state}{reason} · Ctrl-C ends"
        return render(view, now_s=time.monotonic(), width=console.width, heading=heading)

    # An exception in the middle of drawing would leave the library, and so the terminal, in a state between two.
    with signals_end_loop() as is_ending:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while (now_s := time.monotonic()) < end_s and not is_ending():
                _receive(subscriber, view, min(end_s, now_s + _REDRAW_S))
                live.update(tables(), refresh=True)
        console.print(tables())
