"""An in-memory source that keeps the contract, and variants that each break it in one place."""

from __future__ import annotations

import threading
import time

import numpy as np

from agent.cameras.sources.base import Capture, SourceStatistics
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime.records import Image


class GoodSource:
    """Six grey frames and an end, or live frames without an end."""

    kind = "pattern"
    wanted_hz: float | None = None

    def __init__(self, *, is_live: bool = False, is_absent: bool = False) -> None:
        self._is_live = is_live
        self.is_absent = is_absent
        self.is_open = False
        self.number = 0
        self.delivered = 0
        self.stop = threading.Event()

    @property
    def is_live(self) -> bool:
        return self._is_live

    @property
    def has_end(self) -> bool:
        return not self.is_live

    @property
    def description(self) -> str:
        return "memory"

    @property
    def fps(self) -> float | None:
        return 100.0

    def open(self) -> None:
        if self.stop.is_set():
            raise SourceUnavailable("opening was interrupted", reason="interrupted", source=self.description)
        if self.is_absent:
            raise SourceUnavailable(
                "the memory is not there, put some in and try again", reason="missing", source=self.description
            )
        self.is_open, self.number = True, 0

    def read(self) -> Capture | None:
        if self.stop.is_set():
            raise SourceLost("reading was interrupted", reason="interrupted", source=self.description)
        if not self.is_open:
            raise SourceLost("memory is not open", reason="not_open", source=self.description)
        return self.next_capture()

    def next_capture(self) -> Capture | None:
        if self._is_live:
            self.stop.wait(0.005)
        elif self.number >= 6:
            return None
        self.number += 1
        self.delivered += 1
        now_ns, now_utc_ns = time.monotonic_ns(), time.time_ns()
        image = self.draw()
        return Capture(image, now_ns, now_utc_ns, (time.monotonic_ns() - now_ns) / 1e6)

    def draw(self) -> Image:
        return np.full((12, 16, 3), self.number % 256, np.uint8)

    def is_there(self) -> bool | None:
        return None

    def close(self) -> None:
        self.is_open = False

    def interrupt(self) -> None:
        self.stop.set()

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(delivered=self.delivered, skipped=0)


class ReusesItsArray(GoodSource):
    buffer: Image = np.zeros((12, 16, 3), np.uint8)

    def draw(self) -> Image:
        self.buffer[:] = self.number
        return self.buffer


class GivesGrey(GoodSource):
    def draw(self) -> Image:
        return np.zeros((12, 16), np.uint8)


class GivesFloats(GoodSource):
    def draw(self) -> Image:
        return np.zeros((12, 16, 3), np.float32)


class GivesAView(GoodSource):
    def draw(self) -> Image:
        return np.zeros((12, 16, 3), np.uint8)[:, ::-1]


class StampsTheFuture(GoodSource):
    def next_capture(self) -> Capture | None:
        capture = super().next_capture()
        return capture and Capture(capture.image, capture.captured_at_ns + 10**9, capture.captured_at_utc_ns, 1.0)


class StampsBackwards(GoodSource):
    def next_capture(self) -> Capture | None:
        capture = super().next_capture()
        earlier_ns = self.number * 10**9
        return capture and Capture(capture.image, capture.captured_at_ns - earlier_ns, capture.captured_at_utc_ns, 1.0)


class StampsLocalTime(GoodSource):
    def next_capture(self) -> Capture | None:
        capture = super().next_capture()
        return capture and Capture(
            capture.image, capture.captured_at_ns, capture.captured_at_utc_ns + 3600 * 10**9, capture.capture_ms
        )


class ReadsWithoutOpening(GoodSource):
    def read(self) -> Capture | None:
        return self.next_capture()


class ReadsAfterClosing(GoodSource):
    def close(self) -> None:
        """Does not."""


class DiesOnTheSecondOpening(GoodSource):
    def open(self) -> None:
        if self.is_open:
            raise RuntimeError("already open")
        super().open()


class FailsOnTheSecondClose(GoodSource):
    def close(self) -> None:
        if not self.is_open:
            raise RuntimeError("not open")
        super().close()


class OpensOnce(GoodSource):
    def close(self) -> None:
        self.is_absent = True
        super().close()


class StartsAgainAfterItsEnd(GoodSource):
    def next_capture(self) -> Capture | None:
        capture = super().next_capture()
        if capture is None:
            self.number = 0
        return capture


class ForgetsToCount(GoodSource):
    def next_capture(self) -> Capture | None:
        capture = super().next_capture()
        self.delivered = 0
        return capture


class AnnouncesItsTimeBase(GoodSource):
    @property
    def fps(self) -> float | None:
        return 90000.0


class ForgetsTheInterruption(GoodSource):
    def close(self) -> None:
        super().close()
        self.stop.clear()


class SleepsThroughTheInterruption(GoodSource):
    def next_capture(self) -> Capture | None:
        if self.number > 0:
            threading.Event().wait(1.0)
        return super().next_capture()


class ShowsItsPassword(GoodSource):
    @property
    def description(self) -> str:
        return "rtsp://admin:secret@camera/1"


class LetsAForeignErrorOut(GoodSource):
    def open(self) -> None:
        if self.is_absent:
            raise OSError("No such device")
        super().open()


class SaysNothing(GoodSource):
    def open(self) -> None:
        if self.is_absent:
            raise SourceUnavailable("failed", reason="missing", source=self.description)
        super().open()


class LiveThatEnds(GoodSource):
    def next_capture(self) -> Capture | None:
        return super().next_capture() if self.number < 4 else None


class ClaimsToBeLive(GoodSource):
    @property
    def is_live(self) -> bool:
        return not self._is_live
