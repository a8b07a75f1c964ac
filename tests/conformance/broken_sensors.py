"""A sensor in memory that keeps the contract, and relatives that each break it in one place."""

from __future__ import annotations

import threading
import time

from agent.thermal.sensors.base import SensorDescription, ThermalSample


class GoodSensor:
    """One zone that is always at 50 degrees."""

    def __init__(self) -> None:
        self.is_running = False

    def start(self) -> None:
        self.is_running = True

    def latest(self) -> ThermalSample | None:
        return self.sample() if self.is_running else None

    def sample(self) -> ThermalSample:
        return ThermalSample("sysfs", time.monotonic_ns(), {"gpu": 50.0})

    def describe(self) -> SensorDescription:
        return SensorDescription("sysfs", "reading" if self.is_running else "stopped")

    def stop(self) -> None:
        self.is_running = False


class GivesNumbersForTheAbsent(GoodSensor):
    def sample(self) -> ThermalSample:
        return ThermalSample("sysfs", time.monotonic_ns(), {"gpu": -256.0})


class BothThereAndAbsent(GoodSensor):
    def sample(self) -> ThermalSample:
        return ThermalSample("sysfs", time.monotonic_ns(), {"gpu": 50.0}, absent={"gpu": "offline"})


class RepeatsItself(GoodSensor):
    def __init__(self) -> None:
        super().__init__()
        self.once = ThermalSample("sysfs", time.monotonic_ns(), {"gpu": 50.0})

    def sample(self) -> ThermalSample:
        return self.once


class SpeaksBeforeStart(GoodSensor):
    def latest(self) -> ThermalSample | None:
        return self.sample()


class SpeaksAfterStop(GoodSensor):
    def stop(self) -> None:
        pass


class WaitsForever(GoodSensor):
    def __init__(self) -> None:
        super().__init__()
        self.never = threading.Event()

    def latest(self) -> ThermalSample | None:
        if self.is_running and threading.current_thread() is not threading.main_thread():
            self.never.wait()
        return super().latest()

    def stop(self) -> None:
        super().stop()
        self.never.set()


class StaysStopped(GoodSensor):
    def __init__(self) -> None:
        super().__init__()
        self.was_stopped = False

    def stop(self) -> None:
        super().stop()
        self.was_stopped = True

    def latest(self) -> ThermalSample | None:
        return None if self.was_stopped else super().latest()


class StartsAThreadEachTime(GoodSensor):
    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        super().start()
        self.end.clear()
        self.threads.append(threading.Thread(target=self.end.wait, name="reader", daemon=True))
        self.threads[-1].start()

    def stop(self) -> None:
        super().stop()
        self.end.set()
        for thread in self.threads:
            thread.join()


class NamesAnotherSource(GoodSensor):
    def describe(self) -> SensorDescription:
        return SensorDescription("jtop", "reading" if self.is_running else "stopped")
