"""The faults of a soak: each begins, shows that it took effect, lasts some seconds, and ends."""

from __future__ import annotations

import errno
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from scripts.soak_harness import evidence
from scripts.soak_harness.evidence import DECADE_S, SLOW_LINE_S, Evidence
from scripts.soak_harness.stage import CANARY, RESULTS, Stage

Kind = Literal["camera", "broker", "disk", "clock", "configuration", "process", "restart"]
RECOVERS_WITHIN_S = 30.0
_CAMERA_WITHIN_S = 40.0
"""After several camera faults the agent retries every 30 s, and then has to open the camera."""
_REFUSAL_WITHIN_S = 120.0
"""After refusals the agent retries every two minutes at the latest."""
_TRICKLE_BYTES_PER_S = 100.0
"""The camera sends 1350 in a second, 25 frames."""
_UNANSWERED_S = 0.2
"""Delay of the broker's line during disk faults: an event confirmed at once would never be written."""
_SPARE_MEMORY_BYTES = 2 * 2**20
_DRAWN = frozenset({"drawn"})
_BOTH = frozenset(RESULTS)


@dataclass(frozen=True, slots=True)
class Fault:
    """``shows`` says whether it took effect. Called right before its end, or after the recovery if it has no duration.

    ``spares`` are the cameras whose results must go on through it. Where ``ends_agent``, the process is meant to end;
    where ``may_end_agent``, it may. ``loses_subscriber`` where the subscriber loses its broker too.
    """

    name: str
    row: str
    kind: Kind
    begin: Callable[[Stage], None]
    end: Callable[[Stage], None]
    shows: Evidence
    lasts_s: tuple[float, float] = (2.0, 8.0)
    spares: frozenset[str] = frozenset()
    ends_agent: bool = False
    may_end_agent: bool = False
    loses_subscriber: bool = False
    recovers_within_s: float = RECOVERS_WITHIN_S

    @property
    def touches(self) -> frozenset[str]:
        """The cameras whose results it prevents. A subscriber without a broker does not count."""
        if self.kind == "restart":
            return _BOTH
        return _BOTH - self.spares if self.kind in {"camera", "process"} else frozenset()


def _nothing(stage: Stage) -> None:
    pass


def _limit(kind: int, soft: Callable[[psutil.Process], int]) -> Callable[[Stage], None]:
    """Set a soft limit of the agent's process."""

    def change(stage: Stage) -> None:
        process = stage.agent.process
        if process is not None:
            process.rlimit(kind, (soft(process), process.rlimit(kind)[1]))

    return change


def _unlimited(kind: int) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        process = stage.agent.process
        if process is not None:
            hard = process.rlimit(kind)[1]
            process.rlimit(kind, (hard, hard))

    return change


def _memory_in_use(process: psutil.Process) -> int:
    return int(process.memory_info().vms) + _SPARE_MEMORY_BYTES


def _signal(number: signal.Signals) -> Callable[[Stage], None]:
    return lambda stage: stage.agent.send(number)


def _bad_disk(begin: Callable[[Stage], None]) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        begin(stage)
        stage.broker_line.latency_s = _UNANSWERED_S

    return change


def _disk_fails_with(number: int) -> Callable[[Stage], None]:
    return _bad_disk(lambda stage: stage.machine.fail_disk(number))


def _good_disk(stage: Stage) -> None:
    _unlimited(psutil.RLIMIT_FSIZE)(stage)
    stage.machine.heal()
    stage.broker_line.mend()


def _heal(stage: Stage) -> None:
    stage.machine.heal()


def _mend_camera(stage: Stage) -> None:
    stage.camera_line.mend()


def _mend_broker(stage: Stage) -> None:
    stage.broker_line.mend()


def _black_hole(stage: Stage) -> None:
    stage.broker_line.is_black_hole = True


def _camera_black_hole(stage: Stage) -> None:
    stage.camera_line.is_black_hole = True


def _slow_line(stage: Stage) -> None:
    stage.broker_line.latency_s = SLOW_LINE_S


def _rewrite_config(before: str, after: str) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        text = stage.config.read_text(encoding="utf-8")
        stage.config.write_text(text.replace(before, after), encoding="utf-8")
        stage.agent.send(signal.SIGHUP)

    return change


