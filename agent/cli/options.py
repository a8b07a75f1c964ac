"""Options and their parsing that several commands share."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import click

_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|)\Z")

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


def package_directory(package: str) -> Path:
    """The directory of a package, or of the bundled one for ``demo``."""
    from agent.demo import demo_package

    return demo_package() if package == "demo" else Path(package)
