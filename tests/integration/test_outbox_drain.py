"""The measurement of a backlog: it sends what is in the file, and counts what the broker has confirmed."""

from __future__ import annotations

from pathlib import Path

from scripts.performance.outbox_drain import agent_drains, fill, library_sends
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.recorder import Recorder


def test_both_senders_reach_a_subscriber_with_every_event(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    fill(path, 50)
    with MosquittoBroker(tmp_path / "broker") as broker, Recorder(broker.port, ["edge/drain/#"]) as recorder:
        for wall_s, cpu_s in (agent_drains(broker.url, path, 50), library_sends(broker.url, 50)):
            assert wall_s > 0
            assert cpu_s > 0
        assert len(recorder.wait_count(100)) == 100
