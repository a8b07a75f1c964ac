"""Connections that never become one: they end in time, and a client fills neither the server nor its log with them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from engines import PROTOCOL_SERVICE
from tests.fixtures import grpc_core  # noqa: F401 it keeps gRPC alive
from tests.fixtures.certificates import Authority
from tests.fixtures.serving import serving

_PATIENCE_S = 20.0
_AT_ONCE = {
    "ModelInfer": grpc.StatusCode.UNAUTHENTICATED,
    "ServerLive": b"\x08\x01",
    "Nothing": grpc.StatusCode.UNIMPLEMENTED,
    "TraceSetting": grpc.StatusCode.UNIMPLEMENTED,
}
_GRPC = """
import socket, sys
from agent.config.sections.serve import ServeConfig
from agent.web.grpc.calls import InferenceCalls
from agent.web.grpc.listener import GrpcListener

key, chain = (open(path, "rb").read() for path in sys.argv[1:])
config = ServeConfig(grpc="127.0.0.1:0", read_timeout_s=0.3)
listener = GrpcListener(InferenceCalls(None, None, None), config, certificate=(key, chain))
listener.start()
for sent in (b"GET / HTTP/1.1\\r\\n\\r\\n", b""):
    with socket.create_connection(("127.0.0.1", listener.port), timeout=20.0) as client:
        client.sendall(sent)
        while client.recv(4096):
            pass
listener.stop()
listener.join(5.0)
print("closed both")
"""


def _tls(directory: Path) -> dict[str, str]:
    made = Authority(directory / "tls").server("localhost")
    made.key.chmod(0o600)
    return {"cert_file": str(made.certificate), "key_file": str(made.key)}


def test_a_tls_connection_without_a_handshake_ends_in_time_over_http(tmp_path: Path) -> None:
    with (
        serving(tmp_path, read_timeout_s=0.3, tls=_tls(tmp_path)) as server,
        socket.create_connection((server.host, server.port), timeout=_PATIENCE_S) as silent,
        suppress(ConnectionError),
    ):
        assert silent.recv(1) == b""


def test_a_tls_connection_without_a_handshake_ends_in_time_over_grpc_and_fills_no_log(tmp_path: Path) -> None:
    tls = _tls(tmp_path)
    program = [sys.executable, "-c", _GRPC, tls["key_file"], tls["cert_file"]]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60.0, check=False)
    assert (ended.stdout, ended.stderr) == ("closed both\n", "")


def test_calls_without_a_token_and_a_message_hold_no_thread(tmp_path: Path) -> None:
    """Each would count for as long as it likes as one of the calls that may run."""
    tokens, sends = tmp_path / "tokens", threading.Event()
    tokens.write_text(f"press {'t' * 32}\n")
    tokens.chmod(0o600)

    def silence() -> Iterator[bytes]:
        sends.wait(_PATIENCE_S)
        yield b""

    with serving(tmp_path, grpc="127.0.0.1:0", tokens_file=str(tokens)) as server:
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(server.service.grpc_address or "", options=options) as channel:
            try:
                for name in ("ModelInfer", "ServerLive", "Nothing", "TraceSetting"):
                    call: Any = channel.stream_unary(f"{PROTOCOL_SERVICE}/{name}")
                    answers = [call.future(silence(), timeout=_PATIENCE_S) for _ in range(10)]
                    ended = [one.exception(_PATIENCE_S / 2) for one in answers]
                    said = {
                        one.result() if error is None else error.code()
                        for one, error in zip(answers, ended, strict=True)
                    }
                    assert said == {_AT_ONCE[name]}, name
            finally:
                sends.set()


def test_surplus_connections_are_closed_over_grpc_too(tmp_path: Path) -> None:
    with serving(tmp_path, grpc="127.0.0.1:0", max_connections=2) as server, ExitStack() as resources:
        address = server.service.grpc_address or ""

        def live() -> bytes:
            channel = grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
            resources.callback(channel.close)
            call: Any = channel.unary_unary(f"{PROTOCOL_SERVICE}/ServerLive")
            answer: bytes = call(b"", timeout=_PATIENCE_S)
            return answer

        assert live() == live() == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as refused:
            live()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
