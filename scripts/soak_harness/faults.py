"""What can go wrong during a soak: each fault begins, lasts some seconds, and ends."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from scripts.soak_harness.stage import RESULTS, Stage

_BOTH = frozenset(RESULTS)


@dataclass(frozen=True, slots=True)
class Fault:
    """``spares`` are the cameras whose results must go on through it; ``ends_agent`` that the agent's end is meant."""

    name: str
    row: str
    begin: Callable[[Stage], None]
    end: Callable[[Stage], None]
    lasts_s: tuple[float, float] = (2.0, 8.0)
    spares: frozenset[str] = frozenset()
    ends_agent: bool = False
    loses_subscriber: bool = False


def _nothing(stage: Stage) -> None:
    pass


def _limit(kind: int, soft: int | None) -> Callable[[Stage], None]:
    """Set a soft limit of the agent's process; its hard one where None."""

    def change(stage: Stage) -> None:
        process = stage.agent.process
        if process is not None:
            hard = process.rlimit(kind)[1]
            process.rlimit(kind, (hard if soft is None else soft, hard))

    return change


def _signal(number: signal.Signals) -> Callable[[Stage], None]:
    return lambda stage: stage.agent.send(number)


def _start_broker(stage: Stage) -> None:
    stage.broker.start()


FAULTS: tuple[Fault, ...] = (
    Fault("camera stalls", "F02", lambda stage: stage.camera.stall(), lambda stage: stage.camera.resume(),
          spares=frozenset({"drawn"})),
    Fault("camera goes away", "F01", lambda stage: stage.camera.kill(), lambda stage: stage.restart_camera(),
          spares=frozenset({"drawn"})),
    Fault("broker stalls", "F13", lambda stage: stage.broker.pause(), lambda stage: stage.broker.resume(),
          loses_subscriber=True),
    Fault("broker stops", "F12", lambda stage: stage.broker.stop(), _start_broker,
          loses_subscriber=True),
    Fault("broker is killed", "F12", lambda stage: stage.broker.kill(), _start_broker,
          loses_subscriber=True),
    Fault("agent is told to reload", "F26", _signal(signal.SIGHUP), _nothing, (0.0, 0.0), _BOTH),
    Fault("agent is told to end", "F26", _signal(signal.SIGTERM), _nothing, (0.0, 0.0), ends_agent=True),
    Fault("agent is killed", "F25", _signal(signal.SIGKILL), _nothing, (0.0, 0.0), ends_agent=True),
    Fault("disk is full", "F20", _limit(psutil.RLIMIT_FSIZE, 0), _limit(psutil.RLIMIT_FSIZE, None), spares=_BOTH),
    Fault("no descriptors left", "F28", _limit(psutil.RLIMIT_NOFILE, 3), _limit(psutil.RLIMIT_NOFILE, None),
          spares=frozenset({"drawn"})),
)  # fmt: skip


class Draw:
    """Draws faults so that each one comes once before any comes again."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._waiting: list[Fault] = []

    def next(self) -> tuple[Fault, float]:
        """The next fault and how long it lasts."""
        if not self._waiting:
            self._waiting = self._chance.sample(FAULTS, len(FAULTS))
        fault = self._waiting.pop()
        return fault, self._chance.uniform(*fault.lasts_s)
