"""One run of the agent in this process: signals, the order of start and stop, and the recorded exit.

``build`` makes the parts of a configuration, ``Supervisor`` starts and supervises them, and ``run`` closes them in
reverse. A reload changes parts in place; what cannot be changed in place makes ``run`` build all of them again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType

from agent.build import Parts, Surroundings, build
from agent.commands.overrides import with_kept_changes
from agent.config.broker_address import BrokerAddress
from agent.config.loader import LoadedConfig
from agent.daemon import heap
from agent.daemon.control import ControlSocket
from agent.daemon.exit_deadline import ExitDeadline
from agent.daemon.notify import Notifier
from agent.daemon.start_backoff import StartBackoff
from agent.daemon.state_directory import StateDirectory
from agent.inference.pipeline import PipelineStatistics
from agent.mqtt.base import Sink
from agent.publish.publisher import PublisherStatistics
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.errors import AgentError
from agent.runtime.logs import get_logger
from agent.supervise import TICK_S, Supervisor
from engines import EngineError, EngineLost

log = get_logger(__name__)

_START_WITHIN_S = 180.0
"""TimeoutStartSec of the unit."""
_FAULT = "failed by a bug in the agent"
_FAULT_CODE = AgentError.exit_code
_LOST_WITHIN_S = 0.7
SWITCH_INTERVAL_S = 0.0002
"""How long a Python thread may hold the interpreter while others wait. The default, 5 ms, delays an inference whenever
another thread computes (measured: 3.7 ms alone, 9.0 ms beside one busy thread, 3.9 ms with this setting)."""


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """The counters of all parts at one moment."""

    pipeline: PipelineStatistics
    publisher: PublisherStatistics


class Agent:
    """Call ``run`` once, on the main thread if signals are handled. ``extra_sinks`` get every message besides the
    broker."""

    def __init__(
        self,
        loaded: LoadedConfig,
        *,
        extra_sinks: Sequence[Sink] = (),
        clock: Clock | None = None,
        notifier: Notifier | None = None,
        control: ControlSocket | None = None,
    ) -> None:
        self._loaded = loaded
        self._surroundings = Surroundings(
            clock=clock or SystemClock(),
            notifier=notifier or Notifier(None),
            control=control or ControlSocket(None),
            extra_sinks=tuple(extra_sinks),
        )
        self._stop_requested = False
        self._signals = 0
        self._exit_deadline = ExitDeadline()
        self._parts: Parts | None = None
        self._supervisor: Supervisor | None = None

    def run(self, *, for_s: float | None = None, on_ready: Callable[[], None] | None = None) -> None:
        """Run until a signal, `request_stop`, the end of every file, or ``for_s`` seconds after being ready.

        Raises:
            AgentError, EngineError: it could not start, or had to stop; everything has been closed.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        heap.bound_arenas()
        heap.keep_image_memory()
        self._surroundings.control.open()
        try:
            successor = self._run_once(for_s, on_ready)
            while successor is not None:
                # For example a new device id, which is part of every topic: open everything again, in this process.
                self._loaded = successor
                successor = self._run_once(for_s, None)
        finally:
            self._surroundings.control.close()

    def request_stop(self) -> None:
        """Ask `run` to return; any thread."""
        self._stop_requested = True

    def handle_signals(self) -> None:
        """Stop at SIGTERM and SIGINT, exit at once at the second one; reload at SIGHUP. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)

    @property
    def broker_address(self) -> BrokerAddress | None:
        """The broker's address; None before the parts are built."""
        return None if self._parts is None else self._parts.uplink.address

    @property
    def page_url(self) -> str | None:
        """Where the page for people is; None without one, and before the parts are built."""
        return None if self._parts is None or self._parts.web is None else self._parts.web.page_url

    @property
    def is_stop_requested(self) -> bool:
        """Whether a signal came, or `request_stop` was called."""
        return self._stop_requested

    def statistics(self) -> AgentStatistics | None:
        """Any thread. None before the parts are built, and if a signal ended the start before that."""
        parts = self._parts
        if parts is None:
            return None
        return AgentStatistics(parts.pipeline.statistics(), parts.uplink.publisher.statistics())

    def _run_once(self, for_s: float | None, on_ready: Callable[[], None] | None) -> LoadedConfig | None:
        """Run one configuration; return the next one, None to stop."""
        outcome, exit_code = _FAULT, _FAULT_CODE
        successor = None
        with _Exit(self._exit_deadline) as ending:
            try:
                successor = self._serve(ending, for_s, on_ready)
                outcome, exit_code = "stopped by request, or at the end of its files", 0
            except (AgentError, EngineError) as exc:
                outcome, exit_code = f"failed with exit code {exc.exit_code}: {exc.message}", exc.exit_code
                if isinstance(exc, EngineLost):
                    # The GPU needs a new process. End soon, however long a camera or a broker takes to stop.
                    log.critical("engine.lost", error=exc.message)
                    ending.record(outcome, exit_code)
                    self._exit_deadline.arm(_LOST_WITHIN_S, exc.exit_code)
                raise
            finally:
                ending.outcome, ending.exit_code = outcome, exit_code
                if successor is None:
                    self._surroundings.notifier.stopping()
        return successor

    def _serve(self, ending: _Exit, for_s: float | None, on_ready: Callable[[], None] | None) -> LoadedConfig | None:
        loaded = self._loaded = with_kept_changes(self._loaded)
        for warning in loaded.warnings:
            log.warning("config.warning", text=warning)
        state = ending.resources.enter_context(StateDirectory(loaded.state_dir))
        backoff = StartBackoff(loaded.state_dir, loaded.sha256)
        ending.take(state, backoff)
        if not self._wait_after_failures(state, backoff):
            return None
        parts = self._parts = build(loaded, state, self._surroundings, ending.resources)
        supervisor = self._supervisor = Supervisor(parts, is_stopping=lambda: self._stop_requested)
        if not supervisor.start():
            return None
        backoff.ready()
        if on_ready is not None and not self._stop_requested:
            on_ready()
        return supervisor.run(for_s)

    def _wait_after_failures(self, state: StateDirectory, backoff: StartBackoff) -> bool:
        """Wait after several failed starts that a service manager repeats; False if stopped meanwhile."""
        notifier = self._surroundings.notifier
        wait_s = backoff.wait_s() if notifier.is_listened_to else 0.0
        if wait_s:
            why = f"{backoff.count} starts in a row failed, the last one {state.previous_exit}"
            log.warning("start.delayed", seconds=wait_s, why=why)
            notifier.extend_timeout(wait_s + _START_WITHIN_S, f"Waiting {wait_s:.0f} s: {why}")
        until_s = time.monotonic() + wait_s
        while not self._stop_requested and time.monotonic() < until_s:
            time.sleep(TICK_S)
        return not self._stop_requested

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        if self._supervisor is not None:
            self._supervisor.request_reload()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        # Plain attributes only: a handler that interrupts itself deadlocks on any lock.
        self._signals += 1
        self._stop_requested = True
        if self._signals > 1:
            os._exit(128 + number)


class _Exit:
    """Closes everything in reverse, and records how this run ended before the state directory is closed."""

    def __init__(self, deadline: ExitDeadline) -> None:
        self.resources = ExitStack()
        self.outcome, self.exit_code = _FAULT, _FAULT_CODE
        self._deadline = deadline
        self._state: StateDirectory | None = None
        self._backoff: StartBackoff | None = None

    def take(self, state: StateDirectory, backoff: StartBackoff) -> None:
        """Record the end there, after everything that is opened from here on has been closed."""
        self._state, self._backoff = state, backoff
        self.resources.callback(lambda: self.record(self.outcome, self.exit_code))

    def record(self, outcome: str, exit_code: int) -> None:
        """Store it for the next start."""
        if self._state is not None and self._backoff is not None:
            self._backoff.note(exit_code)
            self._state.record_exit(outcome)

    def __enter__(self) -> _Exit:
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()
        self._deadline.disarm()
