"""How old a camera's frames get beside requests, and beside clients that send a byte now and then."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field

from agent.runtime.statistics import percentiles
from agent.tools.benchmark.pipeline.subscriber import Recorder, arrivals_of
from scripts.performance.serving.contenders import Contender

REQUESTS_HZ = 40
SLOW_CLIENTS = 20
_BYTE_EVERY_S = 0.05
_SETTLE_S = 0.5


@dataclass(slots=True)
class Ages:
    """95th percentiles of the frames' age at a subscriber, ms, by window; ``sent`` requests were answered."""

    alone_ms: list[float] = field(default_factory=list)
    requests_ms: list[float] = field(default_factory=list)
    slow_ms: list[float] = field(default_factory=list)
    sent: int = 0


def measure(server: Contender, address: str, recorder: Recorder, *, rounds: int, seconds: float) -> Ages:
    """Windows of ``seconds``, in turns: the camera alone, beside 40 infers a second, beside 20 slow clients."""
    ages = Ages()

    def infer() -> None:
        server.infers["http"]()
        ages.sent += 1

    for _ in range(rounds):
        ages.alone_ms.append(_p95_ms(recorder, nullcontext(), seconds))
        ages.requests_ms.append(_p95_ms(recorder, _paced(infer), seconds))
        ages.slow_ms.append(_p95_ms(recorder, _slow_clients(address), seconds))
    return ages


def _p95_ms(recorder: Recorder, load: AbstractContextManager[None], seconds: float) -> float:
    with load:
        time.sleep(_SETTLE_S)
        recorder.take()
        time.sleep(seconds)
        found = arrivals_of(recorder.take())
    return percentiles([one.end_to_end_ms for one in found], (95,))[0] if found else float("nan")


@contextmanager
def _paced(infer: Callable[[], None]) -> Iterator[None]:
    """Call ``infer`` 40 times a second; what is late is not made up for."""

    def call(over: threading.Event) -> None:
        next_s = time.monotonic()
        while not over.wait(max(0.0, next_s - time.monotonic())):
            next_s = max(next_s + 1 / REQUESTS_HZ, time.monotonic())
            infer()

    with _thread(call):
        yield


@contextmanager
def _slow_clients(address: str) -> Iterator[None]:
    """Connections that send a request, one byte each 50 ms; a new one for each that the server closes."""
    host, _, port = address.rpartition(":")
    text = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 150000\r\n\r\n" + bytes(150_000)

    def crawl(over: threading.Event) -> None:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(closing(_Slow(host, int(port), text))) for _ in range(SLOW_CLIENTS)]
            while not over.wait(_BYTE_EVERY_S):
                for client in clients:
                    client.send_byte()

    with _thread(crawl):
        yield


class _Slow:
    def __init__(self, host: str, port: int, text: bytes) -> None:
        self._address, self._text = (host, port), text
        self._place = 0
        self._socket = socket.create_connection(self._address)

    def send_byte(self) -> None:
        try:
            self._socket.sendall(self._text[self._place : self._place + 1])
            self._place += 1
        except OSError:
            self._socket.close()
            self._socket, self._place = socket.create_connection(self._address), 0

    def close(self) -> None:
        self._socket.close()


@contextmanager
def _thread(run: Callable[[threading.Event], None]) -> Iterator[None]:
    over, failed = threading.Event(), []

    def main() -> None:
        try:
            run(over)
        except OSError as exc:
            failed.append(exc)

    thread = threading.Thread(target=main, name="load")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise RuntimeError("the load ended before its window") from failed[0]
