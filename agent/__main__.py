"""The program: runs a command and turns whatever comes out of it into one clear message and an exit code.

0 done · 1 a gate failed · 2 usage · 69 something needed is unavailable · 70 internal · 78 configuration ·
130 interrupted · 141 whoever read the output went away
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

import click

from agent.cli import Settings, root
from agent.config.secret import redact
from agent.errors import AgentError

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (those of the process where None) and return the exit code."""
    code = _guarded(args)
    _let_go_of(sys.stdout)
    _let_go_of(sys.stderr)
    return code


def _guarded(args: Sequence[str] | None) -> int:
    settings = Settings()
    try:
        code = _run(list(sys.argv[1:] if args is None else args), settings)
        sys.stdout.flush()
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 - the command line's top: nobody above could say it better
        return _report(exc, debug=settings.debug)
    return code


def _run(args: list[str], settings: Settings) -> int:
    try:
        with root.make_context("agent", args, obj=settings) as context:
            result = root.invoke(context)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    return result if isinstance(result, int) else 0


def _report(exc: Exception, *, debug: bool) -> int:
    """One block on stderr; where it happened is shown only to who asked for it."""
    from engines.errors import EngineError

    if debug:
        click.echo(redact("".join(traceback.format_exception(exc))), err=True)
    if isinstance(exc, AgentError | EngineError):
        click.echo(f"error: {redact(exc.message)}", err=True)
        return exc.exit_code
    text = redact(f"{type(exc).__name__}: {exc}")
    click.echo(f"error: internal error, {text}", err=True)
    if not debug:
        click.echo("This is a mistake of the agent. `agent --debug ...` shows where it happened.", err=True)
        _log(exc)
    return EXIT_INTERNAL


def _log(exc: Exception) -> None:
    """Where stderr goes to a journal, nobody can run it again: keep the traceback there."""
    if not sys.stderr.isatty() and "agent.service.logs" in sys.modules:
        sys.modules["agent.service.logs"].get_logger("agent").critical("agent.crashed", exc_info=exc)


def _let_go_of(stream: TextIO) -> None:
    """Where the last lines cannot be written, because the disk is full or whoever read them has gone, the interpreter
    would try again at its end, complain, and end with 120 for it."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
