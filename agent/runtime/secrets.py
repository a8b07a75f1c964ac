"""Passwords and addresses that hold them: read from files, masked everywhere by their exact value."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import urllib.parse
import weakref
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import NoReturn, final

from agent.runtime.errors import ConfigError

MASK = "***"
MIN_CHARS = 8
"""A shorter secret is part of ordinary words, so it is masked only where it stands alone."""
_MIN_REPLACED = 4

_USER_INFO = re.compile(
    r"""([A-Za-z][A-Za-z0-9+.-]{0,15}://)  # scheme
        (?: [^\s/@:"']*:[^\s"']*           # user:password, where the password may hold / and @
          | [^\s/@"']* )                   # user alone
        @""",
    re.VERBOSE,
)
_PARAMETER = re.compile(r"(?i)\b(password|passwd|pwd|passphrase|token|secret|api_?key|signature|sig)=[^&\s\"']+")

_PROPERTY = re.compile(r"\b(?:user-pw|pass|psw)\s*=\s*[^\s&]")

_live: set[weakref.ref[Secret]] = set()
"""Only added to, discarded from and copied, each in one step under the interpreter's lock: secrets come and go on any
thread. A WeakSet removes in two steps, so a thread that logs could meet a changed set. A lock would not do either: the
garbage collector may end a secret in the thread that holds it."""


@final
class Secret:
    """A password, or an address that may hold one, whose text only ``reveal`` returns.

    ``redact`` knows every living secret, because a library may repeat one in an error message that reaches a log. It
    writes ``shown`` instead.
    """

    __slots__ = ("__weakref__", "_value", "shown", "spellings")

    def __init__(self, value: str, *, shown: str = MASK) -> None:
        self._value = value
        self.shown = shown
        # As repr and JSON write it too: an error may quote the text that it is about.
        self.spellings = {value, urllib.parse.quote(value, safe=""), repr(value)[1:-1], json.dumps(value)[1:-1]}
        _live.add(weakref.ref(self, _live.discard))

    def reveal(self) -> str:
        """The secret itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.shown!r})"

    def __str__(self) -> str:
        return self.shown

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not leave its process")


def _spellings() -> Iterator[tuple[str, str]]:
    """Each way to write a living secret, and what is shown instead."""
    for reference in _live.copy():
        secret = reference()
        if secret is not None and len(secret.reveal()) >= _MIN_REPLACED:
            yield from ((spelling, secret.shown) for spelling in secret.spellings)


def redact(text: str) -> str:
    """``text`` with every secret of this process masked, by its exact value.

    Beside that, credentials in URLs and ``password=`` parameters that are no known secret are masked by pattern: a
    second line for texts of others. What must not appear is made a ``Secret``, or is not written at all.
    """
    for spelling, shown in sorted(_spellings(), key=lambda each: len(each[0]), reverse=True):
        if spelling in text:
            text = masked(text, spelling, shown)
    if "://" in text:
        text = _USER_INFO.sub(rf"\g<1>{MASK}@", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\g<1>={MASK}", text)
    return text


def masked(text: str, secret: str, shown: str = MASK) -> str:
    """``text`` with ``secret`` replaced: everywhere, or where it stands alone if it is shorter than ``MIN_CHARS``."""
    if len(secret) >= MIN_CHARS:
        return text.replace(secret, shown)
    alone = rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])"
    return re.sub(alone, lambda _: shown, text)


def seems_to_hold_a_password(text: str) -> bool:
    """Whether ``text`` has credentials in one of the usual forms. For advice only: there are more forms."""
    return any(pattern.search(text) for pattern in (_USER_INFO, _PARAMETER, _PROPERTY))


class SecretKind(Enum):
    """What a file holds on its first line: its name in messages, and the most bytes it may have.

    ``MQTT_PASSWORD``: MQTT carries 65,535 bytes (version 5.0, section 1.5.6), enough for a JSON Web Token.
    ``KEY_PASSWORD``: Python passes at most 1,023 bytes to OpenSSL. ``PROXY_PASSWORD``: SOCKS5 carries 255 bytes (RFC
    1929). ``HEADER``: what web servers usually accept. ``TOKENS``: all lines, for some hundred clients.
    ``KEY``: a private key, PEM, which has some kilobytes.
    """

    PASSWORD = ("password", 4096)
    MQTT_PASSWORD = ("password", 65535)
    KEY_PASSWORD = ("key password", 1023)
    PROXY_PASSWORD = ("proxy password", 255)
    HEADER = ("header", 8192)
    TOKENS = ("tokens", 65536)
    KEY = ("key", 65536)

    def __init__(self, noun: str, max_bytes: int) -> None:
        self.noun = noun
        self.max_bytes = max_bytes


_LINE_ENDS = 2


def read_secret(path: Path, kind: SecretKind = SecretKind.PASSWORD) -> Secret:
    """The first line of the file, which holds nothing else.

    Raises:
        ConfigError: it cannot be read, is empty, or other users of the machine can read it.
    """
    return _secret_from_bytes(_content_of(path, kind), path, kind)


def read_secret_bytes(path: Path, kind: SecretKind) -> bytes:
    """The whole content of a file that holds secrets of ``kind``.

    Raises:
        ConfigError: it cannot be read, is too large, or other users of the machine can read it.
    """
    content = _content_of(path, kind)
    if len(content) > kind.max_bytes:
        raise ConfigError(
            f"the {kind.noun} file {path} has more than {kind.max_bytes} bytes. Name the right file",
            file=str(path),
        )
    return content


def _content_of(path: Path, kind: SecretKind) -> bytes:
    """The start of the file: more than ``kind.max_bytes`` where it is larger."""
    try:
        # O_NONBLOCK: a named pipe without a writer would block the start for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise ConfigError(
            f"the {kind.noun} file {path} cannot be opened: {exc.strerror}. It must be readable by user number "
            f"{os.geteuid()}, who runs the agent, and by nobody else but its group (mode 600 or 640)",
            file=str(path),
        ) from exc
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(
                f"the {kind.noun} file {path} is a folder, pipe or device, but a regular file is needed. Name one",
                file=str(path),
            )
        if status.st_mode & stat.S_IRWXO:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(
                f"the {kind.noun} file {path} has mode {mode:o}, so every user of this machine can reach it. "
                f"Run: chmod o= {path}",
                file=str(path),
                mode=f"{mode:o}",
            )
        return _read(fd, kind.max_bytes + _LINE_ENDS + 1)
    except OSError as exc:
        raise ConfigError(
            f"the {kind.noun} file {path} cannot be read: {exc.strerror}. Check its disk", file=str(path)
        ) from exc
    finally:
        os.close(fd)


def _read(fd: int, max_bytes: int) -> bytes:
    content = b""
    while len(content) < max_bytes and (more := os.read(fd, max_bytes - len(content))):
        content += more
    return content


def _secret_from_bytes(content: bytes, path: Path, kind: SecretKind) -> Secret:
    if len(content.rstrip(b"\r\n")) > kind.max_bytes or len(content) > kind.max_bytes + _LINE_ENDS:
        raise ConfigError(
            f"the {kind.noun} file {path} is larger than {kind.max_bytes} bytes. It holds one line, the {kind.noun}",
            file=str(path),
        )
    if content.startswith(codecs.BOM_UTF8):
        raise ConfigError(
            f"the {kind.noun} file {path} starts with a byte order mark, which would be part of the {kind.noun}: "
            "save it without one, as plain UTF-8",
            file=str(path),
        )
    line = content.split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise ConfigError(
            f"the first line of the {kind.noun} file {path} is empty. Put the {kind.noun} there", file=str(path)
        )
    try:
        return Secret(line.decode("utf-8"))
    except UnicodeDecodeError:
        # Without the exception, which holds the bytes.
        raise ConfigError(f"the {kind.noun} file {path} is not UTF-8 text. Save it as UTF-8", file=str(path)) from None
