"""Requests that a proxy and this server could read in two ways, or that ask for another protocol, over raw sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.serving import Server, png, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("serving")) as running:
        yield running


_LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
_INDEX = b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
_UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("upgrade", [_UPGRADE, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_wish_for_another_protocol_is_ignored(server: Server, upgrade: bytes, is_chunked: bool) -> None:
    """As Java's client sends it with every first request, and `curl --http2`."""
    image = png(1)
    framing = b"Transfer-Encoding: chunked\r\n" if is_chunked else b"Content-Length: %d\r\n" % len(image)
    head = b"POST /v1/models/inspect:classify HTTP/1.1\r\nHost: localhost\r\n" + framing + upgrade + b"\r\n"
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(image), image) if is_chunked else image
    last = _LIVE + b"Connection: close\r\n\r\n"
    first = _LIVE + upgrade + b"\r\n"
    for parts in ((first + head + body + last,), (first, head, body[:20], body[20:], last)):
        answers = server.raw(*parts)
        assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 3
        assert b'"label":"dent"' in answers


@pytest.mark.parametrize(
    ("head", "status", "text"),
    [
        (_LIVE + b"Host: evil.example\r\n\r\n", b"400", b"has the header host twice"),
        (b"GET /v2/health/live HTTP/1.1\r\n\r\n", b"400", b"no header Host"),
        (b"GET /v2/health/live HTTP/1.1\r\nHost:\r\n\r\n", b"400", b"Host must be a name or an address"),
        (b"GET /v2/health/live HTTP/1.1\r\nHost: [::1\r\n\r\n", b"400", b"Host must be a name or an address"),
        (b"GET /v2/health/live HTTP/1.1\r\nHost: a@localhost\r\n\r\n", b"400", b"Host must be a name or an address"),
        (b"GET /v2/health/live HTTP/1.1\r\nHost: localhost:99999999\r\n\r\n", b"400", b"Host must be a name"),
        (b"GET http://evil.example/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400", b"name two servers"),
        (b"GET http://localhost@evil.example/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400", b"name two servers"),
        (_LIVE + b"Authorization: Bearer a\r\nAUTHORIZATION: Bearer b\r\n\r\n", b"400", b"authorization twice"),
        (_LIVE + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", b"400", b"Invalid HTTP request"),
        (_LIVE + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400", b"Invalid HTTP request"),
        (_LIVE + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", b"400", b"Invalid HTTP request"),
        (_LIVE + b"X: a\r\n b\r\n\r\n", b"400", b"Invalid HTTP request"),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400", b"Invalid HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400", b"Invalid HTTP request"),
        (
            _INDEX + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            b"415",
            b"the body is compressed",
        ),
    ],
)
def test_a_request_that_others_may_read_in_another_way_is_refused(
    server: Server, head: bytes, status: bytes, text: bytes
) -> None:
    answer = server.raw(head)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert text in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: [fe80::1%25eth0]:8000\r\nConnection: close\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: edge_board-1.local:\r\nConnection: close\r\n\r\n",
        b"GET http://LocalHost:8000/v2/health/live HTTP/1.1\r\nHost: localhost:8000\r\nConnection: close\r\n\r\n",
    ],
)
def test_every_host_that_the_rules_allow_is_taken(server: Server, head: bytes) -> None:
    assert server.raw(head).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_never_ends_gets_one_answer_alone(tmp_path: Path) -> None:
    """A second one would be taken for that of the next request by a proxy that keeps the connection."""
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with serving(tmp_path, read_timeout_s=0.3) as server:
        answer = server.raw(head)
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"POST /v1/models/inspect:classify", b"413"), (b"POST /nothing", b"404"), (b"PUT /v2", b"405")],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_refused_body_is_read_to_its_end_before_the_connection_is_closed(
    server: Server, line: bytes, status: bytes, version: bytes
) -> None:
    """A client that sends all of it first, as urllib does, would see a reset connection instead of the reason."""
    size = 24 << 20
    head = b"%s HTTP/%s\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=20) as client:
        client.sendall(head % (line, version, size))
        for _ in range(24):
            client.sendall(bytes(1 << 20))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1 ") == 1
