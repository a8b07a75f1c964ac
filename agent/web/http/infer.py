"""`POST /v2/models/M[/versions/V]/infer`, and how any route gets scores: without a framework, because it is hot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import numpy as np

from agent.web.http.bodies import Bodies
from agent.web.http.replies import ClientGone, Receive, Scope, Send, header, reply
from agent.web.http.tensors import infer_answer, parse_infer
from agent.web.served_models import Answer, BadInput, ServedModel, ServedModels
from agent.web.work import WorkThreads
from engines import Images

T = TypeVar("T")
_LENGTH = b"inference-header-content-length"
_MAX_DIGITS = 12
_WATCH_S = 0.01
"""When a call begins to look whether its client is still there."""


class Inference:
    """Takes calls on one event loop; ``work`` decodes images."""

    def __init__(self, models: ServedModels, bodies: Bodies, work: WorkThreads, *, max_json: int) -> None:
        self.models = models
        self.bodies = bodies
        self._work = work
        self._max_json = max_json

    async def infer(self, scope: Scope, receive: Receive, send: Send, *, name: str, version: str) -> None:
        """Answer one infer call.

        Raises:
            RequestRefused: see ``agent.web.served_models`` and Refusal.
            ClientGone: nobody waits for the answer.
        """
        model = self.models.get(name, version)
        body = await self.bodies.read(scope, receive)
        try:
            call = parse_infer(body, _json_length(scope), model, max_json=self._max_json)
            images = call.images
            if images is None:
                images = await self.decoded(call.encoded, model, receive)
            answer = await self.scores(images, model, receive, priority=call.priority, timeout_s=call.timeout_s)
            payload, length = infer_answer(call, answer.scores, model)
        finally:
            self.bodies.release(body)
        if length is None:
            await reply(send, payload)
        else:
            binary = ((_LENGTH, str(length).encode()),)
            await reply(send, payload, content_type=b"application/octet-stream", headers=binary)

    async def decoded(self, encoded: Sequence[bytes], model: ServedModel, receive: Receive) -> Images:
        """Encoded images at the model's size, ``(N, H, W, 3)`` uint8 BGR.

        Raises:
            BadInput: one is no image.
            ClientGone: the connection was closed meanwhile.
        """
        return await answered(self._work.submit(lambda: np.stack([model.decode(one) for one in encoded])), receive)

    async def scores(
        self,
        images: Images,
        model: ServedModel,
        receive: Receive,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Answer:
        """See ServedModel.submit; the request is cancelled when the client closes its connection."""
        future: Future[Answer] = Future()

        def start() -> None:
            model.submit(images, priority=priority, timeout_s=timeout_s, future=future)

        return await answered(future, receive, start)


async def answered(future: Future[T], receive: Receive, start: Callable[[], None] | None = None) -> T:
    """The result of ``future``, which is cancelled when the client goes. The body must have been read.

    ``start`` begins the work for ``future``, after all that this call prepares: see RequestQueue.submit.

    Raises:
        ClientGone: the connection was closed before the result.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(lambda _: _end_on(loop, ended))
    gone: list[asyncio.Task[None]] = []
    # A task costs as much as the rest of a short call, and most are over before it would see anything.
    watch = loop.call_later(_WATCH_S, lambda: gone.append(loop.create_task(_disconnected(receive, ended))))
    try:
        if start is not None:
            start()
        await ended
        if not future.done():
            raise ClientGone
        return future.result()
    finally:
        watch.cancel()
        ended.cancel()
        future.cancel()
        for task in gone:
            task.cancel()


def _end_on(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    """End ``ended``, which waits on ``loop``, from any thread; the loop may have stopped meanwhile."""
    if not ended.done() and not loop.is_closed():
        loop.call_soon_threadsafe(_end, ended)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


async def _disconnected(receive: Receive, ended: asyncio.Future[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    _end(ended)


def _json_length(scope: Scope) -> int | None:
    given = header(scope, _LENGTH)
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > _MAX_DIGITS:
        raise BadInput("Inference-Header-Content-Length must be a whole number; send the length of the JSON")
    return int(given)
