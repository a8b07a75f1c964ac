from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def test_the_manager_hears_every_state(manager: socket.socket) -> None:
    with Notifier(manager.getsockname()) as notifier:
        notifier.extend_timeout(30, "Building an engine")
        notifier.ready("2 cameras\non 1 model")
        notifier.alive()
        notifier.stopping()
    heard = [manager.recv(4096).decode() for _ in range(4)]
    assert heard == [
        "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Building an engine",
        "READY=1\nSTATUS=2 cameras on 1 model",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=Stopping",
    ]


def test_an_abstract_address_is_understood() -> None:
    name = f"agent-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5)
        with Notifier("@" + name) as notifier:
            notifier.alive()
        assert listener.recv(64) == b"WATCHDOG=1"


def test_without_a_manager_nothing_happens() -> None:
    with Notifier.from_environment({}) as notifier:
        notifier.ready("fine")
        assert notifier.watchdog_s is None


def test_a_manager_that_is_gone_does_not_end_the_agent(tmp_path: Path) -> None:
    with Notifier(str(tmp_path / "gone")) as notifier:
        notifier.ready("fine")


def test_children_do_not_inherit_the_managers_address(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    with Notifier.from_environment(environ) as notifier:
        assert notifier.watchdog_s == 30.0
    assert environ == {}


def test_a_watchdog_for_another_process_is_not_ours(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
    with Notifier.from_environment(environ) as notifier:
        assert notifier.watchdog_s is None
