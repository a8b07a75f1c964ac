"""The states of an engine slot, as in the diagram of its module."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import pytest

from agent.inference.engine_return import EngineReturn
from agent.inference.engine_slot import EngineSlot, Lease, LoadedEngine, SlotState, load
from agent.runtime.clock import SystemClock
from engines import (
    BuildCancelled,
    BuildFailed,
    Building,
    Engine,
    EngineError,
    EngineLost,
    EngineUnavailable,
    ServerFailed,
)
from engines.select.served import ServedEngine
from tests.fixtures.deadlines import wait_until
from tests.fixtures.model_broker import ManualClock
from tests.fixtures.parts import BrightnessEngine, plain_package

_LABELS = ("dark", "bright")


def _engine(name: str, *, pending: str | None = None) -> Engine:
    engine = BrightnessEngine(len(_LABELS))
    engine.info = replace(engine.info, name=name, requested="auto", pending=pending)
    return engine


class _Slot:
    """A slot whose engines serve until their lease is over or the slot is closed."""

    def __init__(self, open_engine: Callable[[Building], Engine]) -> None:
        self.served: list[str] = []
        self.ended = 0
        self.bug: Exception | None = None
        self.slot = EngineSlot(
            "m",
            open_engine,
            load=self._load,
            serve=self._serve,
            on_reload=lambda: None,
            on_end=self._end,
            clock=SystemClock(),
        )
        self._closed = threading.Event()

    def state(self) -> SlotState:
        return self.slot.state

    def close(self) -> None:
        self.slot.close()
        self._closed.set()
        assert self.slot.join(5.0)

    def _load(self, engine: Engine) -> LoadedEngine:
        return load(engine, key="m", package=plain_package(*_LABELS), max_size=4)

    def _serve(self, lease: Lease) -> None:
        self.served.append(lease.loaded.info.name)
        if self.bug is not None and len(self.served) > 1:
            raise self.bug
        while not lease.is_over and not self._closed.wait(0.01):
            pass

    def _end(self) -> None:
        self.ended += 1


def test_a_slot_loads_serves_replaces_and_closes() -> None:
    go_on = threading.Event()

    def slow(building: Building) -> Engine:
        assert go_on.wait(5.0)
        return _engine("second")

    bench = _Slot(lambda building: _engine("first"))
    assert bench.state() is SlotState.LOADING
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    assert bench.state() is SlotState.SERVING
    assert bench.slot.replace(slow)
    assert bench.state() is SlotState.REPLACING
    assert not bench.slot.replace(slow), "one replacement at a time"
    go_on.set()
    wait_until(lambda: bench.served == ["first", "second"])
    wait_until(lambda: bench.state() is SlotState.SERVING)
    bench.close()
    assert bench.state() is SlotState.CLOSED
    assert not bench.slot.replace(slow)
    assert bench.ended == 1, "the end is reported once, however many engines served"


def test_a_replacement_that_cannot_be_loaded_leaves_the_current_engine_in_place() -> None:
    def broken(building: Building) -> Engine:
        raise BuildFailed("no room for the plan", engine="tensorrt")

    bench = _Slot(lambda building: _engine("first"))
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    assert bench.slot.replace(broken)
    wait_until(lambda: bench.state() is SlotState.SERVING)
    assert bench.slot.progress.last_change == "first stays: no room for the plan"
    bench.close()
    assert bench.served == ["first"]


@pytest.mark.parametrize("bug", [OSError(28, "No space left on device"), MemoryError("no"), KeyError("x")], ids=repr)
def test_a_replacement_that_fails_by_a_bug_leaves_the_current_engine_in_place(bug: Exception) -> None:
    def broken(building: Building) -> Engine:
        raise bug

    bench = _Slot(lambda building: _engine("first", pending="tensorrt"))
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    wait_until(lambda: bench.state() is SlotState.SERVING)
    assert bench.slot.replace(broken)
    wait_until(lambda: f"{type(bug).__name__}: {bug}" in (bench.slot.progress.last_change or ""))
    assert bench.state() is SlotState.SERVING
    assert bench.slot.failure is None
    assert bench.slot.loaded is not None
    assert bench.slot.loaded.info.pending is None
    assert bench.slot.replace(lambda building: _engine("second")), "a later replacement may still come"
    wait_until(lambda: bench.served == ["first", "second"])
    bench.close()


def test_a_bug_while_serving_ends_the_slot_also_after_a_replacement() -> None:
    bench = _Slot(lambda building: _engine("first"))
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    bench.bug = KeyError("while serving")
    assert bench.slot.replace(lambda building: _engine("second"))
    wait_until(lambda: bench.state() is SlotState.FAILED)
    assert bench.slot.failure is bench.bug
    assert bench.served == ["first", "second"]
    assert bench.slot.join(5.0)


def test_a_lost_device_ends_the_slot_also_during_a_replacement() -> None:
    def lost(building: Building) -> Engine:
        raise EngineLost("the context is gone")

    bench = _Slot(lambda building: _engine("first"))
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    assert bench.slot.replace(lost)
    wait_until(lambda: bench.state() is SlotState.FAILED)
    bench.close()


def test_a_first_engine_that_fails_by_a_bug_is_an_engine_error_with_its_cause() -> None:
    def broken(building: Building) -> Engine:
        raise bug

    bug = ValueError("unexpected")
    bench = _Slot(broken)
    bench.slot.start()
    with pytest.raises(
        EngineError, match=r"model m could not be loaded because of a bug: ValueError: unexpected"
    ) as caught:
        bench.slot.wait_ready(5.0)
    assert caught.value.__cause__ is bug


def test_a_replacement_that_is_loaded_after_the_end_never_serves() -> None:
    loaded, may_return = threading.Event(), threading.Event()

    def slow(building: Building) -> Engine:
        loaded.set()
        assert may_return.wait(5.0)
        return _engine("second")

    bench = _Slot(lambda building: _engine("first"))
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    assert bench.slot.replace(slow)
    assert loaded.wait(5.0)
    bench.slot.close()
    bench._closed.set()
    may_return.set()
    assert bench.slot.join(5.0)
    assert bench.served == ["first"]
    assert bench.state() is SlotState.CLOSED


def test_a_build_is_cancelled_by_close() -> None:
    def waits_for_cancel(building: Building) -> Engine:
        wait_until(building.is_cancelled)
        raise BuildCancelled("stopped", engine="tensorrt")

    bench = _Slot(waits_for_cancel)
    bench.slot.start()
    bench.close()
    assert bench.slot.failure is None
    assert bench.state() is SlotState.CLOSED
    assert bench.ended == 1


def test_a_first_engine_that_cannot_be_loaded_is_a_failure() -> None:
    def broken(building: Building) -> Engine:
        raise BuildFailed("no engine fits", engine="tensorrt")

    bench = _Slot(broken)
    bench.slot.start()
    with pytest.raises(BuildFailed, match="no engine fits"):
        bench.slot.wait_ready(5.0)
    assert bench.slot.join(5.0)
    assert bench.state() is SlotState.FAILED
    assert bench.ended == 1


class _Remote:
    """Opens `triton` while ``is_up``, else `ort-cpu` in its place, as ``open_engine`` does."""

    def __init__(self) -> None:
        self.is_up = True
        self.asked: list[Building] = []

    def open(self, building: Building) -> Engine:
        self.asked.append(building)
        if self.is_up and building.failed_server is None:
            return _engine("triton")
        if building.requested_only:
            raise EngineUnavailable("no server", engine="triton")
        engine = _engine("ort-cpu")
        info = replace(engine.info, away="triton", degraded=f"triton was requested: {building.failed_server}")
        return ServedEngine(engine, info)


class _RemoteSlot(_Slot):
    """Its engine's server fails whenever ``fail`` is set while `triton` serves."""

    def __init__(self, remote: _Remote) -> None:
        self.fail = threading.Event()
        super().__init__(remote.open)

    def _serve(self, lease: Lease) -> None:
        name = lease.loaded.info.name
        self.served.append(name)
        while not lease.is_over and not self._closed.wait(0.01):
            if name == "triton" and self.fail.is_set():
                self.fail.clear()
                raise ServerFailed("m at host:1 did not answer", reason="refused")


