"""`agent doctor`: check what can run on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.io.found_cameras import find_cameras
from agent.cli.io.options import PATH, seconds
from agent.runtime.errors import ConfigError, Unavailable, UsageError

if TYPE_CHECKING:
    from agent.commands.overrides import Kept
    from agent.tools.doctor.findings import Report

_WIDE_CELLS = 140


@click.command()
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),
    help="Also check everything that this configuration needs.",
)
@click.option("--cameras/--no-cameras", default=True, help="Open the cameras of the configuration.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--bundle",
    type=PATH,
    metavar="FILE",
    help="Also write a support bundle (.tar.gz): report, configuration, versions, journal, messages.",
)
@click.option(
    "--thermals", is_flag=True, help="Show only the last 24 hours of temperature, rate, throttling and power."
)
@click.option("--find-cameras", "finding", is_flag=True, help="Only find ONVIF cameras, and print their sources.")
@click.option("--username", help="User on the cameras that are found.")
@click.option("--password-file", type=PATH, metavar="FILE", help="File with the user's password on its first line.")
@click.option("--at", multiple=True, metavar="HOST[:PORT]", help="Ask this host alone for cameras. May be repeated.")
@click.option("--wait", default="3s", callback=seconds, show_default=True, help="How long cameras may take to answer.")
def doctor(
    *,
    path: Path | None,
    cameras: bool,
    as_json: bool,
    bundle: Path | None,
    thermals: bool,
    finding: bool,
    username: str | None,
    password_file: Path | None,
    at: tuple[str, ...],
    wait: float,
) -> int:
    """Check what can run on this machine, and how to fix what cannot.

    With a configuration it opens the engine of each model as a start does (without building a plan), each camera and
    the broker, tries whether commands arrive, and names what kept commands change.

    With the configuration of the installed service it checks the service's own state directory: run it with sudo then.

    Exit code 0 if everything that is needed works, 69 otherwise, 78 if the configuration is not valid. With
    --find-cameras 0 if a camera answers, 69 otherwise.
    """
    from agent.config.loader import load_config
    from agent.config.state_dir import default_state_dir
    from agent.runtime import logs

    # The report has the errors.
    logs.configure(level="error")
    if finding:
        _refuse_others(path, bundle, thermals=thermals)
        return find_cameras(username, password_file, at, wait, as_json=as_json)
    if username is not None or password_file is not None or at:
        raise UsageError("--username, --password-file and --at belong to --find-cameras, which is not given: add it")
    if thermals:
        _refuse_bundle(bundle)
        return _show_thermals(default_state_dir() if path is None else load_config(path).state_dir, as_json=as_json)
    return _examine(path, bundle, with_cameras=cameras, as_json=as_json)


def _examine(path: Path | None, bundle: Path | None, *, with_cameras: bool, as_json: bool) -> int:
    from agent.cli.io.console import Console
    from agent.config.state_dir import default_state_dir
    from agent.tools.doctor.bundle import check_target, write_bundle
    from agent.tools.doctor.examination import examine
    from agent.tools.doctor.service import service_of

    if bundle is not None:
        check_target(bundle)
    environ = dict(os.environ)
    service = None if path is None or "STATE_DIRECTORY" in environ else service_of(path)
    if service is not None:
        # Check the service's directory and the room on its disk, not this user's.
        environ["STATE_DIRECTORY"] = str(service.state_dir)
    kept, error = (None, None) if path is None else _loaded(path, environ)
    loaded = None if kept is None else kept.loaded
    with Console(stderr=True).status("checking ..."):
        examination = examine(
            kept,
            state_dir=default_state_dir(environ) if loaded is None else loaded.state_dir,
            service=service,
            with_cameras=with_cameras,
            config_error=error,
        )
    if bundle is not None:
        write_bundle(bundle, examination.report, loaded)
    _print(examination.report, as_json=as_json)
    code = ConfigError.exit_code if error else Unavailable.exit_code if examination.report.failures else 0
    if examination.is_cut_off:
        sys.stdout.flush()
        os._exit(code)  # a check that hangs in a library would block the exit
    return code


def _refuse_others(path: Path | None, bundle: Path | None, *, thermals: bool) -> None:
    given = {"--config": path is not None, "--bundle": bundle is not None, "--thermals": thermals}
    others = [name for name, is_given in given.items() if is_given]
    if others:
        raise UsageError(
            f"--find-cameras looks at the network alone, but {' and '.join(others)} is given; run it twice"
        )


def _loaded(path: Path, environ: Mapping[str, str]) -> tuple[Kept | None, ConfigError | None]:
    """The configuration with its kept overrides, or why it is refused."""
    from agent.commands.overrides import kept_changes
    from agent.config.loader import load_config

    try:
        return kept_changes(load_config(path, environ=environ)), None
    except ConfigError as exc:
        return None, exc


def _refuse_bundle(bundle: Path | None) -> None:
    if bundle is not None:
        raise UsageError(
            f"--thermals only shows what was kept, so the bundle {bundle} would not be written. Run it twice, "
            "with --bundle and with --thermals"
        )


def _show_thermals(state_dir: Path, *, as_json: bool) -> int:
    from agent.cli.io.console import Console
    from agent.tools.doctor import thermals

    day = thermals.day_of_heat(state_dir)
    if as_json:
        print(thermals.as_json(day))
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDE_CELLS)
        console.print(thermals.render(day, width=console.width))
    return 0


def _print(report: Report, *, as_json: bool) -> None:
    from agent.cli.io.console import Console
    from agent.tools.doctor.terminal import render

    if as_json:
        print(json.dumps(report.as_dict(), indent=2, default=str))
    else:
        # Lines that are not for a terminal may be longer.
        Console(width=None if sys.stdout.isatty() else _WIDE_CELLS).print(render(report))
