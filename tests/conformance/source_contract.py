"""The contract of a source as checks for any source: real ones must pass, broken ones must fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from agent.cameras.sources.base import Capture, Source
from agent.runtime.errors import SourceLost, SourceUnavailable

KINDS = {"file", "images", "folder", "image", "rtsp", "http", "stream", "v4l2", "csi", "gstreamer", "pattern"}


@dataclass(frozen=True)
class SourceCase:
    """One implementation: how to create it, and how to create one whose camera or file is absent.

    One that is not live holds at least six frames, and ends, or waits for more where ``has_end`` is false.
    ``interrupt_s`` is the documented bound with room for a busy machine.
    """

    make: Callable[[], Source]
    make_absent: Callable[[], Source]
    is_live: bool
    has_end: bool | None = None
    interrupt_s: float = 20.0


def _has_end(case: SourceCase) -> bool:
    return not case.is_live if case.has_end is None else case.has_end


def _read(source: Source, count: int = 3) -> list[Capture]:
    captures = []
    for _ in range(count):
        capture = source.read()
        assert capture is not None, "no frame where one is due"
        captures.append(capture)
    return captures


def describes_itself(case: SourceCase) -> None:
    source = case.make()
    assert source.kind in KINDS
    assert source.is_live is case.is_live
    assert source.has_end is _has_end(case)
    assert source.description
    assert "@" not in source.description, "the description shows credentials"


def reading_before_opening_is_refused(case: SourceCase) -> None:
    source = case.make()
    with pytest.raises(SourceLost, match="not open") as caught:
        source.read()
    assert caught.value.fields["reason"] == "not_open"


def reading_after_closing_is_refused(case: SourceCase) -> None:
    source = case.make()
    source.open()
    _read(source, 1)
    source.close()
    with pytest.raises(SourceLost) as caught:
        source.read()
    assert caught.value.fields["reason"] == "not_open"


def opening_twice_is_harmless(case: SourceCase) -> None:
    source = case.make()
    try:
        source.open()
        source.open()
        _read(source)
    finally:
        source.close()


def closing_twice_or_unopened_is_harmless(case: SourceCase) -> None:
    source = case.make()
    source.close()
    source.open()
    source.close()
    source.close()


def opens_again_after_closing(case: SourceCase) -> None:
    source = case.make()
    try:
        for _ in range(2):
            source.open()
            _read(source)
            source.close()
    finally:
        source.close()


def frames_are_contiguous_uint8_bgr(case: SourceCase) -> None:
    source = case.make()
    try:
        source.open()
        for capture in _read(source):
            image = capture.image
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.size > 0
            assert image.flags.c_contiguous
    finally:
        source.close()


def frames_belong_to_the_caller(case: SourceCase) -> None:
    source = case.make()
    try:
        source.open()
        (first,) = _read(source, 1)
        kept = first.image.copy()
        others = _read(source, 2)
        assert not any(np.shares_memory(first.image, other.image) for other in others)
    finally:
        source.close()
    assert np.array_equal(first.image, kept), "a frame changed after it was delivered"
    first.image[:] = 0


def stamps_lie_in_the_past_and_never_go_back(case: SourceCase) -> None:
    source = case.make()
    try:
        source.open()
        before = 0
        for _ in range(3):
            (capture,) = _read(source, 1)
            now_ns = time.monotonic_ns()
            assert capture.capture_ms >= 0.0
            assert capture.captured_at_ns + capture.capture_ms * 1e6 <= now_ns, "ready in the future"
            assert capture.captured_at_ns >= before, "the stamps went back"
            before = capture.captured_at_ns
    finally:
        source.close()


def both_time_stamps_are_the_same_moment(case: SourceCase) -> None:
    source = case.make()
    try:
        source.open()
        (capture,) = _read(source, 1)
    finally:
        source.close()
    between_ns = time.time_ns() - time.monotonic_ns()
    drift_ns = capture.captured_at_utc_ns - capture.captured_at_ns - between_ns
    assert abs(drift_ns) < 5 * 10**9, "UTC and monotonic stamp are of different moments"


def an_end_is_permanent(case: SourceCase) -> None:
    source = case.make()
    try:
        source.open()
        if not _has_end(case):
            _read(source, 5)
            return
        _read(source, 3)
        for _ in range(10_000):
            if source.read() is None:
                break
        else:
            pytest.fail("the source does not end")
        assert source.read() is None
        assert source.read() is None
    finally:
        source.close()


def every_delivery_is_counted(case: SourceCase) -> None:
    source = case.make()
    assert source.statistics().delivered == 0
    try:
        source.open()
        _read(source, 3)
        assert source.statistics().delivered == 3
    finally:
        source.close()
    assert source.statistics().delivered == 3


def announces_a_plausible_rate(case: SourceCase) -> None:
    source = case.make()
    try:
        source.open()
        assert source.fps is None or 0.0 < source.fps <= 1000.0
    finally:
        source.close()


def an_interrupted_source_stays_interrupted(case: SourceCase) -> None:
    source = case.make()
    source.open()
    try:
        source.interrupt()
        for _ in range(2):
            with pytest.raises(SourceLost) as lost:
                source.read()
            assert lost.value.fields["reason"] == "interrupted"
    finally:
        source.close()
    with pytest.raises(SourceUnavailable) as unavailable:
        source.open()
    assert unavailable.value.fields["reason"] == "interrupted"
    source.close()


def an_interruption_ends_the_reading_of_another_thread(case: SourceCase) -> None:
    source = case.make()
    reasons: list[object] = []
    is_reading = threading.Event()

    def read_for_ever() -> None:
        try:
            source.open()
            while True:
                source.read()
                is_reading.set()
        except (SourceLost, SourceUnavailable) as exc:
            reasons.append(exc.fields["reason"])
        finally:
            is_reading.set()
            source.close()

    thread = threading.Thread(target=read_for_ever, name="reader")
    thread.start()
    is_reading.wait(60.0)
    source.interrupt()
    thread.join(case.interrupt_s)
    is_late = thread.is_alive()
    thread.join(60.0)
    assert not is_late, "the interruption took too long"
    assert reasons == ["interrupted"]


def an_absent_source_raises_a_clear_error(case: SourceCase) -> None:
    source = case.make_absent()
    try:
        for _ in range(2):
            with pytest.raises(SourceUnavailable) as caught:
                source.open()
            error = caught.value
            reason = error.fields["reason"]
            assert isinstance(reason, str)
            assert reason.isidentifier()
            assert error.fields["source"] == source.description
            assert len(error.message) > 30, "the message does not say what happened and what to do"
            assert "Traceback" not in error.message
    finally:
        source.close()


CONTRACT: tuple[Callable[[SourceCase], None], ...] = (
    describes_itself,
    reading_before_opening_is_refused,
    reading_after_closing_is_refused,
    opening_twice_is_harmless,
    closing_twice_or_unopened_is_harmless,
    opens_again_after_closing,
    frames_are_contiguous_uint8_bgr,
    frames_belong_to_the_caller,
    stamps_lie_in_the_past_and_never_go_back,
    both_time_stamps_are_the_same_moment,
    an_end_is_permanent,
    every_delivery_is_counted,
    announces_a_plausible_rate,
    an_interrupted_source_stays_interrupted,
    an_interruption_ends_the_reading_of_another_thread,
    an_absent_source_raises_a_clear_error,
)
