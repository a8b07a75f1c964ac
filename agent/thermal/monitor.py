"""The thread that looks at the sensor, asks the governor and says what changed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from agent.config.thermal import ThermalConfig
from agent.mqtt.messages.base import utc_text
from agent.mqtt.messages.thermal import Thermal, thermal_message
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread
from agent.thermal.governor import Governor, GovernorDecision, GovernorState
from agent.thermal.limits import limits_of
from agent.thermal.sensors.base import Sensor, ThermalSample

log = get_logger(__name__)

_MOVED_CELSIUS = 0.5
_PUBLISH_EVERY_S = 30.0
_REMEMBERED_S = 120.0
_STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class ThermalStatistics:
    """Counts since the start, and how it stands now."""

    source: str
    sensor: str
    """`stopped`, `starting`, `reading` or `silent`."""
    hottest_zone: str | None
    hottest_celsius: float | None
    total_watts: float | None
    is_throttling: bool | None
    state: GovernorState
    rate_ratio: float
    reason: str
    readings: int
    """Samples that were new."""
    silent_looks: int
    """Looks that found no sample."""
    changes: int
    """Changes of the rate or the state."""
    messages: int
    jtop_restarts: int


class ThermalMonitor:
    """Owns the sensor and the governor. ``on_decision`` and ``on_message`` are called on its thread.

    ``failure`` holds the exception that ended the thread, for the owner to raise.
    """

    def __init__(
        self,
        config: ThermalConfig,
        sensor: Sensor,
        *,
        clock: Clock,
        device: str,
        session: int,
        on_decision: Callable[[GovernorDecision], None],
        on_message: Callable[[Thermal], None],
    ) -> None:
        self._config = config
        self._sensor = sensor
        self._governor = Governor(config)
        self._clock = clock
        self._device = device
        self._session = session
        self._on_decision = on_decision
        self._on_message = on_message
        self._stop = threading.Event()
        self._thread = StageThread("thermal-monitor", self._run)
        self._is_started = False
        self._lock = threading.Lock()
        self._sample: ThermalSample | None = None
        self._decision = self._governor.step(None, clock.monotonic_ns())
        self._since_utc_ns = clock.utc_ns()
        self._throttling: deque[tuple[int, bool | None]] = deque()
        self._readings = self._silent_looks = self._changes = self._messages = 0
        self._sent: ThermalSample | None = None
        self._sent_at_ns: int | None = None

    def start(self) -> None:
        """Start the sensor and the thread."""
        if not self._is_started:
            self._is_started = True
            self._sensor.start()
            self._thread.start()

    def stop(self) -> None:
        """End the thread and the sensor, within 7 s whatever they hang in; harmless when called twice."""
        self._stop.set()
        self._thread.join(_STOP_S)
        self._sensor.stop()

    @property
    def failure(self) -> Exception | None:
        """What ended the thread."""
        return self._thread.failure

    @property
    def decision(self) -> GovernorDecision:
        """The governor's newest decision."""
        with self._lock:
            return self._decision

    def sample(self) -> ThermalSample | None:
        """The newest sample; None while there is none worth looking at."""
        with self._lock:
            return self._sample

    def statistics(self) -> ThermalStatistics:
        """The counts, and how it stands, at one moment."""
        sensor = self._sensor.describe()
        with self._lock:
            sample, decision = self._sample, self._decision
            hottest = None if sample is None else sample.hottest
            return ThermalStatistics(
                source=sensor.source if sample is None else sample.source,
                sensor=sensor.state,
                hottest_zone=None if hottest is None else hottest[0],
                hottest_celsius=None if hottest is None else hottest[1],
                total_watts=None if sample is None else sample.power.total_watts,
                is_throttling=None if sample is None else sample.is_throttling,
                state=decision.state,
                rate_ratio=decision.ratio,
                reason=decision.reason,
                readings=self._readings,
                silent_looks=self._silent_looks,
                changes=self._changes,
                messages=self._messages,
                jtop_restarts=sensor.restarts,
            )

    def throttled_between(self, first_ns: int, last_ns: int) -> bool | None:
        """Whether the board said that it throttled in that time (monotonic); None where it did not tell.

        Two minutes are remembered.
        """
        with self._lock:
            seen = [state for at_ns, state in self._throttling if first_ns <= at_ns <= last_ns and state is not None]
        return any(seen) if seen else None

    def message(self) -> Thermal:
        """How it stands, as it is published."""
        sensor = self._sensor.describe()
        with self._lock:
            sample, decision, since_ns = self._sample, self._decision, self._since_utc_ns
        return thermal_message(
            sample,
            decision,
            limits={} if sample is None else limits_of(sample, self._config.governor),
            sensor=sensor,
            device=self._device,
            session=self._session,
            at=utc_text(self._clock.utc_ns()),
            since=utc_text(since_ns),
            now_ns=self._clock.monotonic_ns(),
        )

    def _run(self) -> None:
        while True:
            self.look()
            if self._clock.wait(self._stop, self._config.interval_s):
                return

    def look(self) -> None:
        """One reading and what follows from it; called by the thread, or by a test in its place."""
        now_ns = self._clock.monotonic_ns()
        sample = self._sensor.latest()
        if self._stop.is_set():
            return  # the sensor held this thread up past the end; another governor may decide by now
        decision = self._governor.step(sample, now_ns)
        with self._lock:
            is_new = sample is not None and (self._sample is None or sample.taken_at_ns > self._sample.taken_at_ns)
            self._readings += is_new
            self._silent_looks += sample is None
            self._sample, self._decision = sample, decision
            self._throttling.append((now_ns, None if sample is None else sample.is_throttling))
            while now_ns - self._throttling[0][0] > _REMEMBERED_S * 1e9:
                self._throttling.popleft()
            if decision.changed:
                self._changes += 1
                self._since_utc_ns = self._clock.utc_ns()
        if decision.changed:
            self._log(decision)
            self._on_decision(decision)
        if decision.changed or self._is_news(sample, now_ns):
            self._sent, self._sent_at_ns = sample, now_ns
            self._messages += 1
            self._on_message(self.message())

    def _is_news(self, sample: ThermalSample | None, now_ns: int) -> bool:
        if self._sent_at_ns is None or now_ns - self._sent_at_ns >= _PUBLISH_EVERY_S * 1e9:
            return True
        sent = self._sent
        if sample is None or sent is None:
            return sample is not sent
        if sample.temperatures.keys() != sent.temperatures.keys() or sample.absent.keys() != sent.absent.keys():
            return True
        is_changed = sample.source != sent.source or sample.power_mode != sent.power_mode
        moved = any(
            abs(celsius - sent.temperatures[zone]) > _MOVED_CELSIUS for zone, celsius in sample.temperatures.items()
        )
        return is_changed or moved or sample.throttle_alerts != sent.throttle_alerts

    def _log(self, decision: GovernorDecision) -> None:
        record = log.warning if decision.ratio < decision.previous_ratio else log.info
        record(
            "thermal.rate_changed",
            state=decision.state,
            from_ratio=round(decision.previous_ratio, 3),
            to_ratio=round(decision.ratio, 3),
            zone=decision.zone,
            celsius=None if decision.celsius is None else round(decision.celsius, 1),
            predicted_celsius=None if decision.predicted_celsius is None else round(decision.predicted_celsius, 1),
            soft_celsius=decision.soft_celsius,
            reason=decision.reason,
        )
