"""Listens for the clients of the camera."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from agent.runtime.errors import Unavailable
from agent.runtime.threads import StageThread
from agent.tools.clip_camera.clip import Clip
from agent.tools.clip_camera.session import PATH, Session

MAX_CLIENTS = 16
_LOOK_S = 0.2
_STOP_S = 7.0
"""Above the time after which a stalled client is let go."""


class ClipServer:
    """Serves a clip at ``url`` to up to 16 clients, each from the clip's start, in its own thread.

    ``on_frame`` is called by the client's thread before each frame is sent, with the frame's time in the stream in
    seconds. Listens from ``__enter__`` to ``__exit__``; ``serve`` accepts clients on the calling thread.
    """

    def __init__(self, clip: Clip, host: str, port: int, *, on_frame: Callable[[float], None] | None = None) -> None:
        self._clip, self._host, self._port, self._on_frame = clip, host, port, on_frame
        self._stop = threading.Event()
        self._listener: socket.socket | None = None
        self._clients: list[tuple[StageThread, socket.socket]] = []

    @property
    def url(self) -> str:
        """The camera's address; with the port that was found where 0 was given."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        port = self._port if self._listener is None else self._listener.getsockname()[1]
        return f"rtsp://{host}:{port}{PATH}"

    def __enter__(self) -> ClipServer:
        """Raises Unavailable where nothing can listen at the address."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            self._listener = socket.create_server((self._host, self._port), family=family)
        except OSError as exc:
            why = (
                os.strerror(exc.errno) if exc.errno and exc.errno in errno.errorcode else str(exc)
            )  # a name may have no number
            raise Unavailable(
                f"the camera cannot listen at {self._host}:{self._port}: {why}; "
                f"give another address, such as --listen 127.0.0.1:{self._port % 65535 + 1}"
            ) from exc
        self._listener.settimeout(_LOOK_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._listener is not None:
            self._listener.close()
        for _, connection in self._clients:
            with suppress(OSError):  # it has left
                connection.shutdown(socket.SHUT_RDWR)
        deadline_s = time.monotonic() + _STOP_S
        for thread, connection in self._clients:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            connection.close()

    def serve(self, for_s: float | None = None) -> None:
        """Accept clients for ``for_s`` seconds, until the block ends on another thread, or until an exception ends it.

        Raises:
            Exception: what ended a client's thread other than the client.
        """
        end_s = float("inf") if for_s is None else time.monotonic() + for_s
        while time.monotonic() < end_s and not self._stop.is_set():
            self._end_clients_that_left()
            connection = self._accepted()
            if connection is None:
                continue
            if len(self._clients) >= MAX_CLIENTS:
                connection.close()
                continue
            session = Session(connection, self._clip, self._stop, on_frame=self._on_frame)
            thread = StageThread("rtsp-client", session.run)
            thread.start()
            self._clients.append((thread, connection))

    def _accepted(self) -> socket.socket | None:
        if self._listener is None:
            raise RuntimeError("serve needs the server to be entered")
        try:
            return self._listener.accept()[0]
        except OSError as exc:
            if isinstance(exc, TimeoutError) or self._stop.is_set():
                return None
            raise

    def _end_clients_that_left(self) -> None:
        for thread, connection in [one for one in self._clients if not one[0].is_alive]:
            connection.close()
            self._clients.remove((thread, connection))
            if thread.failure is not None:
                raise thread.failure
