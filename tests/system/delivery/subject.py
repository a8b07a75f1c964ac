"""The process under test: the agent's real publisher, outbox and client, with a ledger.

``python -m tests.system.delivery.subject JSON`` with the options of `Options`. It makes events until ``events`` of
them have been put over all sessions, then waits for SIGTERM. SIGUSR1 steps its clock by ten years.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import orjson

from agent.commands.contract import Answer, CommandRefused, Details
from agent.commands.requests import Capture, Explain, Request
from agent.commands.server import CommandServer
from agent.config.broker_address import BrokerAddress
from agent.config.sections.subscribers import CommandsConfig
from agent.daemon.state_directory import StateDirectory
from agent.mqtt.base import LineStatistics, Packet, Sink, SinkListener, SinkStatistics
from agent.mqtt.client import MqttClient
from agent.mqtt.identity import Identity
from agent.mqtt.messages import utc_text
from agent.mqtt.settings import Credentials, MqttSettings
from agent.mqtt.topics import Topics
from agent.publish.outbox.file import OutboxFile, Row
from agent.publish.outbox.sqlite import SqliteOutbox
from agent.publish.packets import Outgoing
from agent.publish.publisher import Publisher
from agent.runtime.clock import SystemClock
from agent.runtime.clock_sync import ClockWatch
from agent.runtime.logs import configure
from tests.fixtures.publish_samples import classification, runtime, state_change
from tests.system.delivery.checker import identity_of

_TEN_YEARS_NS = 10 * 365 * 86400 * 10**9
_LABELS = ("ok", "dent")


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of one subject; ``port`` is that of the proxy, ``ledger`` the file that it appends to."""

    port: int
    state: str
    outbox: str
    ledger: str
    events: int = 60
    events_per_s: float = 40.0
    topics: int = 3
    keepalive_s: int = 1
    is_eager: bool = False
    username: str | None = None
    password_file: str | None = None
    durability: str = "each"
    device: str = "dut"
    results_per_s: float = 0.0
    takes_commands: bool = False
    statistics: str | None = None
    """File for the figures of this session, written at its end."""

    def argument(self) -> str:
        """The command line's only argument."""
        return orjson.dumps(asdict(self)).decode()


