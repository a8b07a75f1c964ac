"""`agent reload`: the running agent reads its configuration again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agent.cli.io.options import PATH


@click.command()
@click.option(
    "--runtime-dir",
    type=PATH,
    help="Where the agent listens (default: RUNTIME_DIRECTORY of a service, else /run/agent).",
)
def reload(*, runtime_dir: Path | None) -> None:
    """Make the running service read its configuration again, and wait for the result.

    Exit code 0 once the configuration is in force. If the agent refuses it, nothing changes, and the exit code is 78
    or 69 with the reason; 69 also if no agent runs. A reload that has to build an engine takes minutes, and goes on if
    this command is interrupted. `systemctl reload agent` does the same and fails in the same cases.
    """
    from agent.daemon.control import USUAL_DIRECTORY, ask_for_reload

    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    outcome = ask_for_reload(runtime_dir or (Path(given) if given else USUAL_DIRECTORY))
    print(f"reloaded: {outcome}")
