"""Options and their parsing that several commands share."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.io.numbers import Whole, decimal
from agent.runtime.errors import UsageError

if TYPE_CHECKING:
    from agent.config.broker_address import BrokerAddress
    from agent.mqtt.settings import MqttSettings
    from agent.mqtt.subscriber import Subscriber

_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|)\Z")

_CONNECT_S = 5.0
PATH = click.Path(path_type=Path)


def seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Callback of an option: seconds from ``20s``, ``500ms``, ``2m``, ``1h`` or plain seconds."""
    if value is None:
        return None
    match = _DURATION.match(value.strip())
    if match is None or not 0 < (found := float(match[1]) * _UNITS_S[match[2]]) <= 86400 * 365:
        raise click.BadParameter(f"{value!r} is not a duration; write it like 20s, 500ms, 2m or 1h")
    return found


def engine_options(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, object]:
    """Callback of ``--option NAME=VALUE``: values as in the configuration."""
    from engines import StrictYamlError, parse_options

    try:
        return parse_options(values)
    except StrictYamlError as exc:
        raise click.BadParameter(exc.message) from exc


def own_command() -> str:
    """How this program is called in this terminal: `agent` where PATH has it, else by the path that started it."""
    name = Path(sys.argv[0]).name
    if name != "agent":  # python -m agent
        return f"{shlex.quote(sys.executable)} -m agent"
    on_path = shutil.which(name)
    is_same = on_path is not None and Path(on_path).resolve() == Path(sys.argv[0]).resolve()
    return name if is_same else shlex.quote(sys.argv[0])


ENGINE_OPTION = click.option(
    "--option",
    "options",
    multiple=True,
    callback=engine_options,
    metavar="NAME=VALUE",
    help="Option of the engine, as in the configuration, like threads=1. May be repeated.",
)
"""The same in every command that opens engines."""


MAX_FILE_OPTION = click.option(
    "--max-file-mib",
    type=Whole(1, 2000),
    default=512,
    show_default=True,
    help="Largest model file with its external data in MiB, as models.NAME.max_file_mib.",
)
"""The same in every command that reads a package which no configuration names."""


def package_directory(package: str) -> Path:
    """The directory of a package, or of the bundled one for ``demo``."""
    from agent.demo import demo_package

    return demo_package() if package == "demo" else Path(package)


def _levels(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not value or any(one in "+#" or not one.isprintable() for one in value)):
        raise click.BadParameter(f"{value!r} is not a topic prefix; write it like edge or plant/edge, without + and #")
    return value


_BROKER_OPTIONS = (
    click.argument("broker", metavar="[BROKER_URL]", required=False),
    click.option("-c", "--config", "path", type=PATH, help="Use broker, prefix and password of this configuration."),
    click.option("--prefix", callback=_levels, help="Topic prefix.  [default: edge]"),
    click.option("--device", help="Show only this device.  [default: all below the prefix]"),
    click.option("--username", help="User name for the broker."),
    click.option("--password-file", type=PATH, help="File with the password on its first line."),
    click.option("--ca-file", type=PATH, help="CA certificate for the broker, for mqtts:// and wss://."),
)


def broker_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """How to reach a broker, and whose messages to receive: the same in every command that subscribes."""
    for option in reversed(_BROKER_OPTIONS):
        command = option(command)
    return command


def subscriber_settings(
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
def subscribed(settings: MqttSettings, topic: str) -> Iterator[Subscriber]:
    """A subscriber to ``topic``, connected.

    Raises:
        Unavailable: the broker does not answer.
    """
    from agent.mqtt.subscriber import open_subscriber

    with open_subscriber(settings, [topic], timeout_s=_CONNECT_S) as subscriber:
        yield subscriber


def _clips(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for value in values:
        name, sign, path = value.partition("=")
        if not sign or not name or not path:
            raise click.BadParameter(f"{value!r} is not CAMERA=FILE, like front=front.mp4")
        if name in found:
            raise click.BadParameter(f"camera {name} has {found[name]}, but also {path}; give one of them")
        found[name] = Path(path)
    return found


def _figures(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE, like cameras.front.rate_hz=5")
        number = decimal(text)
        if number is None or number < 0:
            raise click.BadParameter(
                f"{name} needs a decimal number from 0 on, but is {text!r}; write it like cameras.front.rate_hz=2.5"
            )
        if name in found:
            raise click.BadParameter(f"{name} is {found[name]:g}, but also {number:g}; give one of them")
        found[name] = number
    return found


_PLAN_OPTIONS = (
    click.option(
        "--report", "reports", type=PATH, multiple=True, metavar="FILE",
        help="Report of a model on this device, from: agent benchmark --scenario latency,pipeline --output FILE.json",
    ),
    click.option(
        "--clip", "clips", multiple=True, callback=_clips, metavar="CAMERA=FILE",
        help="A recording of a camera, which is decoded here for up to 10 s.",
    ),
    click.option(
        "--figure", "figures", multiple=True, callback=_figures, metavar="NAME=VALUE",
        help="A figure that you state, like cameras.front.rate_hz=5. It replaces a measured one.",
    ),
    click.option(
        "--accept-invalid", is_flag=True, help="Use reports that call themselves not valid; the answer warns of each."
    ),
)  # fmt: skip


def plan_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Where the figures of a plan come from: the same in every command that plans."""
    for option in reversed(_PLAN_OPTIONS):
        command = option(command)
    return command
