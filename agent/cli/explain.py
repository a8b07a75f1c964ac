"""`agent explain`: why each classifier has decided its label, or none."""

from __future__ import annotations

import time
from pathlib import Path

import click

from agent.cli.io.options import broker_options, seconds, subscribed, subscriber_settings
from agent.cli.io.signals import sigterm_as_ctrl_c


@click.command()
@broker_options
@click.option("--camera", help="Show only this camera.  [default: all]")
@click.option(
    "--for", "for_s", metavar="TIME", callback=seconds, default="3s", show_default=True, help="Listen for this time."
)
def explain(
    *,
    broker: str | None,
    path: Path | None,
    prefix: str | None,
    device: str | None,
    username: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    camera: str | None,
    for_s: float,
) -> int:
    """Say why classifiers have decided a label, or none, from what agents publish at BROKER_URL.

    One line for each classifier: its state, the newest result against its threshold, the votes, and what would change
    the state; then the values that commands have changed. It only listens, so it needs no permission; the command
    `explain` over MQTT also counts dropped frames. Exit code 69 if no agent, or no such camera, publishes there; 1 if
    every agent heard is stopped or offline.
    """
    from agent.mqtt.topics import level
    from agent.runtime import logs
    from agent.runtime.errors import Unavailable
    from agent.tools.watch.fleet import FleetView
    from agent.tools.watch.reasons import explanation_lines

    logs.configure(level="error")
    settings, configured_prefix = subscriber_settings(broker, path, username, password_file, ca_file)
    prefix = configured_prefix if prefix is None else prefix
    topic = f"{prefix}/{level(device) if device else '+'}/#"
    view = FleetView(prefix)
    with sigterm_as_ctrl_c(), subscribed(settings, topic) as subscriber:
        end_s = time.monotonic() + for_s
        while (left_s := end_s - time.monotonic()) > 0:
            received = subscriber.receive(left_s)
            if received is not None:
                view.update(received.topic, received.payload, now_s=time.monotonic())
    lines = list(explanation_lines(view, camera))
    if not lines:
        what = "no classifier" if camera is None else f"no classifier of camera {camera}"
        raise Unavailable(
            f"{what} was heard under {topic} at {settings.address} within {for_s:g} s; is the agent connected there? "
            "See: agent watch"
        )
    print("\n".join(lines))
    asked = [device for device in view.devices.values() if camera in {None, *device.visible_cameras()}]
    return 0 if any(device.is_running for device in asked) else 1
