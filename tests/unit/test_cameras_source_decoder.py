"""The boundary to OpenCV: image formats, and the process-wide FFmpeg options."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from agent.cameras.sources.decoder import OptionGate, UnsupportedImage, image_from_array

VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_grey_colour_and_alpha_become_bgr(shape: tuple[int, ...]) -> None:
    image = image_from_array(np.full(shape, 5, np.uint8))
    assert image.shape == (4, 6, 3)
    assert image.flags.c_contiguous
    assert np.all(image == 5)


def test_a_bgr_image_is_not_copied() -> None:
    array = np.zeros((4, 6, 3), np.uint8)
    assert np.shares_memory(image_from_array(array), array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 3), np.uint16),
        np.zeros((4, 6), np.float32),
        np.zeros((4, 6, 2), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros((4,), np.uint8),
    ],
    ids=["16-bit", "float", "two-channels", "empty", "one-axis"],
)
def test_other_arrays_are_refused_with_shape_and_dtype(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(UnsupportedImage, match=str(array.dtype)):
        image_from_array(array)


def test_options_apply_inside_the_gate_and_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = OptionGate()
    monkeypatch.setenv(VARIABLE, "of;the|process;1")
    with gate.holding("rtsp_transport;udp", timeout_s=1.0) as entered:
        assert entered
        assert os.environ[VARIABLE] == "rtsp_transport;udp"
    assert os.environ[VARIABLE] == "of;the|process;1"
    monkeypatch.delenv(VARIABLE)
    with gate.holding("rtsp_transport;udp", timeout_s=1.0):
        pass
    assert VARIABLE not in os.environ


def test_equal_options_open_together_and_others_wait_their_turn() -> None:
    gate = OptionGate()
    with gate.holding(None, timeout_s=1.0) as first, gate.holding(None, timeout_s=1.0) as second:
        assert first
        assert second
        with gate.holding("rtsp_transport;udp", timeout_s=0.05) as third:
            assert not third
        assert VARIABLE not in os.environ
    with gate.holding("rtsp_transport;udp", timeout_s=0.05) as third:
        assert third


def test_an_interruption_ends_the_wait_at_the_gate() -> None:
    gate, interrupted = OptionGate(), threading.Event()
    interrupted.set()
    with gate.holding("a;1", timeout_s=1.0), gate.holding("b;1", timeout_s=60.0, interrupted=interrupted) as entered:
        assert not entered


def test_an_exception_releases_the_gate() -> None:
    gate = OptionGate()
    with pytest.raises(RuntimeError), gate.holding("a;1", timeout_s=1.0):
        raise RuntimeError
    with gate.holding("b;1", timeout_s=0.05) as entered:
        assert entered


def test_waiters_of_both_kinds_all_get_through() -> None:
    gate, seen = OptionGate(), []

    def pass_through(options: str | None) -> None:
        with gate.holding(options, timeout_s=30.0) as entered:
            seen.append((entered, os.environ.get(VARIABLE) == options))

    threads = [threading.Thread(target=pass_through, args=(options,)) for options in ["a;1", None, "b;1", None] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert seen == [(True, True)] * 20
