"""The network between the agent and one of its peers."""

from __future__ import annotations

import asyncio

from tests.system.delivery.proxy import FaultProxy

_SLICE_BYTES = 64


class Line(FaultProxy):
    """A proxy that can also stop listening, as if the peer were gone."""

    def __enter__(self) -> Line:
        super().__enter__()
        return self

    def cut(self) -> None:
        """Close every connection; new ones are refused until ``mend``."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def mend(self) -> None:
        """End every fault and listen on the old port, if it does not."""
        self.heal()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def trickle(self, bytes_per_s: float) -> None:
        """Limit the rate, in small pieces."""
        self.slice_bytes, self.bytes_per_s = _SLICE_BYTES, bytes_per_s

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._close_all(is_reset=False)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
