"""Two real brokers: events survive the death of the one in use, and the agent comes back to the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.config.broker_address import BrokerAddress
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import MqttSettings
from agent.publish.outbox.sqlite import SqliteOutbox
from agent.publish.publisher import Publisher
from scripts.soak_harness.line import Line
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.publish_samples import IDENTITY, TOPICS, state_change
from tests.fixtures.recorder import Recorder


class Site:
    """A publisher with two brokers, the first behind a line that can be cut, and a subscriber at each."""

    def __init__(self, folder: Path, stack: ExitStack, *, is_older: bool) -> None:
        self.brokers = [stack.enter_context(MosquittoBroker(folder / name)) for name in ("first", "second")]
        self.heard = [stack.enter_context(Recorder(broker.port)) for broker in self.brokers]
        self.line = stack.enter_context(Line(self.brokers[0].port))
        first, second = (
            BrokerAddress("127.0.0.1", port, is_older=is_older) for port in (self.line.port, self.brokers[1].port)
        )
        self.addresses = (str(first), str(second))
        settings = MqttSettings(
            address=first, alternatives=(second,), client_id="line-3", backoff_base_s=0.05, return_after_s=0.2
        )
        self.publisher = Publisher(
            MqttClient(settings, will=IDENTITY.status("offline")),
            identity=IDENTITY,
            outbox=SqliteOutbox(folder / "outbox.db"),
        )
        stack.callback(self.publisher.stop)
        self.publisher.start()
        self.offered = 0

    def offer_until_in_use(self, index: int, count: int = 30) -> None:
        """Offer events until the broker of this index is in use, and ``count`` more."""

        def is_in_use() -> bool:
            self.publisher.offer(state_change())
            self.offered += 1
            link = self.publisher.statistics().connection
            return (link.address, link.state) == (self.addresses[index], "connected")

        wait_until(is_in_use)
        for _ in range(count):
            is_in_use()

    def numbers(self) -> list[int]:
        topic = TOPICS.event("front", "inspect")
        return sorted({one.json["seq"] for heard in self.heard for one in heard.messages() if one.topic == topic})

    def statuses(self, index: int) -> list[str]:
        return [one.json["state"] for one in self.heard[index].messages() if one.topic == TOPICS.status]


@pytest.fixture(params=[False, True], ids=["5", "3.1.1"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack, is_older=request.param)


def test_no_event_is_lost_on_the_way_to_the_next_broker_and_back(site: Site) -> None:
    site.offer_until_in_use(0)
    site.line.cut()
    site.offer_until_in_use(1)
    (other,) = site.publisher.statistics().connection.others
    assert (other.address, other.is_preferred) == (site.addresses[0], True)
    assert other.problem is not None
    site.line.mend()
    site.offer_until_in_use(0)
    wait_until(lambda: site.numbers() == list(range(site.offered)))
    assert [other.problem for other in site.publisher.statistics().connection.others] == [None]
    wait_until(lambda: site.statuses(1) == ["online", "offline"])


def test_no_event_is_lost_when_the_broker_in_use_is_killed(site: Site) -> None:
    site.offer_until_in_use(0)
    wait_until(
        lambda: site.numbers() == list(range(site.offered))
    )  # what it confirms and has not passed on is its loss
    site.brokers[0].kill()
    site.offer_until_in_use(1)
    wait_until(lambda: site.numbers() == list(range(site.offered)))


def test_a_broker_that_refuses_hands_over_to_the_next(tmp_path: Path) -> None:
    with (
        MosquittoBroker(tmp_path / "first", users={"someone": "else"}) as first,
        MosquittoBroker(tmp_path / "second") as second,
    ):
        addresses = [BrokerAddress.parse(broker.url) for broker in (first, second)]
        settings = MqttSettings(address=addresses[0], alternatives=(addresses[1],), client_id="line-3")
        publisher = Publisher(MqttClient(settings), identity=IDENTITY)
        publisher.start()
        try:
            wait_until(lambda: publisher.statistics().connection.state == "connected")
            link = publisher.statistics().connection
        finally:
            publisher.stop()
    assert link.address == second.url
    assert "not authorised" in (link.others[0].problem or "")
