"""Each command gets one reply, and nothing else has an effect, not even 100,000 random payloads."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from agent.commands.contract import Answer, CommandRefused, Details
from agent.commands.requests import (
    MAX_BYTES,
    REQUESTS,
    Benchmark,
    Capture,
    Explain,
    Request,
    Selftest,
    Set,
    Snapshot,
    request_schemas,
)
from agent.commands.server import CommandServer
from agent.config.sections.subscribers import CommandsConfig
from agent.mqtt.base import Received
from agent.mqtt.messages.replies import Reply
from agent.publish.packets import Outgoing
from agent.runtime.clock import SystemClock
from agent.runtime.clock_sync import ClockState
from agent.runtime.errors import SourceUnavailable
from tests.fixtures.deadlines import wait_until
from tests.fixtures.publish_samples import IDENTITY, TOPICS

ALL = CommandsConfig(enabled=True, allow=tuple(REQUESTS), max_per_minute=6000)
NOW_S = 1_800_000_000


class FixedClock(SystemClock):
    """UTC stands still; monotonic time advances ten seconds with each reading, so no rate limit applies."""

    def __init__(self, *, step_s: float = 10.0) -> None:
        self.now_s = float(NOW_S)
        self._step_ns = int(step_s * 1e9)
        self._looks = 0
        self._advanced_ns = 0

    def utc_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic_ns(self) -> int:
        self._looks += 1
        return self._looks * self._step_ns + self._advanced_ns

    def advance(self, seconds: float) -> None:
        self._advanced_ns += int(seconds * 1e9)


class RecordingHandler:
    """Records the calls."""

    def __init__(self) -> None:
        self.calls: list[Request | str] = []
        self.answer: Callable[[], Details] = dict
        self.gate: threading.Event | None = None
        self.captures: list[Answer] = []
        self.are_captures_slow = False

    def _record(self, request: Request | str) -> Details:
        if self.gate is not None:
            self.gate.wait(10)
        self.calls.append(request)
        return self.answer()

    def snapshot(self, request: Snapshot) -> Details:
        return self._record(request)

    def capture(self, request: Capture, answer: Answer) -> None:
        self.captures.append(answer)
        if not self.are_captures_slow:
            answer(self._record(request))

    def set(self, request: Set) -> Details:
        return self._record(request)

    def reload(self) -> Details:
        return self._record("reload")

    def rebirth(self) -> Details:
        return self._record("rebirth")

    def selftest(self, request: Selftest) -> Details:
        return self._record(request)

    def benchmark(self, request: Benchmark) -> Details:
        return self._record(request)

    def explain(self, request: Explain) -> Details:
        return self._record(request)


class Bench:
    """A command server with a recording handler and publisher."""

    def __init__(
        self,
        config: CommandsConfig = ALL,
        ids_file: Path | None = None,
        step_s: float = 10.0,
        clock_state: ClockState = "synced",
    ) -> None:
        self.handler = RecordingHandler()
        self.out: list[Outgoing] = []
        self.clock = FixedClock(step_s=step_s)
        self.server = CommandServer(
            config,
            IDENTITY,
            self.handler,
            self.out.append,
            ids_file=ids_file,
            clock=self.clock,
            clock_state=lambda: clock_state,
        )

    def send(self, verb: str, body: Any = None, **more: Any) -> None:
        body = {"id": "a", "expires_at": NOW_S + 30} | (body or {}) if not isinstance(body, bytes) else body
        payload = body if isinstance(body, bytes) else orjson.dumps(body)
        topic = more.pop("topic", TOPICS.command(verb))
        self.server.receive(Received(topic, payload, 1, more.pop("retain", False), **more))

    def replies(self, count: int = 1) -> list[Reply]:
        wait_until(lambda: len(self.out) >= count)
        return [message for one in self.out if isinstance(message := one.message, Reply)]

    @contextmanager
    def working(self) -> Iterator[Bench]:
        self.server.start()
        try:
            yield self
        finally:
            assert self.server.stop(5)
        assert self.server.failure is None


def test_the_log_says_who_sent_a_command_where_that_is_known() -> None:
    with structlog.testing.capture_logs() as lines, Bench().working() as bench:
        bench.send("selftest", sender="the page, client anna, from 192.0.2.7")
        bench.send("selftest", {"id": "b", "model": 3}, sender="the page, client anna, from 192.0.2.7")
        bench.send("selftest", {"id": "c"})
        bench.replies(3)
    logged = sorted((line["event"], line.get("id", ""), line.get("sender")) for line in lines)
    assert logged == [
        ("command.received", "a", "the page, client anna, from 192.0.2.7"),
        ("command.received", "c", None),
        ("command.refused", "", "the page, client anna, from 192.0.2.7"),
    ]


GOOD = {
    "snapshot": {"camera": "front"},
    "capture": {"camera": "front"},
    "set": {"camera": "front", "rate_hz": 5},
    "reload": {},
    "rebirth": {},
    "selftest": {},
    "benchmark": {"runs": 3},
    "explain": {"camera": "front"},
}


@pytest.mark.parametrize("verb", GOOD)
def test_a_valid_command_runs_once_and_its_reply_has_its_id(verb: str) -> None:
    with Bench().working() as bench:
        bench.handler.answer = lambda: {"x": 1}
        bench.send(verb, GOOD[verb])
        (reply,) = bench.replies()
    assert (reply.id, reply.verb, reply.outcome, reply.reason, reply.details) == ("a", verb, "done", None, {"x": 1})
    assert bench.out[0].topic == TOPICS.reply(verb)
    assert bench.out[0].is_kept
    assert len(bench.handler.calls) == 1


@pytest.mark.parametrize(
    ("verb", "body", "reason"),
    [
        ("snapshot", {}, "invalid"),
        ("snapshot", {"camera": "front", "path": "/etc/passwd"}, "invalid"),
        ("snapshot", {"camera": "../front"}, "invalid"),
        ("snapshot", {"camera": "front", "quality": 96}, "invalid"),
        ("snapshot", {"camera": "front", "max_width": "wide"}, "invalid"),
        ("capture", {}, "invalid"),
        ("capture", {"camera": "front", "timeout_s": 1}, "invalid"),
        ("set", {"camera": "front"}, "invalid"),
        ("set", {"camera": "front", "enter": 0.5}, "invalid"),
        ("set", {"camera": "front", "rate_hz": 0}, "invalid"),
        ("set", {"camera": "front", "rate_hz": True}, "invalid"),
        ("set", {"camera": "front", "enabled": "yes"}, "invalid"),
        ("reload", {"expires_at": "tomorrow"}, "invalid"),
        ("reload", {"expires_at": "2027-01-15T08:00:30"}, "invalid"),
        ("reload", {"expires_at": True}, "invalid"),
        ("reload", {"expires_at": 1e300}, "invalid"),
        ("reload", {"expires_at": NOW_S}, "expired"),
        ("reload", {"expires_at": NOW_S + 3601}, "expires_too_late"),
    ],
)
def test_an_invalid_command_is_refused_with_its_reason(verb: str, body: Any, reason: str) -> None:
    with Bench().working() as bench:
        bench.send(verb, body)
        (reply,) = bench.replies()
    assert (reply.outcome, reply.reason) == ("refused", reason)
    assert reply.text
    assert "Value error" not in reply.text, "a word of the library's"
    assert bench.server.counters.counts() == {reason: 1}
    assert bench.handler.calls == []


NOT_ADDRESSED = [
    ({"id": "no spaces"}, "invalid"),
    ({"id": ""}, "invalid"),
    (b"", "invalid"),
    (b"[]", "invalid"),
    (b"\xff\xfe", "invalid"),
    (b"[" * 5000, "invalid"),
    (b" " * (MAX_BYTES + 1), "too_large"),
]


@pytest.mark.parametrize(("body", "reason"), NOT_ADDRESSED)
def test_a_command_without_an_id_gets_a_reply_on_its_response_topic_only(body: Any, reason: str) -> None:
    with Bench().working() as bench:
        for topic in (None, TOPICS.status, "#", ""):
            bench.send("reload", body, response_topic=topic)
        assert bench.out == []
        bench.send("reload", body, response_topic="my/inbox", correlation=b"1")
        (reply,) = bench.replies()
    assert (bench.out[0].topic, reply.id, reply.reason) == ("my/inbox", None, reason)
    assert bench.server.counters.counts() == {reason: 5}


@pytest.mark.parametrize("expires_at", [NOW_S + 1, NOW_S + 0.5, "2027-01-15T08:00:30Z", "2027-01-15T09:00:30+01:00"])
def test_expiry_is_seconds_or_a_date_with_a_time_zone(expires_at: object) -> None:
    with Bench().working() as bench:
        bench.send("reload", {"expires_at": expires_at})
        assert bench.replies()[0].outcome == "done"


def test_only_allowed_verbs_run_and_none_if_commands_are_off() -> None:
    for config in (CommandsConfig(enabled=True, allow=("explain",)), CommandsConfig(enabled=False, allow=("reload",))):
        with Bench(config).working() as bench:
            for verb in ("reload", "snapshot", "reboot"):
                bench.send(verb)
        assert bench.handler.calls == []
        assert bench.out == []
        assert bench.server.counters.counts() == {"ignored": 3}
        assert bench.server.subscriptions == ((TOPICS.command("explain"),) if config.enabled else ())


def test_retained_and_foreign_messages_are_ignored() -> None:
    with Bench().working() as bench:
        bench.send("reload", retain=True)
        bench.send("reload", topic="edge/other/cmd/reload")
        bench.send("reload", topic=TOPICS.command("reload/x"))
        bench.send("rebirth")
        assert [reply.verb for reply in bench.replies()] == ["rebirth"]
    assert bench.server.counters.counts() == {"ignored": 3, "done": 1}
    assert bench.handler.calls == ["rebirth"]


def test_an_id_runs_once_also_across_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "commands.json"
    for _ in range(2):
        with Bench(ids_file=file).working() as bench:
            bench.send("reload", {"id": "same"})
            bench.send("reload", {"id": "same"})
            bench.send("rebirth", {"id": f"other{_}"})
            wait_until(lambda bench=bench: "rebirth" in bench.handler.calls)  # type: ignore[misc]  # bound now
        asked = bench.handler.calls
        assert asked == (["reload", "rebirth"] if _ == 0 else ["rebirth"])
        assert [reply.id for reply in bench.replies()] == [*(["same"] if _ == 0 else []), f"other{_}"]


def test_ids_are_forgotten_when_they_expire() -> None:
    with Bench().working() as bench:
        bench.send("reload", {"id": "1", "expires_at": NOW_S + 5})
        bench.clock.now_s += 6
        bench.send("reload", {"id": "2", "expires_at": NOW_S + 30})
        bench.replies(2)
        assert "1" not in bench.server._seen
        bench.send("reload", {"id": "1", "expires_at": NOW_S + 5})
        assert bench.replies(3)[2].reason == "expired"


def test_a_damaged_file_of_ids_does_not_prevent_the_start(tmp_path: Path) -> None:
    file = tmp_path / "commands.json"
    file.write_text('{"a": "x"')
    with Bench(ids_file=file).working() as bench:
        bench.send("reload")
        assert bench.replies()[0].outcome == "done"


def test_more_than_the_rate_is_refused() -> None:
    with Bench(CommandsConfig(enabled=True, allow=("reload",)), step_s=0.0).working() as bench:
        for number in range(15):
            bench.send("reload", {"id": str(number)})
        reasons = [reply.reason for reply in bench.replies(15)]
    assert reasons.count("rate_limited") == 5
    assert reasons.count(None) == 10


def test_a_flood_is_counted_and_gets_few_replies_none_of_them_kept() -> None:
    with Bench(CommandsConfig(enabled=True, allow=("reload",)), step_s=0.0).working() as bench:
        for number in range(10_000):
            bench.send("reload", {"id": str(number)} if number % 2 else b"junk")
        wait_until(lambda: len(bench.handler.calls) == 5)
        wait_until(lambda: bench.server.counters.counts()["done"] == 5)
    counts = bench.server.counters.counts()
    assert counts == {"done": 5, "invalid": 5, "rate_limited": 9_990}
    refused = [one for one in bench.out if isinstance(one.message, Reply) and one.message.outcome == "refused"]
    assert 0 < len(refused) <= 10
    assert not any(one.is_kept for one in refused)


def test_replies_come_back_once_the_flood_is_over() -> None:
    with Bench(CommandsConfig(enabled=True, allow=("reload",), max_per_minute=60), step_s=0.0).working() as bench:
        for number in range(100):
            bench.send("reload", {"id": str(number)})
        before = len(bench.replies(20))
        bench.clock.advance(2.0)
        bench.send("reload", {"id": "later"})
        assert bench.replies(before + 1)[-1].id == "later"


@pytest.mark.parametrize("body", [{"expires_at": NOW_S - 60}, {"expires_at": NOW_S + 7200}])
def test_only_a_clock_that_follows_a_time_server_judges_when_a_command_expires(body: dict[str, Any]) -> None:
    with Bench(clock_state="unsynced").working() as bench:
        bench.send("reload", body)
        bench.send("reload", body)
        wait_until(lambda: bench.server.counters.counts() == {"done": 1, "replayed": 1})
    with Bench(clock_state="synced").working() as bench:
        bench.send("reload", body)
        assert bench.replies()[0].outcome == "refused"


@pytest.mark.parametrize("clock_state", ["synced", "unsynced"])
def test_a_command_need_not_expire_and_its_id_is_kept_for_an_hour(clock_state: ClockState) -> None:
    with Bench(clock_state=clock_state).working() as bench:
        for passed_s in (0, 3590, 20):
            bench.clock.now_s += passed_s
            bench.send("reload", b'{"id": "a"}')
        wait_until(lambda: bench.server.counters.counts() == {"done": 2, "replayed": 1})


def test_more_than_can_wait_is_refused_as_busy() -> None:
    bench = Bench()
    bench.handler.gate = threading.Event()
    with bench.working():
        for number in range(30):
            bench.send("reload", {"id": str(number)})
        bench.handler.gate.set()
        replies = bench.replies(30)
    assert {reply.reason for reply in replies} == {None, "busy"}
    assert {reply.id for reply in replies} == {str(number) for number in range(30)}


def test_errors_become_replies() -> None:
    def refuse() -> Details:
        raise CommandRefused("no_frame", "nothing seen yet")

    def fail() -> Details:
        raise SourceUnavailable("the camera is gone")

    with Bench().working() as bench:
        bench.handler.answer = refuse
        bench.send("reload", {"id": "1"})
        bench.replies()
        bench.handler.answer = fail
        bench.send("reload", {"id": "2"})
        replies = bench.replies(2)
    assert [(one.outcome, one.reason) for one in replies] == [
        ("refused", "no_frame"),
        ("failed", "source_unavailable"),
    ]
    assert replies[1].text == "the camera is gone"


def test_a_capture_is_begun_at_once_and_answered_when_it_ends() -> None:
    with Bench().working() as bench:
        bench.handler.gate, bench.handler.are_captures_slow = threading.Event(), True
        bench.send("reload", {"id": "long"})
        for key in ("part-1", "part-2"):
            bench.send("capture", {"id": key, "camera": "front"}, response_topic="my/inbox", correlation=key.encode())
        assert len(bench.handler.captures) == 2, "it must not wait behind a command that takes long"
        assert bench.out == []
        bench.handler.captures[1]({"frame": 7})
        bench.handler.captures[0](CommandRefused("timeout", "no frame in time"))
        replies = bench.replies(2)
        assert [(one.id, one.outcome, one.reason) for one in replies] == [
            ("part-2", "done", None),
            ("part-1", "failed", "timeout"),
        ]
        assert replies[0].details == {"frame": 7}
        assert [(one.topic, one.correlation) for one in bench.out] == [
            ("my/inbox", b"part-2"),
            ("my/inbox", b"part-1"),
        ]
        bench.handler.gate.set()
        bench.replies(3)
    assert bench.server.counters.counts() == {"done": 2, "failed": 1}


def test_captures_are_limited_and_repeated_ids_ignored_like_other_commands(tmp_path: Path) -> None:
    config = CommandsConfig(enabled=True, allow=("capture",), max_per_minute=60)
    with Bench(config, step_s=0.0, ids_file=tmp_path / "ids").working() as bench:
        for number in range(12):
            bench.send("capture", {"id": str(number // 2), "camera": "front"})
        assert bench.server.counters.counts() == {"done": 5, "replayed": 5, "rate_limited": 2}
    with Bench(config, ids_file=tmp_path / "ids").working() as bench:
        bench.send("capture", {"id": "0", "camera": "front"})
        assert bench.server.counters.counts() == {"replayed": 1}, "also after a restart"
    with Bench(CommandsConfig(enabled=True, allow=("snapshot",))).working() as bench:
        bench.send("capture", {"camera": "front"})
        assert bench.handler.captures == []


def test_a_reply_goes_to_the_response_topic_but_never_to_message_topics() -> None:
    with Bench().working() as bench:
        bench.send("reload", {"id": "1"}, response_topic="my/inbox", correlation=b"\x01\x02")
        bench.send("reload", {"id": "2"}, response_topic=TOPICS.status)
        bench.send("reload", {"id": "3"}, response_topic="a/#")
        bench.send("reload", {"id": "4"}, response_topic=TOPICS.reply("mine"))
        bench.replies(4)
    by_id = {one.message.id: one for one in bench.out if isinstance(one.message, Reply)}
    assert (by_id["1"].topic, by_id["1"].correlation) == ("my/inbox", b"\x01\x02")
    assert by_id["4"].topic == TOPICS.reply("mine")
    for key in ("2", "3"):
        assert by_id[key].topic == TOPICS.reply("reload")
        assert isinstance(reply := by_id[key].message, Reply)
        assert reply.reason == "response_topic"


def test_the_schemas_of_commands_describe_every_field_and_allow_no_other() -> None:
    for schema in request_schemas().values():
        assert schema["additionalProperties"] is False
        assert schema["description"]
        assert all(field.get("description") for field in schema["properties"].values())


def _strange(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.3:
        return chance.randbytes(chance.randint(0, 60))
    good = orjson.dumps({"id": "a1", "expires_at": NOW_S - 1, "camera": "front", "rate_hz": 5, "enabled": True})
    if kind < 0.6:
        broken = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        return bytes(broken)
    values: list[Any] = [
        None,
        True,
        -1,
        2**63,
        1e308,
        "",
        "x" * 100,
        [],
        {},
        [[[]]],
        "../../etc/passwd",
        "http://x",
        "\0",
    ]
    keys = [
        "id",
        "expires_at",
        "camera",
        "classifier",
        "rate_hz",
        "enabled",
        "keep",
        "model",
        "runs",
        "__class__",
        "path",
    ]
    body = {chance.choice(keys): chance.choice(values) for _ in range(chance.randint(0, 8))}
    return orjson.dumps(body)


def test_a_hundred_thousand_strange_payloads_have_no_effect() -> None:
    chance = random.Random(7)
    with structlog.testing.capture_logs() as lines, Bench().working() as bench:
        verbs = [*REQUESTS, "shell", "", "\u2028"]
        for _ in range(100_000):
            response = chance.choice([None, None, None, "", "x/y", "edge/line-3/status", "#"])
            bench.send(chance.choice(verbs), _strange(chance), response_topic=response)
            if len(bench.out) > 1000:
                assert all(one.message.outcome == "refused" for one in bench.out if isinstance(one.message, Reply))
                assert all(not one.topic.startswith(TOPICS.status) for one in bench.out)
                bench.out.clear()
                lines.clear()
    assert bench.handler.calls == []
