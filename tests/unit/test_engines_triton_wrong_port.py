"""What answers at the address of a remote engine, but is no server of its protocol, is named with what to do."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from engines import EngineOptions, EngineUnavailable
from engines.backends.triton.engine import open_triton
from tests.fixtures.certificates import Authority
from tests.fixtures.parts import plain_package

PACKAGE = plain_package("a", "b")


def _options(port: int, *, protocol: str = "http", tls: bool = True, ca_file: str = "") -> EngineOptions:
    given: dict[str, object] = {
        "url": f"127.0.0.1:{port}",
        "model": "m",
        "protocol": protocol,
        "timeout_ms": 5000,
        "tls": tls,
    }
    given |= {"ca_file": ca_file} if ca_file else {}
    return EngineOptions(cache_dir=Path("/nowhere"), engine="triton", max_batch=4, options=given)


_NO_TLS = "TLS with it failed: .*; set tls: false"


@pytest.mark.parametrize(
    ("said", "tls", "message"),
    [
        (
            b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
            False,
            "its answer is no HTTP; give its port of HTTP, or set protocol: grpc",
        ),
        (b"RTSP/1.0 400 Bad Request\r\n\r\n", False, "its answer is no HTTP"),
        (b"", False, r"closed the connection without an answer, as a server does that expects TLS \(tls: true\)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, _NO_TLS),
    ],
)
def test_what_answers_at_a_wrong_port_is_named(said: bytes, tls: bool, message: str) -> None:
    def answer() -> None:
        client, _ = listening.accept()
        with client:
            client.recv(65536)
            client.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10.0)
        server = threading.Thread(target=answer, name="server")
        server.start()
        with pytest.raises(EngineUnavailable, match=message) as caught:
            open_triton(PACKAGE, _options(listening.getsockname()[1], tls=tls))
        server.join(5.0)
    assert caught.value.message.isprintable()


def test_a_certificate_that_nobody_signed_is_refused_with_its_remedy(tmp_path: Path) -> None:
    made = Authority(tmp_path / "tls").server("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)

    def answer() -> None:
        client, _ = listening.accept()
        with client, suppress(OSError):
            context.wrap_socket(client, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10.0)
        server = threading.Thread(target=answer, name="server")
        server.start()
        with pytest.raises(
            EngineUnavailable, match=r"its certificate was refused: .*; name its authority with ca_file"
        ):
            open_triton(PACKAGE, _options(listening.getsockname()[1], tls=True))
        server.join(5.0)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_file_without_an_authority_is_refused_by_its_name(protocol: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(EngineUnavailable, match=r"ca_file .*ca.pem cannot be used"):
        open_triton(PACKAGE, _options(1, protocol=protocol, ca_file=str(file)))
