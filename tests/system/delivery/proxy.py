"""A TCP proxy that injects network faults, and records what was acknowledged over it.

It runs an event loop in a thread of its own. Faults are switched on and off while connections are open.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from tests.fixtures.mqtt_packets import Kind, packet, packets
from tests.system.delivery.wire import Witness

_CHUNK = 4096
_POLL_S = 0.005


class FaultProxy:
    """Forwards ``port`` to ``127.0.0.1:target``.

    - ``latency_s``: every chunk is held back this long, in each direction;
    - ``bytes_per_s``: no more than this gets through, in each direction; None is unlimited;
    - ``slice_bytes``: chunks are cut into pieces of 1 to this many bytes; None leaves them whole;
    - ``is_black_hole``: connections are accepted and kept, and nothing gets through;
    - ``is_down``: connections are refused (closed at once), open ones are closed;
    - ``reset()``: open connections end by RST;
    - ``is_swallowing`` (with ``is_mqtt``): the target's PUBACK packets do not get through;
    - ``poison`` (with ``is_mqtt``): a PUBLISH on this topic closes its connection and does not get through.
    """

    def __init__(self, target: int, *, witness: Witness | None = None, seed: int = 0, is_mqtt: bool = False) -> None:
        self._target = target
        self._witness = witness
        self._chance = random.Random(seed)
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.slice_bytes: int | None = None
        self.is_black_hole = False
        self.is_swallowing = False
        self.poison: str | None = None
        self.connections = 0
        self._is_mqtt = is_mqtt
        self._is_down = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    def heal(self) -> None:
        """End every fault."""
        self.latency_s, self.bytes_per_s, self.slice_bytes = 0.0, None, None
        self.is_black_hole = self._is_down = False

    def reset(self) -> None:
        """Reset open connections; data in transit is lost."""
        self._call(lambda: self._close_all(is_reset=True))

    def go_down(self) -> None:
        """Close open connections and refuse new ones until ``heal``."""
        self._is_down = True
        self._call(lambda: self._close_all(is_reset=False))

    def come_up(self) -> None:
        """Accept connections again."""
        self._is_down = False

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        if self._is_mqtt:
            # Buffers that are large for a thin line would hide how thin it is.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._close_all(is_reset=False)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _close_all(self, *, is_reset: bool) -> None:
        for writer in list(self._open):
            if is_reset:
                sock = writer.get_extra_info("socket")
                if sock is not None and sock.fileno() >= 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.CancelledError):  # by `_stop`; asyncio would log it
                await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            return
        self.connections += 1
        conversation = None if self._witness is None else self._witness.conversation()
        self._open |= {writer, far_writer}
        pumps = [
            asyncio.create_task(
                self._pump(reader, far_writer, None if conversation is None else conversation.sent, self._to_target())
            ),
            asyncio.create_task(
                self._pump(
                    far_reader, writer, None if conversation is None else conversation.answered, self._from_target()
                )
            ),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._open -= {writer, far_writer}
            far_writer.transport.abort()

    def _to_target(self) -> _Gate | None:
        def is_allowed(kind: int, body: bytes) -> bool:
            if kind == Kind.PUBLISH and self.poison is not None and body[2:].startswith(self.poison.encode()):
                raise ConnectionAbortedError
            return True

        return _Gate(is_allowed) if self._is_mqtt else None

    def _from_target(self) -> _Gate | None:
        return _Gate(lambda kind, _: kind != Kind.PUBACK or not self.is_swallowing) if self._is_mqtt else None

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        note: Callable[[bytes], None] | None,
        gate: _Gate | None,
    ) -> None:
        while True:
            await self._pass_black_hole()
            try:
                chunk = await reader.read(_CHUNK)
                passed = chunk if gate is None or not chunk else gate.let_through(chunk)
            except OSError:
                return
            if not chunk:
                return
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            await self._pass_black_hole()  # it came while this chunk was read
            for piece in self._pieces(passed):
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)
                # Recorded before it is passed on, so no acknowledgement that the agent saw is missing.
                if note is not None:
                    note(piece)
                writer.write(piece)
                try:
                    await writer.drain()
                except OSError:
                    return

    async def _pass_black_hole(self) -> None:
        while self.is_black_hole:
            await asyncio.sleep(_POLL_S)

    def _pieces(self, chunk: bytes) -> list[bytes]:
        if self.slice_bytes is None:
            return [chunk]
        pieces, start = [], 0
        while start < len(chunk):
            size = self._chance.randint(1, self.slice_bytes)
            pieces.append(chunk[start : start + size])
            start += size
        return pieces


class _Gate:
    """Lets whole packets through, except those that are not allowed.

    ``is_allowed`` gets kind and body; an OSError from it ends the connection.
    """

    def __init__(self, is_allowed: Callable[[int, bytes], bool]) -> None:
        self._is_allowed = is_allowed
        self._stream = bytearray()

    def let_through(self, chunk: bytes) -> bytes:
        """The packets that ``chunk`` completes."""
        self._stream += chunk
        return b"".join(
            packet(kind, flags, body) for kind, flags, body in packets(self._stream) if self._is_allowed(kind, body)
        )
