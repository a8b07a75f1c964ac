"""The files of a form (`multipart/form-data`), from a body that is in memory.

Starlette's parser is for streams: it writes to temporary files, which it leaves open after a damaged form, and takes a
form that ends in the middle of a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from agent.web.served_models import BadInput

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 64


def files_of_form(body: bytes, content_type: str, name: str) -> list[bytes]:
    """The content of each file in the field ``name``; other fields are skipped.

    Raises:
        BadInput: the form is damaged, incomplete, or has more than 64 parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadInput("the content type of the form has no boundary; let the client write it")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise BadInput(f"the form cannot be read: {exc}") from exc
    if not parts.has_ended:
        raise BadInput("the form ends before its last boundary; send it again, whole")
    return [bytes(part.data) for part in parts.all if part.name == name.encode() and part.is_file]


@dataclass(slots=True)
class _Part:
    name: bytes = b""
    is_file: bool = False
    data: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Parts:
    """Collects what the parser reports."""

    all: list[_Part] = field(default_factory=list)
    has_ended: bool = False
    _header: bytes = b""
    _value: bytes = b""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._add_data,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.all) >= _MAX_PARTS:
            raise BadInput(f"the form has more than {_MAX_PARTS} parts; send fewer")
        self.all.append(_Part())

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self.all[-1].data += data[start:end]

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self.all[-1].name, self.all[-1].is_file = options.get(b"name", b""), b"filename" in options
        self._header = self._value = b""

    def _end(self) -> None:
        self.has_ended = True
