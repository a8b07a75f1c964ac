"""Threads for what takes longer than an event loop may wait: decoding images, loading a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from agent.inference.requests.queue import NotReady, QueueFull, RequestRefused
from agent.runtime.channel import Channel, ChannelClosed
from agent.runtime.threads import StageThread

T = TypeVar("T")
_WAITING = 256


class WorkThreads:
    """A few daemon threads that run what they are given, in order. ``close`` ends them; what waits is refused."""

    def __init__(self, kind: str, count: int) -> None:
        self._jobs: Channel[tuple[Future[Any], Callable[[], Any]]] = Channel(
            _WAITING, "drop_newest", on_drop=lambda job: _refuse(job[0])
        )
        self._is_closing = False
        self._threads = [StageThread(f"serve-{kind}-{number}", self._main) for number in range(count)]

    def start(self) -> None:
        """Start the threads; once."""
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run ``work``, which raises nothing but RequestRefused, soon; its result or exception is the future's.

        The future fails with QueueFull if too much waits, and with NotReady once the server stops.
        """
        future: Future[T] = Future()
        try:
            self._jobs.send((future, work))
        except ChannelClosed:
            future.set_exception(NotReady("the server stops"))
        return future

    def close(self) -> None:
        """Take no more work; does not wait."""
        self._is_closing = True
        self._jobs.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; False if one is still at work after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        return all(thread.join(max(deadline_s - time.monotonic(), 0.0)) for thread in self._threads)

    @property
    def failure(self) -> Exception | None:
        """The exception that ended a thread, which only a bug can do."""
        return next((thread.failure for thread in self._threads if thread.failure is not None), None)

    def _main(self) -> None:
        while True:
            try:
                job = self._jobs.receive()
            except ChannelClosed:
                return
            if job is not None and job[0].set_running_or_notify_cancel():
                self._run(*job)

    def _run(self, future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            if self._is_closing:
                raise NotReady("the server stops")
            future.set_result(work())
        except RequestRefused as exc:
            future.set_exception(exc)
        finally:
            if not future.done():  # a bug ends this thread; its caller must not wait for ever
                future.set_exception(NotReady("the server stops because of a bug"))


def _refuse(future: Future[Any]) -> None:
    future.set_exception(QueueFull("too many images wait to be decoded; send fewer at a time", retry_after_s=1))
