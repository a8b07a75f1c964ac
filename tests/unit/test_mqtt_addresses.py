"""Several addresses of a broker: their order, why one is not in use, and the way back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from agent.config.broker_address import BrokerAddress
from agent.mqtt.addresses import AddressList, ReturnWatch
from agent.mqtt.base import OtherAddress
from agent.mqtt.diagnosis import Ending, EndKind
from agent.mqtt.settings import MqttSettings
from tests.fixtures.thermal_samples import ManualClock

_URLS = ("mqtt://a:1883", "mqtt://b:1883", "mqtt://c:1883")


def _list(count: int = 3, clock: ManualClock | None = None) -> AddressList:
    first, *others = (BrokerAddress.parse(url) for url in _URLS[:count])
    settings = MqttSettings(address=first, alternatives=tuple(others), client_id="line-3", return_after_s=300.0)
    return AddressList(settings, clock or ManualClock())


def _in_use(addresses: AddressList) -> str:
    return addresses.current.address.host


def _fail(addresses: AddressList, kind: EndKind = "network") -> bool:
    return addresses.ended(Ending(kind, f"{_in_use(addresses)} failed"), was_stable=False)


def _lose(addresses: AddressList, *, was_stable: bool, kind: EndKind = "lost") -> bool:
    return addresses.ended(Ending(kind, f"{_in_use(addresses)} lost", was_granted=True), was_stable=was_stable)


def test_the_next_address_is_tried_at_once_and_the_first_after_a_wait() -> None:
    addresses = _list()
    tried = [(_in_use(addresses), _fail(addresses)) for _ in range(6)]
    assert tried == [("a", True), ("b", True), ("c", False)] * 2


@pytest.mark.parametrize("kind", ["refused", "tls", "setup", "mute", "unanswered", "version"])
def test_a_refusal_leads_to_the_next_address_too(kind: EndKind) -> None:
    addresses = _list()
    assert _fail(addresses, kind)
    assert _in_use(addresses) == "b"


def test_one_address_keeps_its_waits() -> None:
    addresses = _list(1)
    assert not _fail(addresses)
    assert (_in_use(addresses), addresses.others()) == ("a", ())


def test_others_say_why_they_are_not_in_use() -> None:
    addresses = _list()
    assert [other.problem for other in addresses.others()] == [None, None]
    _fail(addresses)
    addresses.granted()
    assert addresses.others() == (
        OtherAddress(_URLS[0], "a failed", is_preferred=True),
        OtherAddress(_URLS[2], None, is_preferred=False),
    )
    _lose(addresses, was_stable=True)
    addresses.granted()
    assert [other.problem for other in addresses.others()] == ["b lost", None]


def test_a_stable_connection_that_breaks_starts_from_the_first_after_a_wait() -> None:
    addresses = _list()
    _fail(addresses)
    addresses.granted()
    assert not _lose(addresses, was_stable=True)
    assert _in_use(addresses) == "a"


def test_a_broker_that_accepts_and_closes_at_once_does_not_hold_the_agent() -> None:
    addresses = _list()
    addresses.granted()
    assert _lose(addresses, was_stable=False, kind="closed")
    assert _in_use(addresses) == "b"


def test_another_client_with_this_id_says_nothing_against_the_address() -> None:
    addresses = _list()
    addresses.granted()
    assert not _lose(addresses, was_stable=False, kind="takeover")
    assert _in_use(addresses) == "a"
    assert [other.problem for other in addresses.others()] == [None, None]


@dataclass
class Site:
    """A client on the second of two addresses, and what its watch finds."""

    clock: ManualClock = field(default_factory=ManualClock)
    problem: str | None = "a is still away"
    probes: int = 0
    left: list[str] = field(default_factory=list)
    is_connected: bool = True

    def __post_init__(self) -> None:
        self.addresses = _list(2, self.clock)
        _fail(self.addresses)
        self.addresses.granted()
        self.began_ns = self.clock.now_ns
        self.stop = threading.Event()

    def probe(self, settings: MqttSettings) -> str | None:
        assert settings.address.host == "a"
        self.probes += 1
        return self.problem

    def leave(self, reason: str) -> None:
        self.left.append(reason)
        self.stop.set()

    def watch(self, *, hours: float) -> float:
        """Run the watch until it leaves or the time is over; seconds since the second address was taken."""
        until = self.clock.now_ns + round(hours * 3600e9)

        class Clock(ManualClock):
            def wait(clock, stop: threading.Event, seconds: float) -> bool:  # noqa: N805 (self is the site)
                if stop.is_set() or self.clock.now_ns >= until:
                    return True
                self.clock.pass_s(seconds)
                return False

        watch = ReturnWatch(
            self.addresses, probe=self.probe, is_connected=lambda: self.is_connected, leave=self.leave, clock=Clock()
        )
        watch.watch(self.stop)
        return (self.clock.now_ns - self.began_ns) / 1e9


def test_an_earlier_address_is_tried_after_the_wait_and_the_connection_kept_while_it_is_away() -> None:
    site = Site()
    site.watch(hours=1)
    assert site.probes == 12
    assert site.left == []
    assert [other.problem for other in site.addresses.others()] == ["a is still away"]


def test_the_connection_is_left_once_an_earlier_address_can_be_reached() -> None:
    site = Site(problem=None)
    assert site.watch(hours=1) == 300.0
    assert site.left == ["mqtt://a:1883 can be reached again, so mqtt://b:1883 was left for it"]
    assert _in_use(site.addresses) == "b", "until the connection has ended"
    assert _lose(site.addresses, was_stable=True, kind="left")
    assert _in_use(site.addresses) == "a"


def test_without_a_connection_nothing_is_tried_or_left() -> None:
    site = Site(problem=None, is_connected=False)
    site.watch(hours=1)
    assert (site.probes, site.left) == (0, [])


def test_a_connection_that_broke_meanwhile_is_not_taken_for_one_that_was_left() -> None:
    site = Site(problem=None)
    site.watch(hours=1)
    _lose(site.addresses, was_stable=False)
    assert [other.problem for other in site.addresses.others()] == ["b lost"]


def test_each_return_that_fails_doubles_the_wait_up_to_an_hour() -> None:
    site = Site(problem=None)
    waits = []
    for _ in range(6):
        site.began_ns = site.clock.now_ns
        waits.append(site.watch(hours=3))
        _lose(site.addresses, was_stable=True, kind="left")
        _fail(site.addresses, "refused")  # the way is open, but the broker refuses
        site.addresses.granted()
        site.stop.clear()
    assert waits == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]


def test_nothing_is_tried_while_the_first_address_is_in_use() -> None:
    site = Site(problem=None)
    _lose(site.addresses, was_stable=True)
    site.addresses.granted()
    site.watch(hours=2)
    assert (site.probes, site.left) == (0, [])
