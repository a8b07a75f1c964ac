"""The servers of the trials: processes that can be taken away and brought back, and sockets that answer bytes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

_START_S = 20.0
_GST = Path(__file__).with_name("rtsp_gst.py")
SYSTEM_PYTHON = "/usr/bin/python3"
"""The Python that PyGObject is built for."""


class Server(Protocol):
    """Something that serves a camera."""

    def start(self) -> None:
        """Serve; returns once a client can connect."""

    def stop(self) -> None:
        """Be gone; a second call does nothing."""


class Process:
    """A program and what it starts. ``port`` None: it is ready at once."""

    def __init__(self, command: Sequence[str], port: int | None, host: str = "127.0.0.1") -> None:
        self._command, self._port, self._host = command, port, host
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """See Server."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            self._command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        deadline = time.monotonic() + _START_S
        while self._port is not None and not _listens(self._host, self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"this server does not start: {' '.join(self._command)}")
            time.sleep(0.02)

    def stop(self) -> None:
        """See Server."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class InProcess:
    """A server of the tests, a new one at each start."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._running: AbstractContextManager[object] | None = None

    def start(self) -> None:
        """See Server."""
        self._running = self._make()
        self._running.__enter__()

    def stop(self) -> None:
        """See Server."""
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = None


def again_and_again(command: Sequence[str]) -> list[str]:
    """The command for a program that ends after each client, such as ffmpeg when it listens."""
    return ["bash", "-c", 'while :; do "$@"; sleep 0.05; done', "again", *command]


def gst_rtsp(port: int, launch: str, *options: str) -> Process:
    """GStreamer's RTSP server."""
    host = "::1" if "::1" in options else "127.0.0.1"
    return Process([SYSTEM_PYTHON, str(_GST), "--port", str(port), "--launch", launch, *options], port, host)


def secret_file(folder: Path, text: str) -> str:
    """The name of a file with ``text`` for `password_file`."""
    path = folder / "password"
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path.name


def _listens(host: str, port: int) -> bool:
    """Whether the kernel's table has a listener: a connection would use up what a program serves once."""
    table = "/proc/net/tcp6" if ":" in host else "/proc/net/tcp"
    wanted = f":{port:04X}"
    lines = [line.split() for line in Path(table).read_text().splitlines()[1:]]
    return any(line[1].endswith(wanted) and line[3] == "0A" for line in lines)


@contextmanager
def answering(answer: Callable[[bytes], bytes], *, is_last: bool = True) -> Iterator[int]:
    """The port of a server that answers each request with ``answer``, and then closes if ``is_last``."""
    stopping = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(1.0)
            while not stopping.is_set():
                with suppress(TimeoutError):
                    request = connection.recv(4096)
                    if not request:
                        return
                    connection.sendall(answer(request))
                    if is_last:
                        return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def accept() -> None:
            while not stopping.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), name="answering-one", daemon=True).start()

        thread = threading.Thread(target=accept, name="answering", daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            stopping.set()
            thread.join(5.0)