def test_a_failed_server_is_replaced_by_a_local_engine_as_often_as_it_fails_and_comes_back() -> None:
    remote = _Remote()
    bench = _RemoteSlot(remote)
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    for round_ in range(1, 4):  # a library that fails twice within ten minutes ends the slot; a server must not
        bench.fail.set()
        wait_until(partial(_equals, bench.served, ["triton", "ort-cpu"] * round_))
        assert bench.slot.loaded is not None
        assert bench.slot.loaded.served.degraded
        assert remote.asked[-1].failed_server == "refused"
        assert bench.slot.progress.last_change == "triton was replaced by ort-cpu: triton was requested: refused"
        assert bench.slot.return_requested(remote.open)
        wait_until(lambda: bench.served[-1] == "triton")
        assert remote.asked[-1].requested_only
        assert bench.slot.progress.last_change == "ort-cpu was replaced by triton"
        wait_until(lambda: bench.state() is SlotState.SERVING)
    assert bench.slot.progress.reloads == 0
    bench.close()
    assert bench.slot.failure is None


def test_attempts_to_reach_a_server_that_is_still_away_change_nothing_and_are_noted_once() -> None:
    remote = _Remote()
    bench = _RemoteSlot(remote)
    bench.slot.start()
    assert bench.slot.wait_ready(5.0)
    remote.is_up = False
    bench.fail.set()
    wait_until(lambda: bench.served == ["triton", "ort-cpu"])
    before = bench.slot.progress.changes
    for _ in range(3):
        wait_until(lambda: bench.slot.return_requested(remote.open))
        wait_until(lambda: bench.state() is SlotState.SERVING)
    assert bench.slot.progress.changes == before + 1
    assert bench.slot.progress.last_change == "ort-cpu stays: no server"
    assert bench.slot.loaded is not None
    assert bench.slot.loaded.info.away == "triton", "it must be tried again later"
    bench.close()
    assert bench.served == ["triton", "ort-cpu"]


