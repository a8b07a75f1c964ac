"""Takes commands from the broker, refuses what it must, and gives each its one answer."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson

from agent.commands.contract import CommandHandler, CommandRefused, Details
from agent.commands.requests import (
    ID_PATTERN,
    MAX_AHEAD,
    MAX_BYTES,
    REQUESTS,
    Benchmark,
    Explain,
    Request,
    Selftest,
    Set,
    Snapshot,
    request_from_payload,
)
from agent.config.subscribers import CommandsConfig, Verb
from agent.mqtt.connection import Received
from agent.mqtt.identity import Identity
from agent.mqtt.messages import utc_text
from agent.mqtt.messages.replies import Reply
from agent.publish.packets import Outgoing
from agent.runtime.channel import Channel, ChannelClosed
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.errors import AgentError
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread
from engines import EngineError, JsonRecord

WAITING = 16
REMEMBERED = 1024
REPLY_EXPIRY_S = 3600
_BURST = 10.0
_MAX_RESPONSE_TOPIC = 256
_ID = re.compile(ID_PATTERN)
_VERBS: dict[str, Verb] = {verb: verb for verb in REQUESTS}

log = get_logger(__name__)


class SeenIds:
    """Ids of commands until they expire, also over a restart: no command is carried out twice. Under one lock."""

    def __init__(self, path: Path | None) -> None:
        self._ids: OrderedDict[str, float] = OrderedDict()
        self._record: JsonRecord[list[tuple[str, float]]] | None = None
        if path is not None:
            # No fsync: the broker's connection waits for the write. A list, because JSON objects have no order.
            self._record = JsonRecord(path, encode=list, decode=_ids_from, is_durable=False)
            self._ids.update(self._record.load() or ())

    def add(self, key: str, expires_s: float, now_s: float) -> bool:
        """Remember ``key``; False when it is known already, or there is no room for it."""
        for old in [one for one, until_s in self._ids.items() if until_s < now_s]:
            del self._ids[old]
        if key in self._ids or len(self._ids) >= REMEMBERED:
            return False
        self._ids[key] = expires_s
        return True

    def __contains__(self, key: str) -> bool:
        return key in self._ids

    def save(self) -> None:
        """Write them down; where that fails, a restart forgets them."""
        if self._record is None:
            return
        try:
            self._record.save(list(self._ids.items()))
        except OSError as exc:
            log.warning("commands.ids_write_failed", error=str(exc))


def _ids_from(value: Any) -> list[tuple[str, float]]:
    return [(str(key), float(expires_s)) for key, expires_s in value]


class CommandServer:
    """Commands come in on the connection's thread (``receive``) and are carried out on a thread of their own.

    ``publish`` takes the replies. Retained commands, expired ones and those with a known id have no effect.
    """

    def __init__(
        self,
        config: CommandsConfig,
        identity: Identity,
        host: CommandHandler,
        publish: Callable[[Outgoing], None],
        *,
        ids_file: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._allowed = frozenset(config.allow) if config.enabled else frozenset[Verb]()
        self._per_s = config.max_per_minute / 60.0
        self._identity = identity
        self._host = host
        self._publish = publish
        self._clock = clock or SystemClock()
        self._prefix = identity.topics.command("")
        self._seen = SeenIds(ids_file)
        self._lock = threading.Lock()
        self._tokens = _BURST
        self._filled_ns = self._clock.monotonic_ns()
        self._waiting: Channel[tuple[Verb, Request, Received]] = Channel(WAITING, "drop_newest")
        self._thread = StageThread("commands", self._work)
        self.ignored = 0
        """Messages on command topics that were no command or came too late to be answered again."""

    @property
    def subscription(self) -> str:
        """What to subscribe to."""
        return self._identity.topics.command("+")

    @property
    def failure(self) -> Exception | None:
        """What ended the thread."""
        return self._thread.failure

    def start(self) -> None:
        """Begin to carry out."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Carry out no more; False when one is still at work after ``timeout_s``."""
        self._waiting.close()
        return self._thread.join(timeout_s)

    def receive(self, message: Received) -> None:
        """Take one message; any topic and any payload are harmless. Never waits."""
        verb = message.topic.removeprefix(self._prefix)
        if not message.topic.startswith(self._prefix) or "/" in verb or message.retain:
            self.ignored += 1
            return
        try:
            known_verb, request = self._admit(verb, message)
        except CommandRefused as refusal:
            if refusal.reason == "replayed":
                self.ignored += 1
                return
            self._answer(verb, message, _id_of(message.payload), refusal.reason, refusal.message)
            return
        try:
            is_taken = self._waiting.send((known_verb, request, message))
        except ChannelClosed:
            is_taken = False
        if not is_taken:
            text = f"{WAITING} commands wait already, or the agent is stopping; try again"
            self._answer(verb, message, request.id, "busy", text)

    def _admit(self, text: str, message: Received) -> tuple[Verb, Request]:
        """Everything that is checked before a command may wait for its turn."""
        if not self._has_token():
            raise CommandRefused("rate_limited", "too many commands; mqtt.commands.max_per_minute limits them")
        verb = _VERBS.get(text)
        if verb is None:
            raise CommandRefused("unknown_verb", f"there is no such command; there is {', '.join(_VERBS)}")
        if verb not in self._allowed:
            raise CommandRefused("not_allowed", f"mqtt.commands.allow does not list {verb}")
        if len(message.payload) > MAX_BYTES:
            raise CommandRefused("too_large", f"{len(message.payload)} bytes, at most {MAX_BYTES} are taken")
        try:
            request = request_from_payload(verb, message.payload)
        except ValueError as exc:
            raise CommandRefused("invalid", str(exc)) from exc
        if message.response_topic is not None and not self._may_answer_on(message.response_topic):
            raise CommandRefused("response_topic", "the response topic is one of the agent's own, or no topic")
        now = datetime.fromtimestamp(self._clock.utc_ns() / 1e9, tz=timezone.utc)
        with self._lock:
            if request.id in self._seen:
                raise CommandRefused("replayed", "it was answered before")
            if request.expires_at <= now:
                raise CommandRefused(
                    "expired", f"it expired at {request.expires_at.isoformat()}, it is {now.isoformat()}"
                )
            if request.expires_at - now > MAX_AHEAD:
                raise CommandRefused("expires_too_late", "expires_at may be an hour ahead at most")
            if not self._seen.add(request.id, request.expires_at.timestamp(), now.timestamp()):
                raise CommandRefused("busy", f"{REMEMBERED} commands of the last hour are remembered; try later")
        return verb, request

    def _may_answer_on(self, topic: str) -> bool:
        """Who asks may not make the agent speak on its other topics, whatever the broker lets it write."""
        topics = self._identity.topics
        is_odd = not topic or len(topic) > _MAX_RESPONSE_TOPIC or any(char in topic for char in "+#\0$")
        return not is_odd and (not topic.startswith(f"{topics.root}/") or topic.startswith(topics.reply("")))

    def _has_token(self) -> bool:
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            self._tokens = min(_BURST, self._tokens + (now_ns - self._filled_ns) / 1e9 * self._per_s)
            self._filled_ns = now_ns
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def _work(self) -> None:
        while True:
            try:
                item = self._waiting.receive()
            except ChannelClosed:
                return
            if item is not None:
                self._carry_out(*item)

    def _carry_out(self, verb: Verb, request: Request, message: Received) -> None:
        with self._lock:
            self._seen.save()
        log.info("command.received", verb=verb, id=request.id)
        try:
            details = self._do(verb, request)
        except CommandRefused as refusal:
            self._answer(verb, message, request.id, refusal.reason, refusal.message)
            return
        except (AgentError, EngineError) as exc:
            reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(exc).__name__).lower()
            self._answer(verb, message, request.id, reason, exc.message, has_failed=True)
            return
        self._reply(verb, message, self._message(verb, request.id, "done", None, "done", details), is_kept=True)

    def _do(self, verb: Verb, request: Request) -> Details:
        host = self._host
        if isinstance(request, Snapshot):
            return host.snapshot(request)
        if isinstance(request, Set):
            return host.set(request)
        if isinstance(request, Selftest):
            return host.selftest(request)
        if isinstance(request, Benchmark):
            return host.benchmark(request)
        if isinstance(request, Explain):
            return host.explain(request)
        return host.reload() if verb == "reload" else host.rebirth()

    def _answer(
        self, verb: str, message: Received, key: str | None, reason: str, text: str, *, has_failed: bool = False
    ) -> None:
        log.warning("command.failed" if has_failed else "command.refused", verb=verb[:64], reason=reason, error=text)
        reply = self._message(verb, key, "failed" if has_failed else "refused", reason, text, {})
        # What a flood consists of is answered, but never stored.
        self._reply(verb, message, reply, is_kept=reason not in {"rate_limited", "invalid", "unknown_verb"})

    def _message(
        self, verb: str, key: str | None, outcome: str, reason: str | None, text: str, details: Details
    ) -> Reply:
        return Reply(
            device=self._identity.device,
            session=self._identity.session,
            at=utc_text(self._clock.utc_ns()),
            id=key,
            verb=_printable(verb),
            outcome=outcome,  # type: ignore[arg-type]  # one of the three, by the callers above
            reason=reason,
            text=text,
            details=details,
        )

    def _reply(self, verb: str, message: Received, reply: Reply, *, is_kept: bool) -> None:
        topic = self._identity.topics.reply(verb if verb in _VERBS else "unknown")
        if message.response_topic is not None and self._may_answer_on(message.response_topic):
            topic = message.response_topic
        self._publish(
            Outgoing(topic, reply, 1, expiry_s=REPLY_EXPIRY_S, is_kept=is_kept, correlation=message.correlation)
        )


def _printable(text: str) -> str:
    """A verb that came from outside, fit to be repeated."""
    return "".join(char if char.isprintable() else "?" for char in text[:64])


def _id_of(payload: bytes) -> str | None:
    """The id of a command that was refused, where it has one."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    key = data.get("id") if isinstance(data, dict) else None
    return key if isinstance(key, str) and _ID.match(key) else None
