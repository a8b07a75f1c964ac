from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.cameras.frame_counters import InFlightFrame
from agent.inference.batcher import Batcher
from agent.inference.fair_queue import Binding, Request
from agent.runtime.records import Frame

_IMAGE = np.zeros((1, 1, 3), np.uint8)
_BINDINGS = [
    Binding("live-1", "c", is_live=True, priority=1, rate_hz=None),
    Binding("live-2", "c", is_live=True, priority=2, rate_hz=None),
    Binding("file-1", "c", is_live=False, priority=1, rate_hz=None),
    Binding("file-2", "c", is_live=False, priority=3, rate_hz=5.0),
]


@given(
    steps=st.lists(st.one_of(st.integers(0, len(_BINDINGS) - 1), st.none()), max_size=80),
    max_size=st.integers(1, 5),
    min_share=st.sampled_from([0.0, 0.05]),
)
def test_a_batcher_conserves_frames_and_keeps_each_binding_in_order(
    steps: list[int | None], max_size: int, min_share: float
) -> None:
    superseded: list[Request[Binding]] = []
    taken: list[Request[Binding]] = []
    batcher = Batcher[Binding](superseded.append, min_share=min_share)
    put = 0
    for step in steps:
        if step is None:
            batch = batcher.take(max_size, 0, 0)
            assert len(batch) <= max_size
            priorities = [request.binding.priority for request in batch]
            assert min_share or priorities == sorted(priorities)
            taken += batch
        else:
            binding = _BINDINGS[step]
            batcher.put(binding, InFlightFrame(Frame(binding.camera, put, _IMAGE, 0, 0, 0.0), 1))
            put += 1
        assert put == len(taken) + len(superseded) + batcher.waiting
    rest = batcher.close()
    assert put == len(taken) + len(superseded) + len(rest)
    assert all(request.binding.is_live for request in superseded)
    for binding in _BINDINGS:
        indexes = [request.in_flight.frame.index for request in taken + rest if request.binding is binding]
        assert indexes == sorted(indexes)
