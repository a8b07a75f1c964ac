"""A GPIO line whose edges ask a camera for frames; the boundary to libgpiod, through its Python package gpiod 2."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import ModuleType
from typing import Protocol

from agent.cameras.triggers import TriggerEnd, TriggerRefused
from agent.config.sections.triggers import GpioConfig
from agent.runtime.clock import Clock
from agent.runtime.errors import Unavailable
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread

log = get_logger(__name__)

_STEP_S = 0.2
_RETRY_S = 5.0
_EVENTS = 64
"""Edges that the kernel keeps until they are read; its default is 16."""


class GpioUnavailable(Unavailable):
    """The line cannot be watched."""


class EdgeLine(Protocol):
    """An open line. One thread opens, reads and closes it."""

    def read(self, timeout_s: float) -> Sequence[int]:
        """The monotonic times in ns, by the kernel, of the edges that came; empty after ``timeout_s`` without one.

        Raises:
            GpioUnavailable: the chip is gone.
        """
        ...

    def close(self) -> None:
        """Give the line back."""
        ...


class _Line:
    """See EdgeLine."""

    def __init__(self, config: GpioConfig) -> None:
        gpiod = _library()
        line = gpiod.line
        settings = gpiod.LineSettings(
            direction=line.Direction.INPUT,
            edge_detection=line.Edge[config.edge.upper()],
            bias=line.Bias[config.bias.upper()],
            debounce_period=timedelta(milliseconds=config.debounce_ms),
            event_clock=line.Clock.MONOTONIC,
        )
        self._config = config
        try:
            self._request = gpiod.request_lines(
                config.chip, config={config.line: settings}, consumer="edge-inference-agent", event_buffer_size=_EVENTS
            )
        except (OSError, ValueError) as exc:
            raise GpioUnavailable(_why(config, exc), chip=config.chip, line=config.line) from exc

    def read(self, timeout_s: float) -> Sequence[int]:
        """See EdgeLine."""
        try:
            if not self._request.wait_edge_events(timeout_s):
                return ()
            return [event.timestamp_ns for event in self._request.read_edge_events()]
        except OSError as exc:
            raise GpioUnavailable(_why(self._config, exc), chip=self._config.chip, line=self._config.line) from exc

    def close(self) -> None:
        """See EdgeLine."""
        self._request.release()


def open_line(config: GpioConfig) -> EdgeLine:
    """The line of ``config``, with the agent as its consumer.

    Raises:
        GpioUnavailable: gpiod is not installed, or the line cannot be had.
    """
    return _Line(config)


def _library() -> ModuleType:
    try:
        import gpiod
        import gpiod.line
    except ImportError as exc:
        raise GpioUnavailable(
            f"`trigger.gpio` is configured, but Python's package gpiod cannot be imported ({exc}); add the part "
            "[gpio] of the agent, as docs/installation.md says"
        ) from exc
    if not hasattr(gpiod, "request_lines"):
        version = getattr(gpiod, "__version__", "1")
        raise GpioUnavailable(
            f"`trigger.gpio` needs gpiod 2, but version {version} is installed; run: pip install 'gpiod>=2.1'"
        )
    return gpiod


def _why(config: GpioConfig, error: OSError | ValueError) -> str:
    """What happened, and what to do."""
    place = f"GPIO line {config.line} of {config.chip}"
    number = error.errno if isinstance(error, OSError) else None
    known = {
        errno.ENOENT: f"there is no {config.chip}, or no line of that name on it; see gpiodetect and gpioinfo",
        errno.EACCES: f"user number {os.geteuid()} may not use {config.chip}; put it into the group of that file",
        errno.EPERM: f"user number {os.geteuid()} may not use {config.chip}; put it into the group of that file",
        errno.EBUSY: "another program or driver uses it; gpioinfo names it. Stop that, or take another line",
        errno.ENODEV: f"{config.chip} is no GPIO chip, or was removed; see gpiodetect",
        errno.ENOTTY: f"{config.chip} is no GPIO chip; see gpiodetect",
        errno.ENXIO: "its chip cannot report edges; take a line of another chip",
        errno.EINVAL: "its chip has no such line, or cannot do what `bias` or `edge` asks; see gpioinfo",
    }
    if number is None:
        return f"{place} cannot be watched ({error}). Correct `line`; gpioinfo lists them"
    why = known.get(number, f"{error}; check `chip` and `line` with gpioinfo")
    return f"{place} cannot be watched: {why}"


class GpioTrigger:
    """Watches one line on a thread of its own, ``gpio-NAME``, and asks its camera for a frame at each edge.

    ``trigger`` is that of the camera: it takes an id, what to call at the end, and the time of the edge. A line that
    cannot be watched is tried again every five seconds.
    """

    def __init__(
        self,
        camera: str,
        config: GpioConfig,
        trigger: Callable[[str, Callable[[TriggerEnd], None], int], None],
        *,
        clock: Clock,
        open_line: Callable[[GpioConfig], EdgeLine] = open_line,
    ) -> None:
        self._camera = camera
        self._config = config
        self._trigger = trigger
        self._clock = clock
        self._open_line = open_line
        self._stop = threading.Event()
        self._thread = StageThread(f"gpio-{camera}", self._main)
        self._edges = 0
        self.error: str | None = None
        """Why the line cannot be watched; None while it is."""

    @property
    def failure(self) -> Exception | None:
        """The bug that ended the thread; None if there was none."""
        return self._thread.failure

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end, which takes up to 0.2 s."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False if it still runs after ``timeout_s``."""
        return self._thread.join(timeout_s)

    def _main(self) -> None:
        while not self._stop.is_set():
            self._watch_until_lost()
            self._clock.wait(self._stop, _RETRY_S)

    def _watch_until_lost(self) -> None:
        try:
            self._watch()
        except GpioUnavailable as exc:
            if exc.message != self.error:
                log.warning("trigger.lost", camera=self._camera, reason=exc.message)
            self.error = exc.message

    def _watch(self) -> None:
        line = self._open_line(self._config)
        try:
            self.error = None
            log.info("trigger.connected", camera=self._camera, chip=self._config.chip, line=str(self._config.line))
            while not self._stop.is_set():
                for at_ns in line.read(_STEP_S):
                    self._ask(at_ns)
        finally:
            line.close()

    def _ask(self, at_ns: int) -> None:
        self._edges += 1
        number = self._edges

        def end(ended: TriggerEnd) -> None:
            if ended.reason is not None:
                self._missed(number, ended.reason, ended.text)

        try:
            self._trigger(f"gpio-{number}", end, at_ns)
        except TriggerRefused as exc:
            self._missed(number, exc.reason, exc.message)

    def _missed(self, number: int, reason: str, text: str) -> None:
        log.warning("trigger.missed", camera=self._camera, edge=number, reason=reason, error=text)
