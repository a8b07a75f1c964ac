"""The program: runs a command and turns whatever comes out of it into one clear message and an exit code.

0 done · 1 a gate failed · 2 usage · 69 something needed is unavailable, room for the output too · 70 internal ·
78 configuration · 130 interrupted · 141 whoever read the output went away
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import click

from agent.cli import Settings, root
from agent.runtime.errors import AgentError
from agent.runtime.secrets import redact

EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (those of the process where None) and return the exit code."""
    _open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names that the encoding of the output lacks must not end a command; stderr is like this by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
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
        with suppress(OSError):  # nobody can be told; the exit code still says it
            exc.show()
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 - the command line's top: nobody above could say it better
        with suppress(OSError):
            _report(exc, debug=settings.debug)
        return _exit_code_of(exc)
    return code


def _run(args: list[str], settings: Settings) -> int:
    try:
        with root.make_context("agent", args, obj=settings) as context:
            result = root.invoke(context)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    return result if isinstance(result, int) else 0


def _exit_code_of(exc: Exception) -> int:
    from engines.errors import EngineError

    if isinstance(exc, AgentError | EngineError):
        return exc.exit_code
    return EXIT_UNAVAILABLE if _lacks_room(exc) else EXIT_INTERNAL


def _lacks_room(exc: Exception) -> bool:
    return isinstance(exc, OSError) and exc.errno in _NO_ROOM


def _report(exc: Exception, *, debug: bool) -> None:
    """One block on stderr; where it happened is shown only to who asked for it."""
    from engines.errors import EngineError

    if debug:
        click.echo(redact("".join(traceback.format_exception(exc))), err=True)
    if isinstance(exc, AgentError | EngineError):
        click.echo(f"error: {redact(exc.message)}", err=True)
        return
    if isinstance(exc, OSError) and _lacks_room(exc):
        what = exc.filename or "the output"
        click.echo(f"error: {what} cannot be written: {exc.strerror}. Make room there, or write elsewhere", err=True)
        return
    text = redact(f"{type(exc).__name__}: {exc}")
    click.echo(f"error: internal error, {text}", err=True)
    if not debug:
        click.echo("This is a mistake of the agent. `agent --debug ...` shows where it happened.", err=True)
        _log(exc)


def _log(exc: Exception) -> None:
    """Where stderr goes to a journal, nobody can run it again: keep the traceback there."""
    if not sys.stderr.isatty() and "agent.runtime.logs" in sys.modules:
        sys.modules["agent.runtime.logs"].get_logger("agent").critical("agent.crashed", exc_info=exc)


def _open_missing_streams() -> None:
    """A standard stream that was closed before the start goes to the null device. Else it is None here, and its number
    goes to the next file or connection, where libraries and child processes would write their output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - until the process ends
            os.set_inheritable(stream.fileno(), True)  # noqa: FBT003 - the library takes it by position alone
            setattr(sys, name, stream)


def _let_go_of(stream: TextIO) -> None:
    """Where the last lines cannot be written, because the disk is full or whoever read them has gone, the interpreter
    would try again at its end, complain, and end with 120 for it."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
