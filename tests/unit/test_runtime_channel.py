from __future__ import annotations

import threading

import pytest

from agent.runtime.channel import Channel, ChannelClosed, Policy


def test_drop_oldest_keeps_the_newest_and_reports_the_lost() -> None:
    lost: list[int] = []
    channel: Channel[int] = Channel(2, "drop_oldest", on_drop=lost.append)
    assert all(channel.send(item) for item in range(5))
    assert lost == [0, 1, 2]
    assert [channel.receive(), channel.receive()] == [3, 4]


def test_drop_newest_refuses_what_does_not_fit() -> None:
    lost: list[int] = []
    channel: Channel[int] = Channel(2, "drop_newest", on_drop=lost.append)
    assert [channel.send(item) for item in range(4)] == [True, True, False, False]
    assert lost == [2, 3]
    assert [channel.receive(), channel.receive()] == [0, 1]


def test_closing_wakes_a_waiting_receiver() -> None:
    channel: Channel[int] = Channel(1, "drop_oldest")
    outcome: list[str] = []

    def wait_for_item() -> None:
        try:
            channel.receive()
        except ChannelClosed:
            outcome.append("closed")

    receiver = threading.Thread(target=wait_for_item)
    receiver.start()
    channel.close()
    receiver.join(5)
    assert outcome == ["closed"]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_what_was_sent_before_closing_can_still_be_received(policy: Policy) -> None:
    channel: Channel[int] = Channel(3, policy)
    channel.send(1)
    channel.close()
    assert channel.receive() == 1
    with pytest.raises(ChannelClosed):
        channel.receive()
    with pytest.raises(ChannelClosed):
        channel.send(2)


def test_receive_gives_none_when_nothing_comes_in_time() -> None:
    assert Channel[int](1, "drop_oldest").receive(timeout=0.01) is None


def test_a_channel_without_room_for_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Channel[int](0, "drop_oldest")


def test_a_wake_makes_one_receive_return_although_nothing_came() -> None:
    channel: Channel[int] = Channel(2, "drop_oldest")
    channel.wake()
    assert channel.receive() is None
    assert channel.receive(timeout=0.01) is None
    channel.send(1)
    channel.wake()
    assert (channel.receive(), channel.receive()) == (1, None)


def test_what_comes_before_the_end_can_be_received_and_what_comes_after_stays_the_senders() -> None:
    lost: list[int] = []

    def end(item: int) -> None:
        lost.append(item)
        channel.close()

    channel: Channel[int] = Channel(1, "drop_oldest", on_drop=end)
    assert channel.send(1)
    assert channel.send(2)
    with pytest.raises(ChannelClosed):
        channel.send(3)
    assert channel.receive() == 2
    with pytest.raises(ChannelClosed):
        channel.receive()
    counts = channel.statistics()
    assert (lost, counts.sent, counts.dropped, counts.buffered) == ([1], 2, 1, 0)
