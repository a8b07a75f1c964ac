"""The socket and the thread of the HTTP server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from functools import partial

import uvicorn
import uvloop  # noqa: F401 - uvicorn imports it by name and late, on its thread, where a fault would end the agent

from agent.config.sections.serve import ServeConfig, split_address
from agent.runtime.errors import Unavailable
from agent.runtime.threads import StageThread
from agent.web.http.app import HttpApp
from agent.web.http.connection import LimitedProtocol, limited_protocol

_BACKLOG = 128
_IDLE_S = 60
"""How long a client may keep a connection without a request."""
_DRAIN_S = 1
_STOP_S = 1.5


def bind(address: str, key: str) -> socket.socket:
    """A listening socket of ``address``, which ``serve.KEY`` names.

    Raises:
        Unavailable: the address is in use, or not of this machine.
    """
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise Unavailable(f"serve.{key}: {address} cannot be used: {exc.strerror}; name another address") from exc
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        raise Unavailable(
            f"serve.{key}: the server cannot listen on {address}: {exc.strerror}; end the other program, or name "
            "another address"
        ) from exc
    return listening


class _Server(uvicorn.Server):
    """Gives a TLS handshake as long as a head; when it stops, it does not wait for requests that still arrive."""

    def __init__(self, config: uvicorn.Config, protocol: type[LimitedProtocol]) -> None:
        super().__init__(config)
        self._protocol = protocol

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn, which gives a handshake a minute: until its end the limits of the protocol do not count."""
        config, loop = self.config, asyncio.get_running_loop()
        state, app_state = self.server_state, self.lifespan.state
        self.servers = [
            await loop.create_server(
                partial(self._protocol, config=config, server_state=state, app_state=app_state),
                sock=listening,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=None if config.ssl is None else self._protocol.read_timeout_s,
            )
            for listening in sockets or ()
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.end_unless_whole()
        await super().shutdown(sockets)


class HttpListener:
    """Runs uvicorn on the thread ``serve-http``. ``listening`` stays the caller's.

    ``app`` is made by the caller, on whose limits ``config`` has the rest.
    """

    def __init__(
        self, app: HttpApp, config: ServeConfig, listening: socket.socket, *, tls: ssl.SSLContext | None
    ) -> None:
        # A socket of its own: uvicorn closes it, and a reload listens on the other one without a gap.
        self._socket = listening.dup()
        protocol = limited_protocol(read_timeout_s=config.read_timeout_s, max_connections=config.max_connections)
        settings = uvicorn.Config(
            app,
            http=protocol,
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        settings.load()
        settings.ssl = tls
        self._server = _Server(settings, protocol)
        self._thread = StageThread("serve-http", self._main)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further connection, and end those that are open; does not wait."""
        self._server.should_exit = True

    def join(self, timeout_s: float = _STOP_S) -> bool:
        """Wait for the thread; False if it still runs after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        if self._thread.join(timeout_s):
            self._socket.close()
            return True
        self._server.force_exit = True
        return self._thread.join(max(0.1, deadline_s - time.monotonic()))

    @property
    def failure(self) -> Exception | None:
        """The exception that ended the thread."""
        return self._thread.failure

    def _main(self) -> None:
        self._server.run(sockets=[self._socket])
