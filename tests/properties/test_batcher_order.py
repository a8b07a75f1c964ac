from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.cameras.frame_counters import Ticket
from agent.inference.batcher import Inbox, Job, Lane
from agent.runtime.records import Frame

_IMAGE = np.zeros((1, 1, 3), np.uint8)
_LANES = [
    Lane("live-1", "c", is_live=True, priority=1),
    Lane("live-2", "c", is_live=True, priority=2),
    Lane("file-1", "c", is_live=False, priority=1),
    Lane("file-2", "c", is_live=False, priority=3),
]


@given(
    steps=st.lists(st.one_of(st.integers(0, len(_LANES) - 1), st.none()), max_size=80),
    max_size=st.integers(1, 5),
)
def test_an_inbox_conserves_frames_and_keeps_each_lane_in_order(steps: list[int | None], max_size: int) -> None:
    superseded: list[Job[Lane]] = []
    taken: list[Job[Lane]] = []
    inbox = Inbox[Lane](superseded.append)
    put = 0
    for step in steps:
        if step is None:
            batch = inbox.take(max_size, 0, 0)
            assert len(batch) <= max_size
            assert [job.lane.priority for job in batch] == sorted(job.lane.priority for job in batch)
            taken += batch
        else:
            lane = _LANES[step]
            inbox.put(lane, Ticket(Frame(lane.camera, put, _IMAGE, 0, 0, 0.0), 1))
            put += 1
        assert put == len(taken) + len(superseded) + inbox.waiting
    rest = inbox.close()
    assert put == len(taken) + len(superseded) + len(rest)
    assert all(job.lane.is_live for job in superseded)
    for lane in _LANES:
        indexes = [job.ticket.frame.index for job in taken + rest if job.lane is lane]
        assert indexes == sorted(indexes)
