from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.channel import Channel, Policy

_POLICIES: list[Policy] = ["drop_oldest", "drop_newest"]


@given(
    policy=st.sampled_from(_POLICIES),
    capacity=st.integers(1, 5),
    steps=st.lists(st.booleans(), max_size=60),
)
def test_a_channel_conserves_items_and_keeps_their_order(policy: Policy, capacity: int, steps: list[bool]) -> None:
    lost: list[int] = []
    received: list[int] = []
    channel: Channel[int] = Channel(capacity, policy, on_drop=lost.append)
    sent = 0
    for is_send in steps:
        if is_send:
            channel.send(sent)
            sent += 1
        else:
            item = channel.receive(timeout=0)
            if item is not None:
                received.append(item)
        statistics = channel.statistics()
        assert statistics.sent == sent
        assert statistics.sent == statistics.received + statistics.dropped + statistics.buffered
        assert statistics.buffered <= capacity
    assert received == sorted(received)
    assert len(lost) == channel.statistics().dropped
    assert not set(lost) & set(received)
