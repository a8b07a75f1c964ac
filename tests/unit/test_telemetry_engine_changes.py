"""Builds and replacements of engines reach the log, the service manager and the subscribers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.notify import Notifier
from agent.inference.worker import WorkerStatistics
from agent.telemetry.engine_changes import EngineChanges
from engines import BuildProgress

_BUILD = BuildProgress(engine="tensorrt", model="m-1.0.0", phase="building", elapsed_s=42.0, done_ratio=0.25)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def _worker(model: str = "m", **more: object) -> WorkerStatistics:
    return WorkerStatistics(model, None, None, 0, 0, 0, 0, None, **more)  # type: ignore[arg-type]  # named fields


def test_the_manager_is_asked_for_patience_while_a_strict_engine_is_built(manager: socket.socket) -> None:
    with Notifier(manager.getsockname()) as notifier:
        EngineChanges(notifier, every_s=0).wait(_worker(building=_BUILD))
        assert manager.recv(4096).decode() == "EXTEND_TIMEOUT_USEC=60000000"


def test_the_manager_is_not_bothered_more_often_than_agreed(manager: socket.socket) -> None:
    with Notifier(manager.getsockname()) as notifier:
        EngineChanges(notifier, every_s=3600).wait(_worker())
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_each_change_is_reported_once() -> None:
    news = EngineChanges(Notifier(None))
    assert news.changes([_worker()]) is None
    changed = [_worker(changes=1, last_change="ort-cpu was replaced by tensorrt"), _worker("other")]
    assert news.changes(changed) == "m: ort-cpu was replaced by tensorrt"
    assert news.changes(changed) is None


def test_a_worker_that_took_the_place_of_another_is_no_news_of_its_own() -> None:
    news = EngineChanges(Notifier(None))
    news.changes([_worker(changes=1, last_change="ort-cpu was replaced by tensorrt")])
    assert news.changes([_worker()]) is None
    assert news.changes([_worker(changes=1, last_change="gone on")]) == "m: gone on"
