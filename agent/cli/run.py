"""`agent run`: the daemon."""

from __future__ import annotations

import faulthandler
import signal
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),
    required=True,
    help="Configuration file.",
)
@click.option(
    "--print", "is_printing", is_flag=True, help="Write every message as a JSON line to standard output too."
)
def run(path: Path, *, is_printing: bool) -> None:
    """Run the agent as a configuration file says.

    It works until SIGTERM or SIGINT, or until every file among its sources has been read to its end: exit code 69
    where none of them gave a frame. A second signal ends it at once.
    """
    # Until the agent has its own handlers there is nothing to tidy up, and an exception that comes out of the middle
    # of an import can be swallowed there.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from agent.app import Agent
    from agent.config.loader import load_config
    from agent.daemon.notify import Notifier
    from agent.publish.json_lines import JsonLinesSink

    faulthandler.enable()
    mirrors = [JsonLinesSink(sys.stdout.buffer)] if is_printing else []
    with Notifier.from_environment() as notifier:
        agent = Agent(load_config(path), mirrors=mirrors, notifier=notifier)
        agent.handle_signals()
        agent.run()
