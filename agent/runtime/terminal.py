r"""What is written for people cannot control their terminal: one place for every output of the program.

A message of a broker, a label, a file name, a node of a model or a JSON key may hold sequences that clear the screen,
fill the clipboard (OSC 52), or turn the direction of text. So standard output and standard error escape them, as
``\u001b``, which is right inside JSON, too. Colours of our own are written by ``agent.cli.io.console.Console`` and by
the log, past this, after they have escaped the texts themselves.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO, cast

# Cc but tab and line end; marks and overrides of direction (Unicode UAX 9); the line ends that only some programs see.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_UNSAFE_UTF8 = re.compile(
    rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]"
)


def escaped(text: str) -> str:
    """``text`` with each character that controls a terminal as ``\\u`` and its number; tab and line end stay."""
    return text if _UNSAFE.search(text) is None else _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escaped_json(line: bytes) -> bytes:
    """A JSON document in UTF-8 with the same characters escaped; its value stays the same."""
    return _UNSAFE_UTF8.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)


class EscapedText(io.TextIOWrapper):
    """A standard stream whose text is escaped. ``unescaped`` writes to the same place as it is."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """Share the buffer of ``stream``, which is kept: it would close the buffer at its end."""
        self._below = stream
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=True,
        )

    def write(self, text: str) -> int:
        """Write ``text`` escaped."""
        super().write(escaped(text))
        return len(text)

    @property
    def unescaped(self) -> TextIO:
        """For text that is escaped already, and has colours."""
        return cast("TextIO", _Unescaped(self))

    def write_unescaped(self, text: str) -> int:
        """Write ``text`` as it is."""
        return super().write(text)


class _Unescaped:
    """The stream without escaping; everything but ``write`` is that of the stream."""

    def __init__(self, stream: EscapedText) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` as it is."""
        return self._stream.write_unescaped(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def escape_standard_streams() -> None:
    """From now on standard output and standard error are escaped; harmless when repeated.

    Standard error that goes to the journal is not: no terminal reads it, and ``journalctl`` escapes what it shows.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            setattr(sys, name, EscapedText(stream))


def unescaped(stream: TextIO) -> TextIO:
    """``stream`` for text that is escaped already."""
    return stream.unescaped if isinstance(stream, EscapedText) else stream
