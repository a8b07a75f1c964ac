"""What most tests of a whole agent stand on: a real broker, and a subscriber to all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
