"""Answers and errors of the HTTP face."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import orjson

from agent.web.served_models import (
    BadInput,
    EngineFailed,
    LoadFailed,
    QueueFull,
    RequestRefused,
    UnknownModel,
)
from agent.web.tokens import TooManyRequests, Unauthorized

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

JSON = b"application/json"
_SAFE: Headers = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_UNAVAILABLE = 503
_STATUS: tuple[tuple[type[RequestRefused], int], ...] = (
    (BadInput, 400),
    (Unauthorized, 401),
    (UnknownModel, 404),
    (QueueFull, 429),
    (TooManyRequests, 429),
    (EngineFailed, 500),
    (LoadFailed, 500),
)
"""Of each error, as Triton's HTTP server answers it; 429 instead of its 503 for a full queue. Others are 503.
Source: Triton Inference Server, src/http_server.cc, HttpCodeFromError."""


class Refusal(RequestRefused):
    """A call that HTTP has a status of its own for, such as 413."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, status=status)
        self.status = status
        self.headers = dict(headers or {})


class ClientGone(Exception):
    """The client closed its connection: there is nobody to answer."""


async def reply(
    send: Send, body: bytes, *, status: int = 200, content_type: bytes = JSON, headers: Headers = ()
) -> None:
    """Send a whole response."""
    sent = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        *_SAFE,
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


async def reply_json(send: Send, value: object, *, status: int = 200, headers: Headers = ()) -> None:
    """Send ``value`` as JSON."""
    await reply(send, orjson.dumps(value), status=status, headers=headers)


async def reply_error(send: Send, error: RequestRefused) -> None:
    """Send ``error`` in the form of the protocol: `{"error": "what happened"}`."""
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, QueueFull | TooManyRequests):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, Refusal):
        headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await reply_json(send, {"error": error.message}, status=status_of(error), headers=headers)


def status_of(error: RequestRefused) -> int:
    """The HTTP status of ``error``."""
    if isinstance(error, Refusal):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _UNAVAILABLE)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that lower-case name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