def _equals(one: list[str], other: list[str]) -> bool:
    return one == other


class _AwaySlot:
    """What `EngineReturn` uses of a slot."""

    def __init__(self) -> None:
        engine = _engine("ort-cpu")
        loaded = load(engine, key="m", package=plain_package(*_LABELS), max_size=4)
        self.states = {name: replace(loaded, info=replace(loaded.info, away=name)) for name in (None, "triton")}
        self.loaded: LoadedEngine | None = None
        self.attempts = 0
        self.is_busy = False

    def return_requested(self, open_engine: Callable[[Building], Engine]) -> bool:
        self.attempts += not self.is_busy
        return not self.is_busy


class _LongestWaits(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def _attempts(slot: _AwaySlot, coming: EngineReturn, clock: ManualClock, seconds: int) -> list[int]:
    """The seconds in which an attempt began."""
    begun = []
    for second in range(seconds):
        before = slot.attempts
        coming.tick()
        if slot.attempts > before:
            begun.append(second)
        clock.advance(1.0)
    return begun


def test_a_server_that_is_away_is_tried_again_after_growing_pauses() -> None:
    slot, clock = _AwaySlot(), ManualClock()
    coming = EngineReturn(cast(EngineSlot, slot), lambda _: _engine("x"), clock=clock, rng=_LongestWaits())
    assert _attempts(slot, coming, clock, 5) == []  # nothing is loaded yet
    slot.loaded = slot.states[None]
    assert _attempts(slot, coming, clock, 5) == []  # the requested engine serves
    slot.loaded = slot.states["triton"]
    assert _attempts(slot, coming, clock, 260) == [1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_the_pauses_start_again_only_after_the_server_was_back_for_a_while() -> None:
    slot, clock = _AwaySlot(), ManualClock()
    coming = EngineReturn(cast(EngineSlot, slot), lambda _: _engine("x"), clock=clock, rng=_LongestWaits())
    slot.loaded = slot.states["triton"]
    assert _attempts(slot, coming, clock, 10) == [1, 3, 7]
    slot.loaded = slot.states[None]
    assert _attempts(slot, coming, clock, 5) == []
    slot.loaded = slot.states["triton"]
    assert _attempts(slot, coming, clock, 40) == [16], "it failed again at once"
    slot.loaded = slot.states[None]
    assert _attempts(slot, coming, clock, 40) == []
    slot.loaded = slot.states["triton"]
    assert _attempts(slot, coming, clock, 10) == [1, 3, 7]


def test_an_attempt_waits_until_the_slot_can_begin_one() -> None:
    slot, clock = _AwaySlot(), ManualClock()
    coming = EngineReturn(cast(EngineSlot, slot), lambda _: _engine("x"), clock=clock, rng=_LongestWaits())
    slot.loaded, slot.is_busy = slot.states["triton"], True
    assert _attempts(slot, coming, clock, 10) == []
    slot.is_busy = False
    assert _attempts(slot, coming, clock, 3) == [0, 2]
