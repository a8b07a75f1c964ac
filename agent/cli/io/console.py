"""The console that commands print to: in colour on a terminal, plain elsewhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import IO, Any

import rich.console
from rich.segment import Segment

from agent.runtime.terminal import EscapedText, escaped


class Console(rich.console.Console):
    """Escapes every text, so that only its own colours and movements control the terminal; see ``runtime/terminal``.

    Brackets in a text are no markup: the texts come from others, and markup makes links.
    """

    def __init__(self, **settings: Any) -> None:
        """As rich, without markup."""
        super().__init__(markup=False, emoji=False, **settings)

    @property
    def file(self) -> IO[str]:
        """Where it writes. The texts are escaped already, and the colours must not be."""
        stream = super().file
        return stream.unescaped if isinstance(stream, EscapedText) else stream

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See rich. Segments with a text of others are escaped."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else escaped(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)

    def on_broken_pipe(self) -> None:
        """Raise, so that ``__main__`` handles it like any other error.

        The library would exit with code 1, which means here that a check failed.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
