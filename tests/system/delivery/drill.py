"""One drill: events during faults, then a quiet phase, then the verdict."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import jsonschema
import orjson
from paho.mqtt.enums import MQTTProtocolVersion

from agent.commands.schemas import message_schemas
from tests.fixtures.deadlines import wait_until
from tests.fixtures.recorder import Recorder
from tests.system.delivery.brokers import ROOT, Broker, make_broker
from tests.system.delivery.checker import Identity, Ledger, Verdict, identity_of, judge, read_ledger
from tests.system.delivery.proxy import FaultProxy
from tests.system.delivery.subject import Options
from tests.system.delivery.wire import Publication, Witness

CANARY = "hunter2-CANARY"
HARD = ("broker_kill", "broker_stop", "reset", "black_hole", "agent_kill", "disk_full", "clock_step")
SOFT = ("slicer", "latency", "bandwidth", "down")
_USERS = {"dut": CANARY, "recorder": "r"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults: ``(seconds after the start, fault, seconds it lasts)``."""

    seed: int
    broker: str
    faults: tuple[tuple[float, str, float], ...]
    durability: str = "each"
    is_eager: bool = False
    settle_s: float = 20.0

    def __str__(self) -> str:
        faults = ", ".join(f"{fault} at {at:.2f} s for {lasts:.2f} s" for at, fault, lasts in self.faults)
        return f"seed {self.seed}: {self.broker}, {self.durability}, {faults}"


