"""The options of the engine ``triton``: names, kinds and ranges."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from engines.errors import EngineUnavailable, OptionsRejected
from engines.store.files import read_regular

# HOST:PORT, where the host is a name, an IPv4 address, or an IPv6 address in brackets.
_URL = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65535
# What Triton and this agent take as a model's name and version; neither may change the path of a request.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_VERSION = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_PROTOCOLS = ("http", "grpc")
_TIMEOUT_MS = (10, 60000)
_TOKEN = re.compile(rb"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """Checked options.

    ``url``: HOST:PORT. ``model``: its name there, ``version`` too; without one the server chooses. ``timeout_ms``: one
    call, with a new connection if it needs one. ``tls``: encrypt, and check the certificate against the system's
    authorities or those in ``ca_file``. ``token_file``: a file with the bearer token, read at each opening.
    """

    url: str
    model: str
    version: str = ""
    protocol: str = "http"
    timeout_ms: int = 1000
    tls: bool = False
    ca_file: str = ""
    token_file: str = ""

    @property
    def host(self) -> str:
        """The name or address, without brackets."""
        return self.url.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.url.rpartition(":")[2])

    @property
    def timeout_s(self) -> float:
        """The time limit of one call."""
        return self.timeout_ms / 1e3

    def token(self) -> str | None:
        """Read the token; None without ``token_file``.

        Raises:
            EngineUnavailable: the file cannot be read, or holds no token. The text is never part of the message.
        """
        if not self.token_file:
            return None
        try:
            content = read_regular(Path(self.token_file), max_bytes=8192).strip()
        except (OSError, ValueError) as exc:
            raise self._no_token(f"it cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
        if not _TOKEN.fullmatch(content):
            raise self._no_token("it does not hold one line of printable ASCII without spaces")
        return content.decode("ascii")

    def _no_token(self, reason: str) -> EngineUnavailable:
        remedy = "write the server's token into it, readable by this user"
        return EngineUnavailable(
            f"engine triton needs the token in {self.token_file}, but {reason}. To get it, {remedy}",
            engine="triton",
            reason=f"token_file {self.token_file}: {reason}",
            remedy=remedy,
        )


OPTION_NAMES = frozenset(field.name for field in fields(RemoteOptions))


def remote_options(given: Mapping[str, object]) -> RemoteOptions:
    """Check the options of the configuration.

    Raises:
        OptionsRejected: one that does not exist or is missing, or a value of the wrong kind or out of range.
    """
    for name, value in given.items():
        if name not in OPTION_NAMES:
            near = difflib.get_close_matches(name, OPTION_NAMES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise _rejected(name, f"has no option {name!r}: {hint}It has {', '.join(sorted(OPTION_NAMES))}")
        wanted = _wanted(name, value)
        if wanted is not None:
            raise _rejected(name, f"has {name} {value!r}, but wanted is {wanted}. Correct it under options")
    for name in ("url", "model"):
        if name not in given:
            raise _rejected(name, f"needs the option {name}, but it is not given. Add it under options: {_EXAMPLES}")
    options = RemoteOptions(**dict(given))  # type: ignore[arg-type]  # each value was checked above
    if options.ca_file and not options.tls:
        raise _rejected("ca_file", "has a ca_file, but tls is false. Set tls: true, or remove ca_file")
    return options


_EXAMPLES = "url: 192.168.1.20:8000, model: NAME"


def _wanted(name: str, value: object) -> str | None:
    """Return what the option takes; None if ``value`` is valid."""
    if name == "tls":
        return None if isinstance(value, bool) else "true or false"
    if name == "timeout_ms":
        low, high = _TIMEOUT_MS
        is_right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if is_right else f"a whole number of milliseconds from {low} to {high}"
    if not isinstance(value, str):
        return "text (in quotes)"
    return _wanted_text(name, value)


def _wanted_text(name: str, value: str) -> str | None:
    if name == "url":
        found = _URL.fullmatch(value)
        is_right = found is not None and 1 <= int(found["port"]) <= _MAX_PORT
        return None if is_right else "HOST:PORT, without a scheme and a path"
    if name == "protocol":
        return None if value in _PROTOCOLS else " or ".join(_PROTOCOLS)
    if name in ("model", "version"):
        pattern = _NAME if name == "model" else _VERSION
        return None if pattern.fullmatch(value) else "letters, digits, '.', '_' and '-', not first a '.'"
    return None if Path(value).is_absolute() else "the absolute path of a file"


def _rejected(option: str, fault: str) -> OptionsRejected:
    return OptionsRejected(f"engine triton {fault}", engine="triton", option=option)
