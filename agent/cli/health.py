"""`agent health`: is the agent beside this process well? For a container's health check."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.daemon.alive import VARIABLE, read_health
from agent.runtime.errors import UsageError


@click.command()
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, readable=False),
    envvar=VARIABLE,
    help=f"The file that the agent writes; {VARIABLE} for both.",
)
def health(path: Path | None) -> int:
    """Check whether the agent is well: exit code 0 if all its parts make progress, 1 if one hangs or no agent runs.

    While cameras, models and publisher make progress, the agent writes the file that AGENT_ALIVE_FILE names.
    """
    if path is None:
        raise UsageError(
            f"which agent? {VARIABLE} is not set: set it for the agent and for this command, or give --file"
        )
    found = read_health(path)
    print(found.text, file=sys.stdout if found.is_alive else sys.stderr)
    return 0 if found.is_alive else 1
