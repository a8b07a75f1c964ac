"""Receives commands from the broker, checks them, and sends one reply to each."""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson

from agent.commands.contract import CommandHandler, CommandRefused, Details
from agent.commands.requests import (
    MAX_AHEAD,
    MAX_BYTES,
    Benchmark,
    Capture,
    Explain,
    Request,
    Selftest,
    Set,
    Snapshot,
    request_from_payload,
)
from agent.config.sections.base import REQUEST_ID
from agent.config.sections.subscribers import CommandsConfig, Verb
from agent.mqtt.base import Received
from agent.mqtt.identity import Identity
from agent.mqtt.messages import utc_text
from agent.mqtt.messages.replies import Reply
from agent.publish.packets import Outgoing
from agent.runtime.channel import Channel, ChannelClosed
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.clock_sync import ClockState
from agent.runtime.errors import AgentError
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread
from engines import EngineError, JsonRecord

MAX_WAITING = 16
MAX_REMEMBERED = 1024
REPLY_EXPIRY_S = 3600
_BURST = 10.0
_MAX_RESPONSE_TOPIC = 256
_ID = re.compile(REQUEST_ID)

log = get_logger(__name__)


class SeenIds:
    """Ids of commands until they expire, also across a restart, so that no command is carried out twice.

    Used under its owner's lock.
    """

    def __init__(self, path: Path | None) -> None:
        self._ids: OrderedDict[str, float] = OrderedDict()
        self._record: JsonRecord[list[tuple[str, float]]] | None = None
        if path is not None:
            # No fsync: the broker's connection waits for the write. A list, because JSON objects have no order.
            self._record = JsonRecord(path, encode=list, decode=_ids_from, is_durable=False)
            self._ids.update(self._record.load() or ())

    def forget_expired(self, now_s: float) -> None:
        """Forget the ids that have expired."""
        for old in [one for one, until_s in self._ids.items() if until_s < now_s]:
            del self._ids[old]

    def add(self, key: str, expires_s: float) -> bool:
        """Remember ``key``; False if there is no room."""
        if len(self._ids) >= MAX_REMEMBERED:
            return False
        self._ids[key] = expires_s
        return True

    def __contains__(self, key: str) -> bool:
        return key in self._ids

    def save(self) -> None:
        """Write the ids to the file; if that fails, a restart forgets them."""
        if self._record is None:
            return
        try:
            self._record.save(list(self._ids.items()))
        except OSError as exc:
            log.warning("commands.ids_write_failed", error=str(exc))


def _ids_from(value: Any) -> list[tuple[str, float]]:
    return [(str(key), float(expires_s)) for key, expires_s in value]