class LedgerLines:
    """Appends each line with one system call, so a kill can cut off only the last one."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, kind: str, packets: Iterable[Packet]) -> None:
        lines = []
        for packet in packets:
            topic, session, seq = identity_of(packet.topic, packet.payload)
            lines.append(f"{kind} {topic} {session} {seq}\n")
        os.write(self._descriptor, "".join(lines).encode())


class LedgerFile(OutboxFile):
    """Records commits after they happened."""

    def __init__(self, path: Path, ledger: LedgerLines) -> None:
        self._ledger = ledger
        super().__init__(path)

    def write(self, rows: Sequence[Row], gone: Iterable[int] = ()) -> None:
        super().write(rows, gone)
        self._ledger.write("C", [row.packet for row in rows if row.packet.topic.endswith("/event")])


class LedgerMirror:
    """An extra sink that records every event before it is put."""

    def __init__(self, ledger: LedgerLines) -> None:
        self._ledger = ledger

    def start(self, listener: SinkListener) -> None: ...

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        if packet.topic.endswith("/event"):
            self._ledger.write("P", [packet])
        return None

    def stop(self, timeout_s: float) -> bool:
        return True

    def statistics(self) -> SinkStatistics:
        return SinkStatistics("connected", "ledger", None, 0, None, 0, 0)

    def line(self) -> LineStatistics:
        return LineStatistics(None, 0)


class EagerSink:
    """The planted fault: treats a packet as confirmed as soon as it is sent."""

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self._listener: SinkListener | None = None

    def start(self, listener: SinkListener) -> None:
        self._listener = listener
        self._inner.start(listener)

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        problem = self._inner.send(packet, key)
        if problem is None and key is not None and self._listener is not None:
            self._listener.on_confirmed(key, None)
        return problem

    def stop(self, timeout_s: float) -> bool:
        return self._inner.stop(timeout_s)

    def statistics(self) -> SinkStatistics:
        return self._inner.statistics()

    def line(self) -> LineStatistics:
        return self._inner.line()


class Explainer:
    """Carries out `explain`, the only command that the subject takes."""

    def explain(self, request: Explain) -> Details:
        return {}

    def _refuse(self, request: Request | None = None) -> Details:
        raise CommandRefused("not_allowed", "the subject takes explain only")

    def capture(self, request: Capture, answer: Answer) -> None:
        self._refuse(request)

    snapshot = set = selftest = benchmark = reload = rebirth = _refuse


class SteppingClock(SystemClock):
    """A clock whose UTC can be set; monotonic time is not affected."""

    step_ns = 0

    def utc_ns(self) -> int:
        return super().utc_ns() + self.step_ns


class Subject:
    """One session."""

    def __init__(self, options: Options, state: StateDirectory) -> None:
        self._options = options
        self._clock = SteppingClock()
        self._is_ending = False
        self._began = 0.0
        self._results = 0
        ledger = LedgerLines(Path(options.ledger))
        self._identity = Identity(
            device=options.device,
            session=state.session,
            agent="0",
            started=utc_text(self._clock.utc_ns()),
            topics=Topics("drill", options.device),
        )
        clock_state = ClockWatch().state
        self._outbox = SqliteOutbox(
            Path(options.outbox),
            durability="grouped" if options.durability == "grouped" else "each",
            clock=self._clock,
            clock_state=clock_state,
            retry_s=0.1,
            open_file=lambda path: LedgerFile(path, ledger),
        ).open()
        self._commands = CommandServer(
            CommandsConfig(enabled=options.takes_commands, allow=("explain",)),
            self._identity,
            Explainer(),
            self._reply,
            clock=self._clock,
        )
        client: Sink = MqttClient(
            self._settings(),
            will=self._identity.status("offline"),
            subscriptions=self._commands.subscriptions,
            on_received=self._commands.receive,
            clock=self._clock,
        )
        self._publisher = Publisher(
            EagerSink(client) if options.is_eager else client,
            identity=self._identity,
            outbox=self._outbox,
            extra_sinks=[LedgerMirror(ledger)],
            clock=self._clock,
            clock_state=clock_state,
        )

    def run(self, done: int) -> None:
        """Offer the events from number ``done`` on, then wait for the end."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGUSR1, self._step)
        self.start()
        for number in range(done, self._options.events):
            while (
                not self._is_ending and time.monotonic() < self._began + (number - done) / self._options.events_per_s
            ):
                self._offer_results()
                time.sleep(0.002)
            if self._is_ending:
                break
            self.offer_event(number)
        while not self._is_ending:
            self._offer_results()
            time.sleep(0.01)
        self.stop()

    def start(self) -> None:
        """Connect, and offer the first messages."""
        self._publisher.start()
        self._commands.start()
        self._publisher.offer(runtime())
        self._began = time.monotonic()

    def offer_event(self, number: int) -> None:
        """Offer one change of a label, with the result before it."""
        camera = f"c{number % self._options.topics}"
        label = _LABELS[number // self._options.topics % 2]
        self._publisher.offer(classification(number, camera=camera))
        self._publisher.offer(state_change(label, _LABELS[_LABELS.index(label) - 1], camera=camera))

    def stop(self) -> None:
        """Send what waits, disconnect, and write the figures."""
        self._commands.stop(1.0)
        statistics = self._publisher.statistics()
        self._publisher.stop(2.0)
        if self._options.statistics is not None:
            figures = {
                "dropped": dict(statistics.dropped),
                "stored": statistics.stored,
                "reconnects": statistics.connection.reconnects,
                "protocol": statistics.connection.protocol,
                "commands": self._commands.counters.counts(),
                "peak_rss_mib": _peak_rss_mib(),
            }
            Path(self._options.statistics).write_bytes(orjson.dumps(figures))

    def _reply(self, reply: Outgoing) -> None:
        self._publisher.offer(reply)

    def _offer_results(self) -> None:
        """Offer the results that are due by now, of a camera of their own."""
        due = int((time.monotonic() - self._began) * self._options.results_per_s)
        while self._results < due:
            self._publisher.offer(classification(self._results, camera="results"))
            self._results += 1

    def _settings(self) -> MqttSettings:
        options = self._options
        file = None if options.password_file is None else Path(options.password_file)
        return MqttSettings(
            address=BrokerAddress("127.0.0.1", options.port),
            client_id=options.device,
            credentials=Credentials(options.username, file),
            keepalive_s=options.keepalive_s,
            connect_timeout_s=0.6,
            backoff_base_s=0.05,
        )

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True

    def _step(self, number: int, frame: FrameType | None) -> None:
        self._clock.step_ns += _TEN_YEARS_NS


def _peak_rss_mib() -> float:
    """Source: proc_pid_status(5), VmHWM. ``ru_maxrss`` of a child starts with the size of its parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(peak_kib) / 1024, 1)


def main(argument: str) -> None:
    configure(json=True)
    options = Options(**orjson.loads(argument))
    ledger = Path(options.ledger)
    done = ledger.read_text(encoding="utf-8").count("P ") if ledger.exists() else 0
    with StateDirectory(Path(options.state)) as state:
        Subject(options, state).run(done)


if __name__ == "__main__":
    main(sys.argv[1])
