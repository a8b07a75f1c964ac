"""`agent watch`: show live what agents publish."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import PATH, seconds
from agent.cli.signals import sigterm_as_ctrl_c
from agent.runtime.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agent.config.broker_address import BrokerAddress
    from agent.mqtt.settings import MqttSettings
    from agent.mqtt.subscriber import Subscriber
    from agent.tools.watch.fleet import FleetView

_CONNECT_S = 5.0
_REDRAW_S = 0.25
_LINES_S = 2.0


def _levels(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not value or any(one in "+#" or not one.isprintable() for one in value)):
        raise click.BadParameter(f"{value!r} is not a topic prefix; write it like edge or plant/edge, without + and #")
    return value


@click.command()
@click.argument("broker", metavar="[BROKER_URL]", required=False)
@click.option("-c", "--config", "path", type=PATH, help="Use broker, prefix and password of this configuration.")
@click.option("--prefix", callback=_levels, help="Topic prefix.  [default: edge]")
@click.option("--device", help="Show only this device.  [default: all below the prefix]")
@click.option("--username", help="User name for the broker.")
@click.option("--password-file", type=PATH, help="File with the password on its first line.")
@click.option("--ca-file", type=PATH, help="CA certificate for the broker, for mqtts:// and wss://.")
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
    settings, configured_prefix = _settings(broker, path, username, password_file, ca_file)
    prefix = configured_prefix if prefix is None else prefix
    topic = f"{prefix}/{level(device) if device else '+'}/#"
    # Restore the terminal also after SIGTERM.
    with sigterm_as_ctrl_c(), _subscribed(settings, topic) as subscriber:
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


def _settings(
    broker: str | None, path: Path | None, username: str | None, password_file: Path | None, ca_file: Path | None
) -> tuple[MqttSettings, str]:
    """How to reach the broker, and the prefix of the topics there."""
    from agent.config.broker_address import BrokerAddress
    from agent.mqtt.settings import Credentials, MqttSettings, settings_from_config

    # A random client id: a broker disconnects the older of two clients with the same id.
    client_id = f"agent-watch-{secrets.token_hex(4)}"
    prefix = "edge"
    address = None if broker is None else _address(broker)
    if path is not None:
        from agent.config.loader import load_config

        loaded = load_config(path)
        prefix = loaded.config.mqtt.prefix
        if address is None and loaded.config.mqtt.is_embedded:
            raise UsageError(
                f"the broker of {path} is embedded and listens on a random port; give the address that "
                "`agent run` or `agent demo` printed: agent watch mqtt://127.0.0.1:PORT"
            )
        settings = settings_from_config(
            loaded.resolved_mqtt(),
            device=loaded.device_id,
            address=address,
            password_file=loaded.mqtt_password_file,
        )
        settings = replace(settings, client_id=client_id)
    else:
        address = address or BrokerAddress.parse("mqtt://127.0.0.1:1883")
        settings = MqttSettings(address=address, client_id=client_id)
    if username is not None or password_file is not None:
        name = username or settings.credentials.username
        if name is None:
            raise UsageError("--password-file needs the user whose password it is: give --username too")
        settings = replace(settings, credentials=Credentials(name, password_file))
        settings.credentials.password()
    if ca_file is not None:
        settings = replace(settings, tls=replace(settings.tls, ca=ca_file))
    return settings, prefix


def _address(url: str) -> BrokerAddress:
    from agent.config.broker_address import BrokerAddress

    try:
        return BrokerAddress.parse(url)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


@contextmanager
def _subscribed(settings: MqttSettings, topic: str) -> Iterator[Subscriber]:
    from agent.mqtt.subscriber import open_subscriber

    with open_subscriber(settings, [topic], timeout_s=_CONNECT_S) as subscriber:
        yield subscriber


def _print_messages(subscriber: Subscriber, end_s: float) -> None:
    import orjson

    while time.monotonic() < end_s:
        received = subscriber.receive(min(1.0, max(0.0, end_s - time.monotonic())))
        if received is None:
            continue
        try:
            message = orjson.loads(received.payload)
        except orjson.JSONDecodeError:  # an image
            message = {"bytes": len(received.payload)}
        line = orjson.dumps({"topic": received.topic, "retain": received.retain, "message": message})
        sys.stdout.buffer.write(line + b"\n")
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

    from agent.cli.console import Console
    from agent.tools.watch.terminal import render

    console = Console()

    def tables() -> RenderableType:
        connection = subscriber.connection()
        reason = f": {connection.reason}" if connection.reason else ""
        heading = f"{topic} at {connection.address} · {connection.state}{reason} · Ctrl-C ends"
        return render(view, now_s=time.monotonic(), width=console.width, heading=heading)

    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while (now_s := time.monotonic()) < end_s:
                _receive(subscriber, view, min(end_s, now_s + _REDRAW_S))
                live.update(tables(), refresh=True)
    finally:
        console.print(tables())
