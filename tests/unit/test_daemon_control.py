"""The socket on which the agent is asked to reload: each client is answered when its own reload has ended."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.daemon import control
from agent.daemon.control import ControlSocket, ask_for_reload
from agent.daemon.notify import Notifier
from agent.reload import ReloadRequest
from agent.runtime.errors import AgentError, ConfigError, ReloadAbandoned, Unavailable
from tests.fixtures.deadlines import wait_until


class _Agent:
    """The agent's side: its socket, and the reloads that it was asked for."""

    def __init__(self, directory: Path, notifier: Notifier | None = None) -> None:
        self.directory = directory
        self.socket = ControlSocket(directory / "control", notifier)
        self.asked: list[ReloadRequest] = []
        self.socket.open()

    def tick(self) -> None:
        self.socket.tick(self._request)

    def _request(self) -> ReloadRequest:
        self.asked.append(ReloadRequest())
        return self.asked[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        """Turn the main loop until ``condition`` holds."""

        def turned() -> bool:
            self.tick()
            return condition()

        wait_until(turned, within_s=10)


class _Client:
    """`agent reload`, on a thread; ``outcome`` or ``error`` when it has ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.outcome: str | None = None
        self.error: AgentError | None = None
        self._thread = threading.Thread(target=self._ask, name="client")
        self._thread.start()

    def _ask(self) -> None:
        try:
            self.outcome = ask_for_reload(self._directory)
        except AgentError as exc:
            self.error = exc

    def join(self) -> _Client:
        self._thread.join(10)
        assert not self._thread.is_alive(), "it still waits"
        return self


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[_Agent]:
    running = _Agent(tmp_path)
    yield running
    running.socket.close()


def _raw(agent: _Agent, request: bytes) -> socket.socket:
    """A connection that sent ``request``."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.settimeout(10)
    end.connect(str(agent.directory / "control"))
    end.sendall(request)
    return end


def test_two_reloads_at_once_each_hear_of_their_own(agent: _Agent) -> None:
    first = _Client(agent.directory)
    agent.until(lambda: len(agent.asked) == 1)
    second = _Client(agent.directory)
    agent.until(lambda: len(agent.asked) == 2)
    agent.asked[1].error = ConfigError("agent.yaml:3: no")
    agent.tick()
    assert (second.join().error or pytest.fail()).message == "agent.yaml:3: no"
    assert (first.outcome, first.error) == (None, None)
    agent.asked[0].outcome = "applied"
    agent.tick()
    assert first.join().outcome == "applied"


def test_the_family_of_the_error_and_with_it_the_exit_code_arrives(agent: _Agent) -> None:
    for error in (ConfigError("a\nb"), Unavailable("é" * 20_000), AgentError("c")):
        client = _Client(agent.directory)
        agent.until(lambda: bool(agent.asked))
        agent.asked.pop().error = error
        agent.tick()
        got = client.join().error
        assert type(got) is type(error)
        assert str(got) == error.message[:16_000]


def test_an_agent_that_ends_meanwhile_is_no_success(agent: _Agent) -> None:
    client = _Client(agent.directory)
    agent.until(lambda: bool(agent.asked))
    agent.socket.close()
    assert "ended before it answered" in (client.join().error or pytest.fail()).message
    assert not (agent.directory / "control").exists()


def test_without_a_listening_agent_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="systemctl start agent"):
        ask_for_reload(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gone:
        gone.bind(str(tmp_path / "control"))
    with pytest.raises(Unavailable, match="systemctl start agent"):
        ask_for_reload(tmp_path)
    with pytest.raises(Unavailable, match="cannot be reached"):
        ask_for_reload(tmp_path / ("x" * 120))


def test_a_new_start_of_everything_is_answered_when_it_is_ready(agent: _Agent) -> None:
    first, second = _Client(agent.directory), _Client(agent.directory)
    agent.until(lambda: len(agent.asked) == 2)
    agent.asked[0].outcome = "restarting"
    agent.tick()
    time.sleep(0.05)
    assert {first.outcome, second.outcome} == {None}
    agent.asked[1].error = ReloadAbandoned("the agent stops")
    agent.socket.ready()
    wait_until(lambda: "restarting" in (first.outcome, second.outcome), within_s=10)
    # The other one was asked of a reloader that is gone.
    agent.until(lambda: len(agent.asked) == 3)
    agent.asked[2].outcome = "unchanged"
    agent.tick()
    assert {first.join().outcome, second.join().outcome} == {"restarting", "unchanged"}


@pytest.mark.parametrize("request_", [b"stop\n", b"reload\nreload\n", b"\0" * 64, b"relaod"])
def test_whatever_else_is_sent_is_hung_up_on(agent: _Agent, request_: bytes) -> None:
    with _raw(agent, request_) as end:
        agent.tick()
        agent.tick()
        assert end.recv(10) == b""
    assert agent.asked == []


def test_one_that_says_nothing_is_not_kept_and_one_that_went_asks_for_nothing(
    agent: _Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REQUEST_WITHIN_S", 0.0)
    with _raw(agent, b"rel") as end:
        agent.tick()
        agent.tick()
        assert end.recv(10) == b""
    _raw(agent, b"").close()
    agent.tick()
    assert agent.asked == []


def test_many_that_wait_do_not_use_up_the_agents_descriptors(agent: _Agent) -> None:
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(_raw(agent, b"reload\n"))
            agent.tick()
        assert len(agent.asked) == 16
    agent.until(lambda: len(agent.asked) == 30 or agent.socket._connections == [])


def test_the_service_manager_is_asked_to_wait_as_long_as_somebody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE_EVERY_S", 0.2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        with Notifier(manager.getsockname()) as notifier:
            agent = _Agent(tmp_path, notifier)
            agent.tick()
            client = _Client(tmp_path)
            agent.until(lambda: bool(agent.asked))
            began_s = time.monotonic()
            agent.until(lambda: time.monotonic() - began_s > 0.7)
            assert [manager.recv(100) for _ in range(2)] == [b"EXTEND_TIMEOUT_USEC=20000000"] * 2
            agent.asked[0].outcome = "applied"
            agent.tick()
            client.join()
            manager.settimeout(0)
            while select.select([manager], [], [], 0)[0]:
                manager.recv(100)
            agent.until(lambda: time.monotonic() - began_s > 1.5)
            agent.socket.close()
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_a_socket_that_a_killed_agent_left_is_taken_over_and_a_living_one_is_not(agent: _Agent) -> None:
    other = ControlSocket(agent.directory / "control")
    other.open()
    other.close()
    client = _Client(agent.directory)
    agent.until(lambda: bool(agent.asked))
    agent.asked[0].outcome = "applied"
    agent.tick()
    assert client.join().outcome == "applied"
    agent.socket.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(agent.directory / "control"))
    agent.socket.open()
    client = _Client(agent.directory)
    agent.until(lambda: len(agent.asked) == 2)
    agent.asked[1].outcome = "unchanged"
    agent.tick()
    assert client.join().outcome == "unchanged"


def test_where_it_cannot_listen_the_agent_does_without(tmp_path: Path) -> None:
    for path in (None, tmp_path / "absent" / "control", tmp_path / ("x" * 120)):
        quiet = ControlSocket(path)
        quiet.open()
        quiet.tick(lambda: pytest.fail("nobody asked"))
        quiet.ready()
        quiet.close()
    with Notifier(None) as notifier:
        assert ControlSocket.from_environment(notifier, {})._path is None
        some = ControlSocket.from_environment(notifier, {"RUNTIME_DIRECTORY": "/run/agent:/run/other"})
        assert some._path == Path("/run/agent/control")
