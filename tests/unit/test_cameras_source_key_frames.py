"""Which packets are decoded, by the times at which key frames come."""

from __future__ import annotations

import pytest

from agent.cameras.sources.key_frames import KeyFrames
from agent.config.sections.sources import DecodeMode

_FRAME_NS = 40_000_000


def _decoded(mode: DecodeMode, *, every: int, frames: int, wanted_hz: float | None) -> list[int]:
    """The indices of the decoded frames of a stream of 25 fps with a key frame every few frames."""
    key_frames = KeyFrames(mode)
    return [
        index
        for index in range(frames)
        if key_frames.wants(is_key=index % every == 0, now_ns=index * _FRAME_NS, wanted_hz=wanted_hz)
    ]


def test_all_decodes_every_frame() -> None:
    assert _decoded("all", every=25, frames=200, wanted_hz=1.0) == list(range(200))


def test_keyframes_decodes_only_these() -> None:
    assert _decoded("keyframes", every=25, frames=101, wanted_hz=None) == [0, 25, 50, 75, 100]


def test_auto_decodes_only_key_frames_once_they_have_come_often_enough() -> None:
    assert _decoded("auto", every=25, frames=151, wanted_hz=1.0) == [*range(76), 100, 125, 150]


@pytest.mark.parametrize(("every", "wanted_hz"), [(25, 2.0), (50, 1.0), (25, None)], ids=["rate", "rare", "all"])
def test_auto_decodes_every_frame_while_key_frames_are_too_rare(every: int, wanted_hz: float | None) -> None:
    assert _decoded("auto", every=every, frames=400, wanted_hz=wanted_hz) == list(range(400))


def test_auto_goes_back_to_every_frame_at_a_key_frame() -> None:
    key_frames, decoded = KeyFrames("auto"), []
    for index in range(400):
        is_key = index % 25 == 0 if index < 200 else index in (200, 300)
        if key_frames.wants(is_key=is_key, now_ns=index * _FRAME_NS, wanted_hz=1.0):
            decoded.append(index)
    # The interval of 100 frames shows at its end; the frames inside it lack the ones before them.
    assert decoded == [*range(76), 100, 125, 150, 175, 200, *range(300, 400)]


def test_a_camera_without_key_frames_is_decoded_whole() -> None:
    key_frames = KeyFrames("auto")
    assert all(key_frames.wants(is_key=False, now_ns=index, wanted_hz=1.0) for index in range(100))
