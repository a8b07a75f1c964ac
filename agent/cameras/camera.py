"""One camera: a thread that opens its source, reads it, reconnects it after a loss, and offers every frame."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.cameras.frame_counters import CameraCounts, Drop, FrameCounters, InFlightFrame
from agent.cameras.frame_rate import WINDOW_S, FrameRateMonitor
from agent.cameras.gpio import EdgeLine, GpioTrigger, open_line
from agent.cameras.head_start import HeadStart
from agent.cameras.image_checks import ImageChecks
from agent.cameras.pacing import Pacer
from agent.cameras.sources.base import Capture, FetchingSource, Source
from agent.cameras.triggers import Trigger, TriggerEnd, TriggerRefused, Triggers
from agent.config.model import CameraConfig
from agent.config.sections.triggers import GpioConfig, TriggerConfig
from agent.runtime.channel import ChannelClosed
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime.heartbeat import Heartbeat
from agent.runtime.logs import bound_fields, get_logger
from agent.runtime.records import Frame, planes_or_image
from agent.runtime.threads import StageThread

log = get_logger(__name__)

CameraState = Literal["connecting", "connected", "lost", "ended"]

_FIRST_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 30.0
_FIRST_REFUSED_BACKOFF_S, _MAX_REFUSED_BACKOFF_S = 15.0, 300.0
"""After a refused password. A camera that boots may refuse for a moment, so it is tried again; many cameras lock an
address out after a few wrong passwords, so not often."""
_MAX_RETURN_BACKOFF_S = 2.0
"""For a camera that was seen before, or whose server is there without its stream: both may be starting."""
_AWAY = frozenset({"refused", "unreachable", "no_answer", "unknown_host", "missing"})
"""Reasons for which nobody may be there. No login was sent, so asking again costs nothing."""
_STARTING = frozenset({"no_such_stream", "no_stream", "refused_by_camera"})
_ASK_EVERY_S = 0.5
_MAX_ABSENT_S = 300.0
"""An absent camera is opened after this time all the same: over a slow line only an opening may reach it."""
_STABLE_AFTER_NS = 30 * 1_000_000_000
_RATE_WINDOW_NS = 10 * 1_000_000_000
_JOIN_POLL_S = 0.5
_READ_DEADLINE_S = 90.0


@dataclass(frozen=True, slots=True)
class CameraStatistics:
    """Snapshot of one camera.

    ``fps`` is the mean of the last ten seconds; ``last_frame_age_s`` is None before the first frame.
    ``image_fault`` is None while the frames are good; ``skipped`` counts what could not be decoded, by reason.
    """

    name: str
    state: CameraState
    error: str | None
    fps: float
    reconnects: int
    last_frame_age_s: float | None
    image_fault: str | None
    skipped: Mapping[str, int]
    counts: CameraCounts


@dataclass(frozen=True, slots=True)
class Route:
    """Where a camera's frames go: a classifier without a gate, and the ``put`` of its worker's batcher.

    ``put`` never waits, and raises ChannelClosed once the worker has stopped.
    """

    classifier: str
    put: Callable[[InFlightFrame], None]


class Camera:
    """Owns one source and the thread that reads it.

    A live source is reconnected forever, with exponential backoff and jitter, or as soon as an absent one is there
    again; the end of a file ends the camera.
    ``on_change`` is called on the camera's thread when the state or the image fault changes.
    """

    def __init__(
        self,
        name: str,
        config: CameraConfig,
        source: Source,
        counters: FrameCounters,
        *,
        clock: Clock,
        on_change: Callable[[str], None] | None = None,
        chance: random.Random | None = None,
        open_line: Callable[[GpioConfig], EdgeLine] = open_line,
    ) -> None:
        self.name = name
        self.config = config
        self.source = source
        self.counters = counters
        self.pacer = Pacer(config.rate_hz)
        self.triggers = Triggers(name, clock)
        self.heartbeat = Heartbeat(f"camera {name}")
        self._routes: tuple[Route, ...] = ()
        self._clock = clock
        self._on_change = on_change
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not a secret
        gpio = None if config.trigger is None else config.trigger.gpio
        self._gpio = None
        if gpio is not None:
            self._gpio = GpioTrigger(name, gpio, self._ask_at, clock=clock, open_line=open_line)
        self._stop = threading.Event()
        self._head_start = HeadStart(source, self.heartbeat, clock=clock)
        self._thread = StageThread(f"camera-{name}", self._main)
        self._lock = threading.Lock()
        self._state: CameraState = "connecting"
        self._error: str | None = None
        self._reconnects = 0
        self._frames = 0
        self._newest: Frame | None = None
        self._recent: deque[int] = deque(maxlen=600)  # monotonic times: ten seconds at 60 fps
        self._image_checks = ImageChecks(config.image_checks)
        self._frame_rate = FrameRateMonitor(config.min_fps_ratio)
        self._expected_fps: float | None = None

    def set_routes(self, routes: Sequence[Route]) -> None:
        """Offer every frame from now on to ``routes``."""
        self._routes = tuple(routes)

    def open_early(self) -> None:
        """Start the thread: it opens the source, and delivers no frame, error or state before ``start``."""
        self._thread.start()

    def start(self) -> None:
        """Start reading."""
        self._head_start.begin()
        if not self._thread.is_started:
            self.open_early()
        if self._gpio is not None:
            self._gpio.start()

    def stop(self) -> None:
        """Ask the threads to end; interrupts a source that blocks."""
        self._stop.set()
        self._head_start.begin()
        if self._gpio is not None:
            self._gpio.stop()
        self.source.interrupt()
        self.triggers.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; False if one is still inside a library after ``timeout_s``."""
        is_gpio_over = self._gpio is None or self._gpio.join(timeout_s)
        return self._thread.join(timeout_s) and is_gpio_over

    @property
    def failure(self) -> Exception | None:
        """The bug that ended a thread of the camera; None if there was none."""
        return self._thread.failure or (None if self._gpio is None else self._gpio.failure)

    @property
    def is_done(self) -> bool:
        """The source has ended, and every frame is classified or dropped."""
        return self._state == "ended" and not self._thread.is_alive and self.counters.counts().in_flight == 0

    def trigger(self, key: str, on_end: Callable[[TriggerEnd], None], *, asked_at_ns: int | None = None) -> None:
        """Classify the next frame that is captured after this call, or after monotonic ``asked_at_ns``.

        Results have ``key``. ``on_end`` is called once, on any thread, and must not wait. From any thread.

        Raises:
            TriggerRefused: there will be no such frame; ``on_end`` is not called.
        """
        with self._lock:
            state, error = self._state, self._error
        if state == "ended":
            raise TriggerRefused(
                "ended", f"camera {self.name} has reached the end of its source; start the agent again"
            )
        if state != "connected":
            why = "" if error is None else f": {error}"
            raise TriggerRefused("lost", f"camera {self.name} is not connected{why}; send it again when it is back")
        if self.pacer.ratio <= 0.0:
            raise TriggerRefused("paused", "the board is too hot, so the governor has paused inference; cool it down")
        config = self.config.trigger or TriggerConfig()
        asked_at_ns = self._clock.monotonic_ns() if asked_at_ns is None else asked_at_ns
        not_before_ns = asked_at_ns + round(config.delay_ms * 1e6)
        due_ns = not_before_ns + round(config.timeout_s * 1e9)
        self.triggers.add(Trigger(key, not_before_ns=not_before_ns, due_ns=due_ns, on_end=on_end))
        if isinstance(self.source, FetchingSource):
            self.source.fetch_now()

    def _ask_at(self, key: str, on_end: Callable[[TriggerEnd], None], at_ns: int) -> None:
        self.trigger(key, on_end, asked_at_ns=at_ns)

    def newest_frame(self) -> Frame | None:
        """The frame read last, classified or not; None before the first. From any thread."""
        return self._newest

    def statistics(self) -> CameraStatistics:
        """From any thread."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            recent = [at for at in self._recent if now_ns - at <= _RATE_WINDOW_NS]
            state, error = self._state, self._error
            last = self._recent[-1] if self._recent else None
        # From the first frame to the last. If the next frame is overdue, that wait counts too: otherwise a stalled
        # camera would keep its old rate until the window is empty.
        steps = len(recent) - 1
        span_s = max(recent[-1] - recent[0], (now_ns - recent[0]) * steps / len(recent)) / 1e9 if steps > 0 else 0.0
        return CameraStatistics(
            name=self.name,
            state=state,
            error=error or (None if self._gpio is None else self._gpio.error),
            fps=steps / span_s if span_s > 0 else 0.0,
            reconnects=self._reconnects,
            last_frame_age_s=None if last is None else (now_ns - last) / 1e9,
            image_fault=self._image_checks.image_fault,
            skipped=self.source.statistics().skipped_by_reason,
            counts=self.counters.counts(),
        )

    def _main(self) -> None:
        try:
            # Sources do not know their camera: what they log on its thread has its name all the same.
            with bound_fields(camera=self.name):
                self._read_until_stopped()
        finally:
            self.heartbeat.rest()
            self.source.close()
            self.triggers.close()

    def _read_until_stopped(self) -> None:
        failures = refusals = 0
        while not self._stop.is_set():
            opened_ns, reason, is_closed = None, None, False
            try:
                self._head_start.open()
                if self._stop.is_set():
                    return
                opened_ns = self._clock.monotonic_ns()
                self._expected_fps = self.source.fps
                self._frame_rate.open(opened_ns, self._expected_fps)
                self._set_state("connected", None)
                if self._read_until_end():
                    self._set_state("ended", None)
            except (SourceUnavailable, SourceLost) as exc:
                if self._stop.is_set():
                    return
                if self.source.has_end:
                    self._set_state("ended", exc.message)
                    return
                reason, is_closed = exc.fields.get("reason"), isinstance(exc, SourceUnavailable)
                self._image_checks.reset()
                self._set_state("lost" if self._frames else "connecting", exc.message)
            else:
                return
            finally:
                # Close before the backoff, not after it: many cameras accept only a few viewers.
                self.source.close()
            was_stable = opened_ns is not None and self._clock.monotonic_ns() - opened_ns > _STABLE_AFTER_NS
            # A slow camera is reachable: ten seconds of frames per connection are better than a long pause.
            failures = 0 if was_stable or reason == "low_frame_rate" else failures + 1
            # Until it opens: one that locks this device out hangs up, and must not be asked more often for that.
            refusals = 0 if opened_ns is not None else refusals + (reason == "credentials")
            if reason in _AWAY and self._is_absent():
                self._wait_for_return()
                failures = 0  # an outage of hours is one failure
                continue
            is_starting = is_closed and (self._frames > 0 or reason in _STARTING)
            backoff_s = self._refused_backoff_s(refusals) if refusals else self._backoff_s(failures, is_starting)
            self.heartbeat.beat(backoff_s + _READ_DEADLINE_S)
            self._clock.wait(self._stop, backoff_s)

    def _is_absent(self) -> bool:
        self.heartbeat.beat(_READ_DEADLINE_S)
        return self.source.is_there() is False

    def _wait_for_return(self) -> None:
        """Wait until the camera is there, without opening it: an opening takes long, and holds others up."""
        deadline_ns = self._clock.monotonic_ns() + round(_MAX_ABSENT_S * 1e9)
        while not self._clock.wait(self._stop, _ASK_EVERY_S):
            if self._clock.monotonic_ns() >= deadline_ns or not self._is_absent():
                return

    def _backoff_s(self, failures: int, is_starting: bool) -> float:
        limit_s = _MAX_RETURN_BACKOFF_S if is_starting else _MAX_BACKOFF_S
        # Jitter: after a power cut, agents must not all reconnect at the same moment. The first attempt has none.
        ceiling = min(_FIRST_BACKOFF_S * 2.0 ** max(failures - 1, 0), limit_s)
        return ceiling * self._chance.uniform(0.8, 1.0) if ceiling > _FIRST_BACKOFF_S else ceiling

    def _refused_backoff_s(self, refusals: int) -> float:
        return min(_FIRST_REFUSED_BACKOFF_S * 2.0 ** (refusals - 1), _MAX_REFUSED_BACKOFF_S)

    def _read_until_end(self) -> bool:
        """True at the end of a file, False when asked to stop."""
        while not self._stop.is_set():
            if not self.source.is_live and not self._wait_until_due():
                return False
            self.heartbeat.beat(_READ_DEADLINE_S)
            self.source.wanted_hz = self.pacer.rate_hz
            if isinstance(self.source, FetchingSource) and self.triggers.is_one_due:
                self.source.fetch_now()  # again: one image answers one trigger
            capture = self._head_start.take() or self.source.read()
            if capture is None and self.source.has_end:
                return True
            if capture is None:
                continue
            self._handle(capture)
            if self.source.is_live:
                self._check_frame_rate()
        return False

    def _wait_until_due(self) -> bool:
        """Wait until fewer frames are in flight and the next one is due; False when asked to stop."""
        while not self._stop.is_set():
            self.heartbeat.beat(_READ_DEADLINE_S)
            if not self.counters.wait_for_room(_JOIN_POLL_S):
                continue
            if self.config.trigger is not None:
                if self.triggers.wait(_JOIN_POLL_S):
                    return True
                continue
            wait_s = self.pacer.wait_s(self._clock.monotonic_ns())
            if wait_s <= 0.0:
                return True
            self._clock.wait(self._stop, wait_s)
        return False

    def _handle(self, capture: Capture) -> None:
        now_ns = self._clock.monotonic_ns()
        trigger = self.triggers.take(capture.earliest_ns)
        is_wanted = trigger is not None or self._is_due(capture)
        frame = Frame(
            camera=self.name,
            index=self._frames,
            picture=capture.picture,
            captured_at_ns=capture.captured_at_ns,
            captured_at_utc_ns=capture.captured_at_utc_ns,
            capture_ms=capture.capture_ms + (self._convert(capture) if is_wanted else 0.0),
            image_fault=self._check_image(capture, now_ns) if self.source.is_live else None,
            origin=capture.origin,
            trigger=None if trigger is None else trigger.key,
        )
        self._frames += 1
        self._newest = frame  # atomic, so readers need no lock
        with self._lock:
            self._recent.append(now_ns)
        if is_wanted:
            self._offer(frame, trigger)
        elif self.config.trigger is not None:
            self.counters.refuse(Drop.NOT_TRIGGERED)
        else:
            self.counters.refuse(Drop.GOVERNOR if self.pacer.ratio < 1.0 else Drop.RATE)

    def _is_due(self, capture: Capture) -> bool:
        """Whether a frame that no trigger asked for is classified."""
        if self.config.trigger is not None:
            return False
        return not self.source.is_live or self.pacer.accepts(capture.captured_at_ns)

    def _convert(self, capture: Capture) -> float:
        """Convert a picture without planes if a worker waits for it, to spare its thread; the milliseconds that took.

        While older frames are in flight, a newer one may replace this frame: then it is never converted.
        """
        began_ns = self._clock.monotonic_ns()
        if self.counters.in_flight == 0:
            planes_or_image(capture.picture)
        return (self._clock.monotonic_ns() - began_ns) / 1e6

    def _offer(self, frame: Frame, trigger: Trigger | None) -> None:
        routes = self._routes  # read once: a reload may replace it at any time
        if trigger is not None:
            trigger.frame = frame
        if not routes:
            self.counters.refuse(Drop.STOPPING)
            if trigger is not None:
                trigger.end("stopping", f"camera {self.name} has no classifier now; send it again after the reload")
            return
        in_flight = self.counters.open(frame, [route.classifier for route in routes], trigger)
        for route in routes:
            self._put(route, in_flight)

    def _put(self, route: Route, in_flight: InFlightFrame) -> None:
        try:
            route.put(in_flight)
        except ChannelClosed:
            self.counters.dropped(in_flight, route.classifier, Drop.STOPPING)

    def _check_image(self, capture: Capture, now_ns: int) -> str | None:
        """The image fault of a live frame; logs and reports each change."""
        previous = self._image_checks.image_fault
        image_fault = self._image_checks.check(capture.picture, now_ns)
        if image_fault != previous:
            if image_fault is None:
                log.info("camera.image_fault_cleared", camera=self.name, was=previous)
            else:
                log.warning("camera.image_fault_detected", camera=self.name, image_fault=image_fault)
            if self._on_change is not None:
                self._on_change(self.name)
        return image_fault

    def _check_frame_rate(self) -> None:
        """Drop a connection that is alive but far too slow.

        Raises:
            SourceLost: the frame rate is too low.
        """
        now_ns, fps = self._clock.monotonic_ns(), self.source.fps
        if fps != self._expected_fps:
            self._expected_fps = fps
            self._frame_rate.open(now_ns, fps)
        low = self._frame_rate.add_frame(now_ns)
        if low is not None:
            expected = "it announces" if low.is_announced else "earlier it held"
            raise SourceLost(
                f"{self.source.description} gave {low.fps:.1f} frames per second for {WINDOW_S:g} s, {expected} "
                f"{low.expected_fps:g}. Check the network; lower `min_fps_ratio` for a camera that sends fewer "
                "frames on purpose",
                reason="low_frame_rate",
                camera=self.name,
            )

    def _set_state(self, state: CameraState, error: str | None) -> None:
        with self._lock:
            previous, error_before, self._state, self._error = self._state, self._error, state, error
            if state == "connected" and previous == "lost":
                self._reconnects += 1
        if state == "connected":
            log.info("camera.connected", camera=self.name, source=self.source.description)
        elif state == "ended" and error is None:
            log.info("camera.ended", camera=self.name, reason="end of the source")
        elif state == "ended":
            log.warning("camera.ended", camera=self.name, reason=error)
        elif previous != state or error != error_before:
            # Not once per attempt: an absent camera may be tried for months.
            log.warning("camera.lost", camera=self.name, reason=error)
        if state != "connected":
            why = "its source has ended" if error is None else error
            self.triggers.fail("ended" if state == "ended" else "lost", f"camera {self.name} gave no frame: {why}")
        if self._on_change is not None and previous != state:
            self._on_change(self.name)