FAULTS: tuple[Fault, ...] = (
    Fault("camera stalls", "F02", "camera", lambda stage: stage.camera.stall(), lambda stage: stage.camera.resume(),
          evidence.is_camera_silent, spares=_DRAWN, recovers_within_s=_CAMERA_WITHIN_S),
    Fault("camera goes away", "F01", "camera", lambda stage: stage.end_camera(), lambda stage: stage.start_camera(),
          evidence.is_camera_silent, spares=_DRAWN, recovers_within_s=_CAMERA_WITHIN_S),
    Fault("camera's line is a black hole", "F02", "camera", _camera_black_hole, _mend_camera,
          evidence.is_camera_silent, spares=_DRAWN, recovers_within_s=_CAMERA_WITHIN_S),
    Fault("camera trickles", "F03", "camera", lambda stage: stage.camera_line.trickle(_TRICKLE_BYTES_PER_S),
          _mend_camera, evidence.is_camera_slow, (8.0, 14.0), _DRAWN,
          recovers_within_s=_CAMERA_WITHIN_S),
    Fault("camera refuses the password", "F01", "camera", lambda stage: stage.start_camera("another"),
          lambda stage: stage.start_camera(), evidence.is_camera_silent, spares=_DRAWN,
          recovers_within_s=_CAMERA_WITHIN_S),
    Fault("broker stalls", "F13", "broker", lambda stage: stage.broker.pause(), lambda stage: stage.broker.resume(),
          evidence.is_broker_stopped, loses_subscriber=True),
    Fault("broker stops", "F12", "broker", lambda stage: stage.end_broker(signal.SIGTERM),
          lambda stage: stage.start_broker(), evidence.is_broker_gone, loses_subscriber=True),
    Fault("broker is killed", "F12", "broker", lambda stage: stage.end_broker(signal.SIGKILL),
          lambda stage: stage.start_broker(), evidence.is_broker_gone, loses_subscriber=True),
    Fault("broker's line is a black hole", "F13", "broker", _black_hole, _mend_broker, evidence.is_agent_unheard),
    Fault("broker's line is reset", "F14", "broker", lambda stage: stage.broker_line.reset(), _nothing,
          evidence.has_connected_anew, (0.0, 0.0)),
    Fault("broker's line is slow", "F14", "broker", _slow_line, _mend_broker, evidence.is_late),
    Fault("broker refuses the password", "F15", "broker", lambda stage: stage.set_agents_password("another"),
          lambda stage: stage.set_agents_password(CANARY), evidence.logged("not authorised"), (2.0, 4.0),
          recovers_within_s=_REFUSAL_WITHIN_S),
    Fault("disk is full", "F20", "disk", _bad_disk(_limit(psutil.RLIMIT_FSIZE, lambda _: 0)), _good_disk,
          evidence.is_limited(psutil.RLIMIT_FSIZE), (4.0, 8.0), _BOTH),
    Fault("disk is read-only", "F21", "disk", _disk_fails_with(errno.EROFS), _good_disk,
          evidence.has_disk_failed, (4.0, 8.0), _BOTH),
    Fault("disk gives errors", "F22", "disk", _disk_fails_with(errno.EIO), _good_disk,
          evidence.has_disk_failed, (4.0, 8.0), _BOTH),
    Fault("disk is slow", "F22", "disk", _bad_disk(lambda stage: stage.machine.slow_disk(2.0)), _good_disk,
          evidence.has_disk_failed, (5.0, 10.0), _BOTH),
    Fault("clock jumps ahead", "F10", "clock", lambda stage: stage.machine.set_clock(DECADE_S), _heal,
          evidence.is_time_wrong, spares=_BOTH),
    Fault("clock jumps back", "F10", "clock", lambda stage: stage.machine.set_clock(-DECADE_S), _heal,
          evidence.is_time_wrong, spares=_BOTH),
    Fault("agent reloads", "F26", "configuration", _rewrite_config("rate_hz: 15", "rate_hz: 14"),
          _rewrite_config("rate_hz: 14", "rate_hz: 15"), evidence.logged("config.applied"), (2.0, 4.0), _BOTH),
    Fault("agent reloads a mistake", "F45", "configuration", _rewrite_config("rate_hz", "rate_hrz"),
          _rewrite_config("rate_hrz", "rate_hz"), evidence.logged("config.rejected"), spares=_BOTH),
    Fault("no descriptors left", "F28", "process", _limit(psutil.RLIMIT_NOFILE, lambda _: 3),
          _unlimited(psutil.RLIMIT_NOFILE), evidence.is_limited(psutil.RLIMIT_NOFILE), spares=_DRAWN),
    Fault("no memory left", "F27", "process", _limit(psutil.RLIMIT_AS, _memory_in_use), _unlimited(psutil.RLIMIT_AS),
          evidence.is_limited(psutil.RLIMIT_AS), (2.0, 5.0), may_end_agent=True),
    Fault("agent gets SIGTERM", "F26", "restart", _signal(signal.SIGTERM), _nothing, evidence.ended_with(0),
          (0.0, 0.0), ends_agent=True),
    Fault("agent is killed", "F25", "restart", _signal(signal.SIGKILL), _nothing,
          evidence.ended_with(-signal.SIGKILL), (0.0, 0.0), ends_agent=True),
)  # fmt: skip


class Draw:
    """Draws faults so that each occurs once before any occurs again.

    Those that end the agent come first in each round: the rest of the round is one long life, which reveals leaks.
    """

    def __init__(self, seed: int, faults: Sequence[Fault] = FAULTS) -> None:
        self._chance = random.Random(seed)
        self._faults = faults
        self._waiting: list[Fault] = []

    def next(self) -> tuple[Fault, float]:
        """The next fault and how long it lasts."""
        if not self._waiting:
            shuffled = self._chance.sample(self._faults, len(self._faults))
            self._waiting = sorted(shuffled, key=lambda fault: fault.ends_agent or fault.may_end_agent)
        fault = self._waiting.pop()
        return fault, self._chance.uniform(*fault.lasts_s)
