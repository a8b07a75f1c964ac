"""The thread that reads the sensor, steps the governor, moves the levers and reports changes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.config.sections.thermal import ThermalConfig
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread
from agent.thermal.decision import Cause, GovernorDecision, GovernorState
from agent.thermal.governor import Governor
from agent.thermal.levers import Lever, LeverLevels, LeverName
from agent.thermal.limits import Limits, limits_of
from agent.thermal.minutes import MinuteFile, MinuteSum
from agent.thermal.sensors.base import Sensor, SensorDescription, ThermalSample, ThrottleCause

log = get_logger(__name__)

_MOVED_CELSIUS = 0.5
_PUBLISH_EVERY_S = 30.0
_REMEMBERED_S = 120.0
_STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class ThermalStatistics:
    """Counts since the start, and the current state."""

    source: str
    sensor: str
    """`stopped`, `starting`, `reading` or `silent`."""
    hottest_zone: str | None
    hottest_celsius: float | None
    total_watts: float | None
    is_throttling: bool | None
    throttle_causes: Mapping[ThrottleCause, str]
    over_current_hz: Mapping[str, float]
    state: GovernorState
    rate_ratio: float
    clock_ratio: float
    levers: tuple[LeverName, ...]
    """Engaged levers, cheapest first."""
    cause: Cause | None
    """Why they are engaged; None if nothing is cut."""
    reason: str
    """One short line for people: what is cut and why."""
    readings: int
    """New samples."""
    silent_looks: int
    """Looks without a sample."""
    changes: int
    """Changes of the rate or the state."""
    snapshots: int
    jtop_restarts: int


@dataclass(frozen=True, slots=True)
class ThermalSnapshot:
    """The state at ``at_ns`` (monotonic), which is ``at_utc_ns``. The decision holds since ``since_utc_ns``;
    ``sample`` is None while there is no fresh one."""

    sample: ThermalSample | None
    decision: GovernorDecision
    limits: Mapping[str, Limits]
    sensor: SensorDescription
    at_ns: int
    at_utc_ns: int
    since_utc_ns: int


class ThermalMonitor:
    """Owns the sensor, the governor and the levers. Calls ``on_decision`` and ``on_snapshot`` on its thread; the
    latter when something worth publishing has changed, and every 30 s.

    ``minutes`` stores the last 24 hours; None stores nothing. The levers are released when it stops. ``failure`` is
    the exception that ended the thread, for the owner to raise.
    """

    def __init__(
        self,
        config: ThermalConfig,
        sensor: Sensor,
        *,
        clock: Clock,
        on_decision: Callable[[GovernorDecision], None],
        on_snapshot: Callable[[ThermalSnapshot], None],
        levers: Sequence[Lever] = (),
        minutes: MinuteFile | None = None,
    ) -> None:
        self._config = config
        self._sensor = sensor
        self._levers = tuple(levers)
        self._governor = Governor(config)
        self._minutes = minutes
        self._minute = MinuteSum()
        self._clock = clock
        self._on_decision = on_decision
        self._on_snapshot = on_snapshot
        self._stop = threading.Event()
        self._thread = StageThread("thermal-monitor", self._run)
        self._is_started = False
        self._lock = threading.Lock()
        self._sample: ThermalSample | None = None
        self._decision = self._governor.step(None, clock.monotonic_ns())
        self._limits: dict[str, Limits] = {}
        self._since_utc_ns = clock.utc_ns()
        self._throttling: deque[tuple[int, bool | None]] = deque()
        self._readings = self._silent_looks = self._changes = self._snapshots = 0
        self._sent: ThermalSample | None = None
        self._sent_at_ns: int | None = None

    def start(self) -> None:
        """Start the sensor and the thread."""
        if not self._is_started:
            self._is_started = True
            self._sensor.start()
            self._thread.start()

    def stop(self) -> None:
        """End the thread, release the levers, stop the sensor: within 7 s even if one hangs. Harmless when
        repeated."""
        self._stop.set()
        self._thread.join(_STOP_S)
        for lever in self._levers:
            lever.release()
        self._sensor.stop()

    @property
    def failure(self) -> Exception | None:
        """The exception that ended the thread."""
        return self._thread.failure

    @property
    def decision(self) -> GovernorDecision:
        """The governor's newest decision."""
        with self._lock:
            return self._decision

    def sample(self) -> ThermalSample | None:
        """The newest sample; None while there is no fresh one."""
        with self._lock:
            return self._sample

    def statistics(self) -> ThermalStatistics:
        """Counts and state of one moment."""
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
                throttle_causes={} if sample is None else sample.throttle_causes,
                over_current_hz={} if sample is None else sample.over_current_hz,
                state=decision.state,
                rate_ratio=decision.ratio,
                clock_ratio=decision.levels.clock_ratio,
                levers=decision.levels.engaged,
                cause=decision.cause,
                reason=decision.summary,
                readings=self._readings,
                silent_looks=self._silent_looks,
                changes=self._changes,
                snapshots=self._snapshots,
                jtop_restarts=sensor.restarts,
            )

    def throttled_between(self, first_ns: int, last_ns: int) -> bool | None:
        """Whether the board reported throttling in that time (monotonic); None if it reported nothing.

        The last two minutes are kept.
        """
        with self._lock:
            seen = [state for at_ns, state in self._throttling if first_ns <= at_ns <= last_ns and state is not None]
        return any(seen) if seen else None

    def snapshot(self) -> ThermalSnapshot:
        """The current state."""
        sensor = self._sensor.describe()
        with self._lock:
            sample, decision, since_ns, limits = self._sample, self._decision, self._since_utc_ns, self._limits
        return ThermalSnapshot(
            sample=sample,
            decision=decision,
            limits={} if sample is None else limits_of(sample, self._config.governor) | limits,
            sensor=sensor,
            at_ns=self._clock.monotonic_ns(),
            at_utc_ns=self._clock.utc_ns(),
            since_utc_ns=since_ns,
        )

    def _run(self) -> None:
        while True:
            self.look()
            if self._clock.wait(self._stop, self._config.interval_s):
                return

    def look(self) -> None:
        """One reading and its consequences; called by the thread, or by a test instead."""
        now_ns = self._clock.monotonic_ns()
        sample = self._sensor.latest()
        if self._stop.is_set():
            return  # the sensor blocked until after the stop; another governor may be in charge now
        self._governor.use_levers([lever.name for lever in self._levers if lever.is_available])
        decision = self._governor.step(sample, now_ns)
        self._move_levers(decision.levels)
        self._keep_minute(sample, decision, now_ns)
        with self._lock:
            self._limits = self._governor.limits
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
            self._snapshots += 1
            self._on_snapshot(self.snapshot())

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
        return is_changed or moved or sample.throttle_causes.keys() != sent.throttle_causes.keys()

    def _move_levers(self, levels: LeverLevels) -> None:
        wanted: dict[LeverName, float | None] = {
            "batches": 1.0 if levels.has_large_batches else None,
            "engine": 1.0 if levels.has_other_engine else None,
            "clocks": levels.clock_ratio if levels.clock_ratio < 1.0 else None,
        }
        for lever in self._levers:
            level = wanted.get(lever.name)
            if level is None:
                lever.release()
            else:
                lever.engage(level)

    def _keep_minute(self, sample: ThermalSample | None, decision: GovernorDecision, now_ns: int) -> None:
        if self._minutes is None:
            return
        levels = decision.levels
        is_full = self._minute.add(
            sample, rate_ratio=levels.rate_ratio, clock_ratio=levels.clock_ratio, now_s=now_ns / 1e9
        )
        if is_full:
            self._minutes.append(self._minute.take(self._clock.utc_ns() // 1_000_000_000))

    def _log(self, decision: GovernorDecision) -> None:
        levels, before = decision.levels, decision.previous_levels
        is_less = levels.rate_ratio < before.rate_ratio or levels.clock_ratio < before.clock_ratio
        record = log.warning if is_less else log.info
        record(
            "thermal.governor_changed",
            state=decision.state,
            cause=decision.cause,
            levers=list(levels.engaged),
            from_ratio=round(before.rate_ratio, 3),
            to_ratio=round(levels.rate_ratio, 3),
            clock_ratio=round(levels.clock_ratio, 3),
            zone=decision.zone,
            celsius=None if decision.celsius is None else round(decision.celsius, 1),
            predicted_celsius=None if decision.predicted_celsius is None else round(decision.predicted_celsius, 1),
            soft_celsius=None if decision.soft_celsius is None else round(decision.soft_celsius, 1),
            reason=decision.reason,
        )
