"""The port, the threads and the TLS of the gRPC server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from agent.config.sections.serve import ServeConfig
from agent.runtime.errors import Unavailable
from agent.web.grpc.calls import InferenceCalls

_MIB = 1 << 20
_CALLS = 32
"""Calls at the same time, each on a thread; a stream is one call for as long as it is open."""
_IDLE_MS = 300_000
_STOP_S = 0.5


class GrpcListener:
    """A gRPC server on ``config.grpc``. ``certificate``: key and certificate chain, PEM; None without TLS.

    It listens from the start of its life, and answers from ``start`` on. It may share its port with the server that it
    replaces, so a reload leaves no gap; the caller has made sure that no other program has it.
    """

    def __init__(self, calls: InferenceCalls, config: ServeConfig, *, certificate: tuple[bytes, bytes] | None) -> None:
        """Raises Unavailable if the address cannot be used."""
        address = config.grpc or ""
        self._pool = ThreadPoolExecutor(_CALLS, thread_name_prefix="serve-grpc")
        self._server: Any = grpc.server(
            self._pool,
            handlers=[calls],
            # Beyond it a call is refused at once with RESOURCE_EXHAUSTED, and does not wait for a thread.
            maximum_concurrent_rpcs=_CALLS,
            options=(
                ("grpc.max_receive_message_length", config.max_body_mib * _MIB),
                ("grpc.max_concurrent_streams", _CALLS),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                ("grpc.max_allowed_incoming_connections", config.max_connections),
                ("grpc.server_handshake_timeout_ms", round(config.read_timeout_s * 1000)),
                ("grpc.so_reuseport", 1),
            ),
        )
        self._stopped: threading.Event | None = None
        try:
            self.port: int = self._listen(address, certificate)
        except RuntimeError as exc:
            self._pool.shutdown()
            raise Unavailable(
                f"serve.grpc: the server cannot listen on {address}; end the other program, or name another address"
            ) from exc

    def start(self) -> None:
        """Start to answer."""
        self._server.start()

    def stop(self) -> None:
        """Take no further call, and cancel those that run after a moment; does not wait."""
        self._stopped = self._server.stop(_STOP_S)

    def join(self, timeout_s: float) -> bool:
        """Wait for the calls that run; False if one is still at work after ``timeout_s``."""
        has_ended = self._stopped is None or self._stopped.wait(timeout_s)
        self._pool.shutdown(wait=has_ended, cancel_futures=True)
        return has_ended

    def _listen(self, address: str, certificate: tuple[bytes, bytes] | None) -> int:
        if certificate is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([certificate])))