class CommandCounters:
    """Counts the commands of this session by what became of them; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, outcome: str) -> None:
        """Count one: ``done``, ``failed``, ``ignored``, or the reason of a refusal."""
        with self._lock:
            self._counts[outcome] += 1

    def counts(self) -> dict[str, int]:
        """The counts so far."""
        with self._lock:
            return dict(self._counts)


class _TokenBucket:
    """Allows ``per_s`` on average and ten at once. Any thread."""

    def __init__(self, per_s: float, clock: Clock) -> None:
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = _BURST
        self._filled_ns = clock.monotonic_ns()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            self._tokens = min(_BURST, self._tokens + (now_ns - self._filled_ns) / 1e9 * self._per_s)
            self._filled_ns = now_ns
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class CommandServer:
    """Receives commands on the connection's thread and carries them out on its own thread, ``commands``.

    ``capture`` alone is begun on the connection's thread: it takes no time, and must not wait behind a command that
    does, such as a reload. Its reply comes when the frame is classified, from a worker's thread.

    ``publish`` sends the replies, ``clock_state`` says whether this clock can judge ``expires_at``. Retained and
    expired commands, and those with a known id, have no effect. Commands above ``max_per_minute`` are refused before
    they are parsed, and no more refusals than that are answered: a flood costs neither time nor replies.
    """

    def __init__(
        self,
        config: CommandsConfig,
        identity: Identity,
        handler: CommandHandler,
        publish: Callable[[Outgoing], None],
        *,
        ids_file: Path | None = None,
        clock: Clock | None = None,
        clock_state: Callable[[], ClockState] = lambda: "synced",
        counters: CommandCounters | None = None,
    ) -> None:
        self._identity = identity
        self._handler = handler
        self._publish = publish
        self._clock = clock or SystemClock()
        self._clock_state = clock_state
        allowed = config.allow if config.enabled else ()
        self._verbs: dict[str, Verb] = {identity.topics.command(verb): verb for verb in allowed}
        self._seen = SeenIds(ids_file)
        self._lock = threading.Lock()
        self._accepted = _TokenBucket(config.max_per_minute / 60.0, self._clock)
        self._answered = _TokenBucket(config.max_per_minute / 60.0, self._clock)
        self._waiting: Channel[tuple[Verb, Request, Received]] = Channel(MAX_WAITING, "drop_newest")
        self._thread = StageThread("commands", self._work)
        self.counters = counters or CommandCounters()

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topics of the allowed commands."""
        return tuple(self._verbs)

    @property
    def failure(self) -> Exception | None:
        """The exception that ended the thread."""
        return self._thread.failure

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Accept no more commands; False if one is still running after ``timeout_s``."""
        self._waiting.close()
        return self._thread.join(timeout_s)

    def receive(self, message: Received) -> None:
        """Handle one message; any topic and payload are safe. Never blocks."""
        self.offer(message)

    def offer(self, message: Received) -> bool:
        """``receive``; whether a reply comes, now or when the command has been carried out."""
        verb = self._verbs.get(message.topic)
        if verb is None or message.retain:
            self.counters.add("ignored")
            return False
        try:
            request = self._admit(verb, message)
            if isinstance(request, Capture):
                self._run_command(verb, request, message)
            else:
                self._queue(verb, request, message)
        except CommandRefused as refusal:
            return self._refuse(verb, message, refusal)
        return True

    def _queue(self, verb: Verb, request: Request, message: Received) -> None:
        try:
            is_taken = self._waiting.send((verb, request, message))
        except ChannelClosed:
            is_taken = False
        if not is_taken:
            raise CommandRefused(
                "busy", f"{MAX_WAITING} commands are waiting already, or the agent is stopping; try again"
            )

    def _admit(self, verb: Verb, message: Received) -> Request:
        """Check a command before it is queued."""
        # First of all: parsing on the connection's thread keeps the confirmations of events waiting.
        if not self._accepted.take():
            raise CommandRefused(
                "rate_limited", "more commands than mqtt.commands.max_per_minute allows; try again later"
            )
        if len(message.payload) > MAX_BYTES:
            raise CommandRefused(
                "too_large", f"the command has {len(message.payload)} bytes, at most {MAX_BYTES} are allowed"
            )
        try:
            request = request_from_payload(verb, message.payload)
        except ValueError as exc:
            raise CommandRefused("invalid", str(exc)) from exc
        if message.response_topic is not None and not self._may_reply_to(message.response_topic):
            raise CommandRefused(
                "response_topic", "the response topic is not valid, or is a topic that the agent uses itself"
            )
        now = datetime.fromtimestamp(self._clock.utc_ns() / 1e9, tz=timezone.utc)
        with self._lock:
            self._seen.forget_expired(now.timestamp())
            if request.id in self._seen:
                raise CommandRefused("replayed", "this id was answered before")
            if not self._seen.add(request.id, self._expiry_of(request, now).timestamp()):
                raise CommandRefused(
                    "busy", f"{MAX_REMEMBERED} commands have not expired yet, which is the maximum; try again later"
                )
        return request

    def _expiry_of(self, request: Request, now: datetime) -> datetime:
        """When the id can be forgotten. A clock that follows no time server cannot judge the sender's time.

        Raises:
            CommandRefused: the command has expired, or expires too late.
        """
        if request.expires_at is None or self._clock_state() == "unsynced":
            return now + MAX_AHEAD
        if request.expires_at <= now:
            raise CommandRefused(
                "expired", f"it expired at {request.expires_at.isoformat()}, but the time is {now.isoformat()}"
            )
        if request.expires_at - now > MAX_AHEAD:
            raise CommandRefused("expires_too_late", "expires_at is more than one hour ahead")
        return request.expires_at

    def _refuse(self, verb: Verb, message: Received, refusal: CommandRefused) -> bool:
        """Answer a command that was not queued, if its sender can recognise the reply and few were refused lately;
        whether it was answered.

        At QoS 1 the broker may deliver a command twice; its sender waits for one reply, so a repeated id gets none.
        """
        self.counters.add(refusal.reason)
        if refusal.reason == "replayed" or not self._answered.take():
            return False
        key = _id_of(message.payload)
        if key is None and (message.response_topic is None or not self._may_reply_to(message.response_topic)):
            log.warning(
                "command.refused",
                verb=verb,
                reason=refusal.reason,
                error=refusal.message,
                reply="none: no id",
                **_sender(message),
            )
            return False
        # Not kept: refusals must not fill the outbox.
        self._reply_error(verb, message, key, refusal, is_kept=False)
        return True

    def _may_reply_to(self, topic: str) -> bool:
        """Whether replies may go to ``topic``. A request must not make the agent publish on its own message topics."""
        topics = self._identity.topics
        is_odd = not topic or len(topic) > _MAX_RESPONSE_TOPIC or any(char in topic for char in "+#\0$")
        return not is_odd and (not topic.startswith(f"{topics.root}/") or topic.startswith(topics.reply("")))

    def _work(self) -> None:
        while True:
            try:
                item = self._waiting.receive()
            except ChannelClosed:
                return
            if item is not None:
                self._run_command(*item)

    def _run_command(self, verb: Verb, request: Request, message: Received) -> None:
        # Saved before it runs: after a crash a command may be lost, but never runs twice.
        with self._lock:
            self._seen.save()
        try:
            if isinstance(request, Capture):
                log.debug(
                    "command.received", verb=verb, id=request.id, **_sender(message)
                )  # may come with every part on a belt
                self._handler.capture(request, lambda answer: self._end(verb, request, message, answer))
                return
            log.info("command.received", verb=verb, id=request.id, **_sender(message))
            details = self._do(verb, request)
        except CommandRefused as refusal:
            self.counters.add(refusal.reason)
            self._reply_error(verb, message, request.id, refusal, is_kept=True)
            return
        except (AgentError, EngineError) as exc:
            reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(exc).__name__).lower()
            self._end(verb, request, message, CommandRefused(reason, exc.message))
            return
        self._end(verb, request, message, details)

    def _end(self, verb: Verb, request: Request, message: Received, answer: Details | CommandRefused) -> None:
        """Count and answer a command that was tried. Any thread."""
        if isinstance(answer, CommandRefused):
            self.counters.add("failed")
            self._reply_error(verb, message, request.id, answer, is_kept=True, has_failed=True)
            return
        self.counters.add("done")
        self._reply(verb, message, self._message(verb, request.id, "done", None, "done", answer), is_kept=True)

    def _do(self, verb: Verb, request: Request) -> Details:
        handler = self._handler
        if isinstance(request, Snapshot):
            return handler.snapshot(request)
        if isinstance(request, Set):
            return handler.set(request)
        if isinstance(request, Selftest):
            return handler.selftest(request)
        if isinstance(request, Benchmark):
            return handler.benchmark(request)
        if isinstance(request, Explain):
            return handler.explain(request)
        return handler.reload() if verb == "reload" else handler.rebirth()

    def _reply_error(
        self,
        verb: Verb,
        message: Received,
        key: str | None,
        refusal: CommandRefused,
        *,
        is_kept: bool,
        has_failed: bool = False,
    ) -> None:
        reason, text = refusal.reason, refusal.message
        event = "command.failed" if has_failed else "command.refused"
        log.warning(event, verb=verb, reason=reason, error=text, **_sender(message))
        reply = self._message(verb, key, "failed" if has_failed else "refused", reason, text, {})
        self._reply(verb, message, reply, is_kept=is_kept)

    def _message(
        self, verb: Verb, key: str | None, outcome: str, reason: str | None, text: str, details: Details
    ) -> Reply:
        return Reply(
            device=self._identity.device,
            session=self._identity.session,
            at=utc_text(self._clock.utc_ns()),
            id=key,
            verb=verb,
            outcome=outcome,  # type: ignore[arg-type]  # one of the three, by the callers above
            reason=reason,
            text=text,
            details=details,
        )

    def _reply(self, verb: Verb, message: Received, reply: Reply, *, is_kept: bool) -> None:
        topic = self._identity.topics.reply(verb)
        if message.response_topic is not None and self._may_reply_to(message.response_topic):
            topic = message.response_topic
        self._publish(
            Outgoing(topic, reply, 1, expiry_s=REPLY_EXPIRY_S, is_kept=is_kept, correlation=message.correlation)
        )


def _sender(message: Received) -> dict[str, str]:
    """For the log: who sent the command, where that is known."""
    return {} if message.sender is None else {"sender": message.sender}


def _id_of(payload: bytes) -> str | None:
    """The id of a refused command, None if it has none."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    key = data.get("id") if isinstance(data, dict) else None
    return key if isinstance(key, str) and _ID.match(key) else None
