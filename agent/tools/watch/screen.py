"""Shows live what the agent of this process publishes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.live import Live

from agent.runtime.channel import ChannelClosed
from agent.tools.watch.fleet import FleetView
from agent.tools.watch.lines import lines_from_fleet
from agent.tools.watch.sink import ViewSink
from agent.tools.watch.terminal import render

_REDRAW_S = 0.25
_LINES_S = 2.0
_STOP_S = 5.0


class Screen:
    """Feeds packets from ``sink`` into ``view`` and shows it: tables on a terminal, lines elsewhere.

    Owns a thread from ``__enter__`` to ``__exit__``; only that thread uses ``view`` meanwhile. On a terminal, lines
    written to stderr appear above the tables. ``on_failure`` is called on that thread if it ends by an exception, such
    as a closed pipe; ``__exit__`` raises that exception.
    """

    def __init__(
        self,
        sink: ViewSink,
        view: FleetView,
        console: Console,
        *,
        heading: str,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._sink = sink
        self._view = view
        self._console = console
        self._heading = heading
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._resources = ExitStack()
        self._work: Future[None] | None = None

    def __enter__(self) -> Screen:
        live: Live | None = None
        if self._console.is_terminal:
            live = Live(console=self._console, auto_refresh=False)
            self._resources.enter_context(live)
        executor = self._resources.enter_context(ThreadPoolExecutor(1, thread_name_prefix="screen"))
        self._work = executor.submit(self._run, live)
        self._work.add_done_callback(self._on_done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        try:
            if self._work is not None:
                self._work.result(timeout=_STOP_S)
        finally:
            self._resources.close()

    def _on_done(self, work: Future[None]) -> None:
        if work.exception() is not None:
            self._on_failure()

    def _run(self, live: Live | None) -> None:
        is_more = True
        while is_more and not self._stop.is_set():
            until_s = time.monotonic() + (_LINES_S if live is None else _REDRAW_S)
            is_more = self._receive(until_s)
            self._show(live)

    def _receive(self, until_s: float) -> bool:
        """Process packets until ``until_s`` (monotonic) or until stopped; False when the sink is closed."""
        while (left_s := until_s - time.monotonic()) > 0 and not self._stop.is_set():
            try:
                packet = self._sink.receive(min(left_s, _REDRAW_S))
            except ChannelClosed:
                return False
            if packet is not None:
                self._view.update(packet.topic, packet.payload, now_s=time.monotonic())
        return True

    def _show(self, live: Live | None) -> None:
        now_s = time.monotonic()
        if live is not None:
            tables = render(self._view, now_s=now_s, width=self._console.width, heading=self._heading)
            live.update(tables, refresh=True)
            return
        for line in lines_from_fleet(self._view, now_s=now_s):
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)
