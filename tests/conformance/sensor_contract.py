"""What every sensor keeps, whatever it reads from."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from agent.thermal.sensors.base import Sensor, ThermalSample
from tests.fixtures.deadlines import wait_until

MakeSensor = Callable[[], Sensor]
Promise = Callable[[MakeSensor, float], None]
"""Takes what makes the sensor, and how many seconds it may take to do what it does by itself."""


def first_sample(sensor: Sensor, patience_s: float) -> ThermalSample:
    wait_until(sensor.latest, within_s=patience_s)
    sample = sensor.latest()
    assert sample is not None
    return sample


def has_nothing_before_start(make: MakeSensor, patience_s: float) -> None:
    sensor = make()
    assert sensor.latest() is None
    assert sensor.describe().state == "stopped"
    sensor.stop()


def delivers_believable_samples(make: MakeSensor, patience_s: float) -> None:
    sensor = make()
    sensor.start()
    try:
        sample = first_sample(sensor, patience_s)
        assert sample.temperatures, "the bench has zones"
        for zone, celsius in sample.temperatures.items():
            assert zone == zone.lower()
            assert math.isfinite(celsius)
            assert -40.0 <= celsius <= 125.0
        assert not set(sample.temperatures) & set(sample.absent)
        assert all(reason for reason in sample.absent.values())
        assert set(sample.trip_points) >= set(sample.temperatures) or not sample.trip_points
        assert sample.power.total_meaning
        assert all(watts >= 0.0 for watts in sample.power.rails.values())
        assert sensor.describe().state == "reading"
        assert sensor.describe().source == sample.source
    finally:
        sensor.stop()


def goes_on_delivering(make: MakeSensor, patience_s: float) -> None:
    sensor = make()
    sensor.start()
    try:
        earlier = first_sample(sensor, patience_s)

        def is_newer() -> bool:
            sample = sensor.latest()
            assert sample is None or sample.taken_at_ns >= earlier.taken_at_ns
            return sample is not None and sample.taken_at_ns > earlier.taken_at_ns

        wait_until(is_newer, within_s=patience_s)
    finally:
        sensor.stop()


def never_waits(make: MakeSensor, patience_s: float) -> None:
    """Looks from another thread all come back, while it starts, reads and stops."""
    sensor = make()
    counted, stop = [0], threading.Event()

    def look() -> None:
        while not stop.is_set():
            sensor.latest()
            sensor.describe()
            counted[0] += 1

    thread = threading.Thread(target=look, name="looker", daemon=True)
    thread.start()
    try:
        sensor.start()
        first_sample(sensor, patience_s)
        target = counted[0] + 1000
        wait_until(lambda: counted[0] > target, within_s=patience_s)
        sensor.stop()
        target = counted[0] + 1000
        wait_until(lambda: counted[0] > target, within_s=patience_s)
    finally:
        stop.set()
        sensor.stop()
        thread.join(10.0)


def has_nothing_after_stop(make: MakeSensor, patience_s: float) -> None:
    sensor = make()
    sensor.start()
    first_sample(sensor, patience_s)
    sensor.stop()
    assert sensor.latest() is None
    assert sensor.describe().state == "stopped"
    sensor.stop()


def starts_again_after_stop(make: MakeSensor, patience_s: float) -> None:
    sensor = make()
    sensor.start()
    earlier = first_sample(sensor, patience_s)
    sensor.stop()
    sensor.start()
    try:
        assert first_sample(sensor, patience_s).taken_at_ns > earlier.taken_at_ns
    finally:
        sensor.stop()


def starts_once_when_told_twice(make: MakeSensor, patience_s: float) -> None:
    sensor = make()
    sensor.start()
    before = threading.active_count()
    sensor.start()
    assert threading.active_count() == before
    sensor.stop()


CONTRACT: tuple[Promise, ...] = (
    has_nothing_before_start,
    delivers_believable_samples,
    goes_on_delivering,
    never_waits,
    has_nothing_after_stop,
    starts_again_after_stop,
    starts_once_when_told_twice,
)
