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
@click.option("--print", "is_printing", is_flag=True, help="Also print every message as a JSON line.")
def run(path: Path, *, is_printing: bool) -> None:
    """Run the agent with a configuration file.

    Runs until SIGTERM or SIGINT, or until all file sources have ended. Exit code 69 if none of those gave a frame. A
    second signal ends it immediately.
    """
    # There is nothing to clean up until the agent installs its own handlers, and a KeyboardInterrupt in the middle of
    # an import can be swallowed.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from agent.daemon.imports import load_with_one_blas_thread, without_garbage_search

    with without_garbage_search():
        load_with_one_blas_thread()
        from agent.app import Agent
        from agent.config.loader import load_config
        from agent.daemon.control import ControlSocket
        from agent.daemon.notify import Notifier
        from agent.publish.json_lines import JsonLinesSink
        from agent.runtime import journal

    faulthandler.enable()
    journal.log_plain_lines_as_errors()
    prefix = f"<{journal.INFO}>" if journal.is_journal(sys.stdout) else ""
    extra_sinks = [JsonLinesSink(sys.stdout.buffer, prefix=prefix)] if is_printing else []
    with Notifier.from_environment() as notifier:
        control = ControlSocket.from_environment(notifier)
        agent = Agent(load_config(path), extra_sinks=extra_sinks, notifier=notifier, control=control)
        agent.handle_signals()
        agent.run()
