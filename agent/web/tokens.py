"""Who may call: tokens from a file, and how often each client may do so."""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.config.sections.base import NAME
from agent.inference.requests.queue import RequestRefused
from agent.inference.requests.statistics import FailureReason
from agent.runtime.errors import ConfigError
from agent.runtime.secrets import Secret, SecretKind, read_secret_bytes

ANYBODY = "anybody"
"""Who calls where no token is required."""
_MIN_CHARS, _MAX_CHARS = 16, 512
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")
_BEARER = "bearer "


class Unauthorized(RequestRefused):
    """The call has no token, or an unknown one."""


class TooManyRequests(RequestRefused):
    """The client calls more often than it may; ``retry_after_s`` is at least 1."""

    reason = FailureReason.REJECTED

    def __init__(self, message: str, *, retry_after_s: int, **fields: object) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **fields)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Tokens:
    """Clients by the sha256 of their token. ``secrets`` keeps the tokens themselves out of every log."""

    clients: Mapping[bytes, str]
    secrets: tuple[Secret, ...]


def read_tokens(path: Path) -> Tokens:
    """The file's tokens: a line `NAME TOKEN` for each client; empty lines and lines that start with # are skipped.

    Raises:
        ConfigError: it cannot be read, other users of the machine can read it, or a line is wrong.
    """
    clients: dict[bytes, str] = {}
    secrets: list[Secret] = []
    try:
        text = read_secret_bytes(path, SecretKind.TOKENS).decode("ascii")
    except UnicodeDecodeError:
        # Without the exception, which holds the bytes.
        raise ConfigError(
            f"the tokens file {path} is not ASCII text. Names and tokens have ASCII letters, digits and signs only",
            file=str(path),
        ) from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, token = _parsed(line, f"{path}:{number}")
            digest = digest_of(token)
            if name in clients.values() or digest in clients:
                raise ConfigError(f"{path}:{number}: the name or the token is there twice; give each client its own")
            clients[digest] = name
            secrets.append(Secret(token))
    if not clients:
        raise ConfigError(f"the tokens file {path} holds no token; add a line: NAME TOKEN", file=str(path))
    return Tokens(clients, tuple(secrets))


def _parsed(line: str, place: str) -> tuple[str, str]:
    words = line.split()
    if len(words) != 2:
        raise ConfigError(f"{place}: has {len(words)} words, but a line is NAME TOKEN; correct it")
    name, token = words
    if re.match(NAME, name) is None:
        raise ConfigError(f"{place}: the first word is no name; use lower-case letters, digits, - _ and .")
    if not _MIN_CHARS <= len(token) <= _MAX_CHARS or _TOKEN.match(token) is None:
        raise ConfigError(
            f"{place}: the token of {name} has {len(token)} characters, but it must have {_MIN_CHARS} to "
            f"{_MAX_CHARS} printable ones; make one with: openssl rand -hex 32"
        )
    return name, token


def digest_of(token: str) -> bytes:
    """What a token, or the cookie of a session, is known by: its SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Gate:
    """Admits calls: by token where there are ``tokens``, and at most ``max_per_s`` of each client. From any thread.

    A client may save up the calls of one second.
    """

    def __init__(
        self, tokens: Tokens | None, *, max_per_s: float | None, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._tokens = tokens
        self._max_per_s = max_per_s
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._saved: dict[str, tuple[float, int]] = {}

    @property
    def needs_tokens(self) -> bool:
        """Whether a call without a token is refused."""
        return self._tokens is not None

    def admit(self, authorization: str | None) -> str:
        """The name of the client that calls with this `Authorization`, such as `Bearer TOKEN`.

        Raises:
            Unauthorized: no token, or an unknown one.
            TooManyRequests: it called too often.
        """
        client = self._client(authorization)
        if self._max_per_s is not None:
            self._count(client, self._max_per_s)
        return client

    def _client(self, authorization: str | None) -> str:
        if self._tokens is None:
            return ANYBODY
        given = authorization or ""
        if given[: len(_BEARER)].lower() != _BEARER:
            raise Unauthorized("the call has no token, but this server requires one: send Authorization: Bearer TOKEN")
        # By its hash, so that the time of the look-up tells nothing about the tokens.
        client = self._tokens.clients.get(digest_of(given[len(_BEARER) :].strip()))
        if client is None:
            raise Unauthorized("the token is unknown to this server; take one of its tokens file")
        return client

    def _count(self, client: str, max_per_s: float) -> None:
        most = max(1.0, max_per_s)
        with self._lock:
            now_ns = self._now_ns()
            saved, at_ns = self._saved.get(client, (most, now_ns))
            saved = min(most, saved + (now_ns - at_ns) / 1e9 * max_per_s)
            is_admitted = saved >= 1.0
            self._saved[client] = (saved - is_admitted, now_ns)
        if not is_admitted:
            raise TooManyRequests(
                f"client {client} sends more than {max_per_s:g} requests a second; send fewer",
                retry_after_s=max(1, math.ceil((1.0 - saved) / max_per_s)),
                client=client,
            )
