"""The program: runs a command, and turns every exception into one clear message and an exit code.

0 done · 1 a check or gate failed · 2 usage · 69 something needed is unavailable, also room for the output ·
70 internal error · 75 another agent runs · 78 configuration · 130 interrupted · 141 the reader of the output has gone
"""

from __future__ import annotations

import errno
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
from agent.runtime.journal import add_journal_priorities, log_plain_lines_as_errors
from agent.runtime.secrets import redact
from agent.runtime.terminal import escape_standard_streams
from agent.runtime.threads import end_now_if_threads_are_left
from engines import import_path

EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (those of the process where None) and return the exit code."""
    if args is None:
        # `python -m agent` puts the current directory first, where a stray onnx.py would replace the real one.
        sys.path[:] = import_path()
    _open_missing_streams()
    add_journal_priorities()
    # Also: a name that the output's encoding lacks must not end a command.
    escape_standard_streams()
    code = _guarded(args)
    _flush_or_discard(sys.stdout)
    _flush_or_discard(sys.stderr)
    if args is None:
        end_now_if_threads_are_left(code)
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
        log_plain_lines_as_errors()
        with suppress(OSError):  # stderr is gone; the exit code remains
            exc.show(sys.stderr)
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 - top of the command line: one message and an exit code
        log_plain_lines_as_errors()
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
    from engines import EngineError

    if isinstance(exc, AgentError | EngineError):
        return exc.exit_code
    return EXIT_UNAVAILABLE if _lacks_room(exc) else EXIT_INTERNAL


def _lacks_room(exc: Exception) -> bool:
    return isinstance(exc, OSError) and exc.errno in _NO_ROOM


def _report(exc: Exception, *, debug: bool) -> None:
    """Write one block to stderr, with the traceback only after --debug."""
    from engines import EngineError

    if debug:
        click.echo(redact("".join(traceback.format_exception(exc))), file=sys.stderr)
    if isinstance(exc, AgentError | EngineError):
        click.echo(f"error: {redact(exc.message)}", file=sys.stderr)
        return
    if isinstance(exc, OSError) and _lacks_room(exc):
        what = exc.filename or "the output"
        text = f"error: {what} cannot be written: {exc.strerror}. Free some space there, or write elsewhere"
        click.echo(text, file=sys.stderr)
        return
    text = redact(f"{type(exc).__name__}: {exc}")
    click.echo(f"error: internal error, {text}", file=sys.stderr)
    if not debug:
        click.echo("This is a bug in the agent. `agent --debug ...` shows where it happened.", file=sys.stderr)
        _log(exc)


def _log(exc: Exception) -> None:
    """Log the traceback if stderr is no terminal: nobody can repeat the run with --debug then."""
    if not sys.stderr.isatty() and "agent.runtime.logs" in sys.modules:
        sys.modules["agent.runtime.logs"].get_logger("agent").critical("agent.crashed", exc_info=exc)


def _open_missing_streams() -> None:
    """Open the null device for each standard stream that was closed before the start.

    Otherwise the next file or connection gets its number, and libraries and child processes write into that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - until the process ends
            os.set_inheritable(stream.fileno(), True)  # noqa: FBT003 - the library takes it by position alone
            setattr(sys, name, stream)


def _flush_or_discard(stream: TextIO) -> None:
    """Discard last lines that cannot be written, because the disk is full or the reader has gone.

    Otherwise the interpreter tries again at its end, prints an error, and exits with 120.
    """
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