@dataclass(slots=True)
class Outcome:
    """The result. ``recovery_s`` is from the end of the last fault until everything was delivered."""

    plan: Plan
    verdict: Verdict
    recorded: Verdict
    recovery_s: float
    reconnects: int
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost."""
        return self.verdict.is_good and not self.problems


def draw_plan(seed: int, *, brokers: tuple[str, ...] = ("mosquitto", "mosquitto", "amqtt")) -> Plan:
    """One to three faults within a second and a half."""
    chance = random.Random(seed)
    drawn_from = HARD if chance.random() < 0.7 else HARD + SOFT
    allowed = [fault for fault in drawn_from if fault != "disk_full" or may_mount()]
    faults = sorted(
        (round(chance.uniform(0.1, 1.0), 2), fault, round(chance.choice((0.1, 0.3, 0.6, 1.4)), 2))
        for fault in chance.sample(allowed, chance.randint(1, 3))
    )
    return Plan(seed, chance.choice(brokers), tuple(faults), chance.choice(("each", "each", "grouped")))


@lru_cache(maxsize=1)
def may_mount() -> bool:
    """Whether this user may mount the small file system for a full disk; tried once."""
    with tempfile.TemporaryDirectory(prefix="drill-mount-") as directory:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", directory], check=True)
    return True


class Drill:
    """The parts of one drill; used by one thread."""

    def __init__(self, plan: Plan, directory: Path, stack: ExitStack) -> None:
        self.plan = plan
        self._directory = directory
        directory.mkdir(parents=True)
        self.witness = Witness()
        password = directory / "password"
        password.write_text(f"{CANARY}\n", encoding="utf-8")
        password.chmod(0o600)
        has_users = plan.broker == "mosquitto"
        self._broker: Broker = make_broker(plan.broker, directory / "broker", _USERS if has_users else None)
        stack.callback(self._broker.stop)
        self._broker.start()
        self._proxy = stack.enter_context(FaultProxy(self._broker.port, witness=self.witness, seed=plan.seed))
        self._disk = stack.enter_context(_small_disk(directory / "disk", is_wanted=self._has("disk_full")))
        state = directory / "state"
        self._options = Options(
            port=self._proxy.port,
            state=str(state),
            outbox=str(self._disk / "outbox.sqlite"),
            ledger=str(directory / "ledger"),
            username="dut" if has_users else None,
            password_file=str(password) if has_users else None,
            durability=plan.durability,
            is_eager=plan.is_eager,
        )
        self._recorder = Recorder(
            self._broker.port,
            ["drill/#"],
            protocol=MQTTProtocolVersion.MQTTv5 if has_users else MQTTProtocolVersion.MQTTv311,
            username="recorder" if has_users else None,
            password="r" if has_users else None,
        )
        self._recorder.start()
        stack.callback(self._recorder.stop)
        self._agent: subprocess.Popen[bytes] | None = None
        stack.callback(self._kill_agent)
        self._start_agent()
        self._undo: list[tuple[float, Callable[[], None]]] = []

    def run(self) -> Outcome:
        """Run the plan and return the verdict."""
        self._wait_first_event()
        began = time.monotonic()
        waiting = list(self.plan.faults)
        while waiting or self._undo:
            now = time.monotonic() - began
            while waiting and waiting[0][0] <= now:
                _, fault, lasts_s = waiting.pop(0)
                self._begin(fault)
                self._undo.append((now + lasts_s, lambda fault=fault: self._end(fault)))  # type: ignore[misc]  # bound now
            for undo in [one for one in self._undo if one[0] <= now]:
                self._undo.remove(undo)
                undo[1]()
            time.sleep(0.01)
        ended = time.monotonic()
        is_settled = self._wait_settled(ended + self.plan.settle_s)
        recovery_s = time.monotonic() - ended
        problems = [] if is_settled else [f"not everything was delivered within {self.plan.settle_s:g} s"]
        problems += self._stop_agent()
        return self._judge(recovery_s, problems)

    def _has(self, fault: str) -> bool:
        return any(one == fault for _, one, _ in self.plan.faults)

    def _begin(self, fault: str) -> None:
        proxy = self._proxy
        actions: dict[str, Callable[[], object]] = {
            "broker_kill": self._broker.kill,
            "broker_stop": self._unless_killed(self._broker.pause),
            "reset": proxy.reset,
            "black_hole": lambda: setattr(proxy, "is_black_hole", True),
            "agent_kill": self._kill_agent,
            "disk_full": lambda: _fill(self._disk / "ballast"),
            "clock_step": self._step_clock,
            "slicer": lambda: setattr(proxy, "slice_bytes", 7),
            "latency": lambda: setattr(proxy, "latency_s", 0.1),
            "bandwidth": lambda: setattr(proxy, "bytes_per_s", 20_000.0),
            "down": proxy.go_down,
        }
        actions[fault]()

    def _end(self, fault: str) -> None:
        proxy = self._proxy
        actions: dict[str, Callable[[], object]] = {
            "broker_kill": self._broker.start,
            "broker_stop": self._unless_killed(self._broker.resume),
            "agent_kill": self._start_agent,
            "disk_full": lambda: (self._disk / "ballast").unlink(missing_ok=True),
            "black_hole": lambda: setattr(proxy, "is_black_hole", False),
            "slicer": lambda: setattr(proxy, "slice_bytes", None),
            "latency": lambda: setattr(proxy, "latency_s", 0.0),
            "bandwidth": lambda: setattr(proxy, "bytes_per_s", None),
            "down": proxy.come_up,
        }
        if fault in actions:
            actions[fault]()

    def _unless_killed(self, act: Callable[[], None]) -> Callable[[], None]:
        """The other fault may have killed the broker meanwhile."""

        def attempt() -> None:
            with suppress(RuntimeError):
                act()

        return attempt

    def _start_agent(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-m", "tests.system.delivery.subject", self._options.argument()],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _step_clock(self) -> None:
        if (agent := self._agent) is not None:
            # One that was started just now would die of the signal.
            wait_until(lambda: _catches(agent, signal.SIGUSR1), within_s=20)
            agent.send_signal(signal.SIGUSR1)

    def _kill_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.kill()
            agent.wait(10)

    def _stop_agent(self) -> list[str]:
        agent, self._agent = self._agent, None
        if agent is None:
            return ["the agent was not running"]
        agent.send_signal(signal.SIGTERM)
        try:
            code = agent.wait(8)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
            return ["it did not end within 8 s of SIGTERM"]
        return [] if code == 0 else [f"it ended with {code}"]

    @property
    def _ledger(self) -> Ledger:
        return read_ledger(self._directory / "ledger")

    def _wait_first_event(self) -> None:
        deadline = time.monotonic() + 20.0
        while not self._ledger.put:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no event within 20 s: {self._log()[-2000:]}")
            time.sleep(0.01)

    def _wait_settled(self, deadline: float) -> bool:
        while time.monotonic() < deadline:
            promised = self._promised()
            if len(promised.put) >= self._options.events and not judge(promised, self._acknowledged()).lost:
                return True
            time.sleep(0.03)
        return False

    def _promised(self) -> Ledger:
        """Beside what was committed, everything that the last session put: it is not killed."""
        ledger = self._ledger
        last = max((session for _, session, _ in ledger.put), default=0)
        return Ledger(ledger.put, ledger.committed | {one for one in ledger.put if one[1] == last})

    def _acknowledged(self) -> list[Identity]:
        return _events(self.witness.acknowledged())

    def _judge(self, recovery_s: float, problems: list[str]) -> Outcome:
        promised = self._promised()
        verdict = judge(promised, self._acknowledged(), order=_events(self.witness.reached()))
        messages = self._recorder.messages()
        recorded = judge(
            promised, [identity_of(one.topic, one.payload) for one in messages if one.topic.endswith("/event")]
        )
        if not (self._has("broker_kill") or recorded.is_good or self.plan.broker == "amqtt"):
            problems.append(f"the subscriber saw something else than the wire: {recorded}")
        if verdict.duplicates > 20 * max(1, self._proxy.connections):
            problems.append(f"{verdict.duplicates} duplicates in {self._proxy.connections} connections")
        payloads = [one.payload for one in messages]
        problems += _schema_problems(payloads)
        if CANARY in self._log() or any(CANARY.encode() in payload for payload in payloads):
            problems.append("the password stands in a log or a message")
        return Outcome(self.plan, verdict, recorded, recovery_s, self._proxy.connections - 1, problems)

    def _log(self) -> str:
        path = self._directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _catches(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether it has a handler for this signal, or has ended. Source: proc_pid_status(5), SigCgt."""
    if process.poll() is not None:
        return True
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def _events(publications: list[Publication]) -> list[Identity]:
    return [identity_of(one.topic, one.payload) for one in publications if one.topic.endswith("/event")]


_VALIDATORS = {name: jsonschema.Draft202012Validator(schema) for name, schema in message_schemas().items()}


def _schema_problems(payloads: list[bytes]) -> list[str]:
    """Messages that do not fit the published schemas."""
    problems = []
    for payload in payloads:
        message = orjson.loads(payload)
        validator = _VALIDATORS.get(message.get("schema"))
        if validator is None or not validator.is_valid(message):
            problems.append(f"a message does not fit its schema: {payload[:200]!r}")
    return problems[:3]


@contextmanager
def _small_disk(directory: Path, *, is_wanted: bool) -> Iterator[Path]:
    """A file system of one MiB if the plan fills the disk, else a plain directory."""
    directory.mkdir()
    if not is_wanted:
        yield directory
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 1024)


def run_drill(plan: Plan, directory: Path) -> Outcome:
    """Run one drill in a new ``directory``."""
    with ExitStack() as stack:
        return Drill(plan, directory, stack).run()
