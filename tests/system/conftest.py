"""What most tests of a whole agent stand on: a real broker, and a subscriber to all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import recorder as recording
from tests.fixtures.canary import Search
from tests.fixtures.drills import note
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def recorder(broker: MosquittoBroker) -> Iterator[Recorder]:
    running = Recorder(broker.port).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def no_password_leaks(tmp_path: Path) -> Iterator[Search]:
    """The canary shows in no command line, environment, log, message or file of this test (see ``with_canary``)."""
    heard: list[Recorder] = []
    recording.listeners = heard
    try:
        with Search() as search:
            yield search
    finally:
        recording.listeners = None
    files = search.files(tmp_path)
    messages = sum(search.messages(one) for one in heard)
    note(places_searched=files + messages + 2 * len(search.processes))
    assert search.processes, "nothing was searched: no process was started"
    assert not search.places
