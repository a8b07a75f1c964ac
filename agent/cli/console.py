"""The console that commands print to: in colour on a terminal, plain elsewhere."""

from __future__ import annotations

import errno
import os

import rich.console


class Console(rich.console.Console):
    """Raises on a closed pipe, so that ``__main__`` handles it like any other error.

    The library would exit with code 1, which means here that a check failed.
    """

    def on_broken_pipe(self) -> None:
        """See rich."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
