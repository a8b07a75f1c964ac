"""`agent reload`: the running agent reads its configuration again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agent.cli.options import PATH


@click.command()
@click.option(
    "--runtime-dir",
    type=PATH,
    help="Where the agent listens (default: RUNTIME_DIRECTORY of a service, else /run/agent).",
)
def reload(*, runtime_dir: Path | None) -> None:
    """Have the running service read its configuration again, wait until it has, and say what came of it.

    Exit code 0 once the configuration is in force, 78 or 69 with the reason where the agent refuses it (nothing has
    changed then), 69 where no agent runs. A reload takes minutes where an engine has to be built; giving up here does
    not end it. `systemctl reload agent` does the same and fails in the same cases.
    """
    from agent.daemon.control import USUAL_DIRECTORY, ask_for_reload

    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    outcome = ask_for_reload(runtime_dir or (Path(given) if given else USUAL_DIRECTORY))
    print(f"reloaded: {outcome}")
