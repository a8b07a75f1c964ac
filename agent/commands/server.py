"""Receives commands from the broker, checks them, and sends one reply to each."""

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
from agent.mqtt.base import Received
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

MAX_WAITING = 16
MAX_REMEMBERED = 1024
REPLY_EXPIRY_S = 3600
_BURST = 10.0
_MAX_RESPONSE_TOPIC = 256
_ID = re.compile(ID_PATTERN)
_VERBS: dict[str, Verb] = {verb: verb for verb in REQUESTS}

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

    def add(self, key: str, expires_s: float, now_s: float) -> bool:
        """Remember ``key``; False if it is known already or there is no room."""
        for old in [one for one, until_s in self._ids.items() if until_s < now_s]:
            del self._ids[old]
        if key in self._ids or len(self._ids) >= MAX_REMEMBERED:
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


class CommandServer:
    """Receives commands on the connection's thread and carries them out on its own thread, ``commands``.

    ``publish`` sends the replies. Retained and expired commands, and those with a known id, have no effect.
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
    ) -> None:
        self._allowed = frozenset(config.allow) if config.enabled else frozenset[Verb]()
        self._per_s = config.max_per_minute / 60.0
        self._identity = identity
        self._handler = handler
        self._publish = publish
        self._clock = clock or SystemClock()
        self._prefix = identity.topics.command("")
        self._seen = SeenIds(ids_file)
        self._lock = threading.Lock()
        self._tokens = _BURST
        self._filled_ns = self._clock.monotonic_ns()
        self._waiting: Channel[tuple[Verb, Request, Received]] = Channel(MAX_WAITING, "drop_newest")
        self._thread = StageThread("commands", self._work)
        self.ignored = 0
        """Ignored messages on command topics: retained ones, unknown topics, repeated ids."""

    @property
    def subscription(self) -> str:
        """The topic filter of all commands."""
        return self._identity.topics.command("+")

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
        verb = message.topic.removeprefix(self._prefix)
        if not message.topic.startswith(self._prefix) or "/" in verb or message.retain:
            self.ignored += 1
            return
        try:
            known_verb, request = self._admit(verb, message)
        except CommandRefused as refusal:
            if refusal.reason == "replayed":
                # At QoS 1 the broker may deliver a command twice; its sender waits for one reply.
                self.ignored += 1
                return
            self._reply_error(verb, message, _id_of(message.payload), refusal.reason, refusal.message)
            return
        try:
            is_taken = self._waiting.send((known_verb, request, message))
        except ChannelClosed:
            is_taken = False
        if not is_taken:
            text = f"{MAX_WAITING} commands are waiting already, or the agent is stopping; try again"
            self._reply_error(verb, message, request.id, "busy", text)

    def _admit(self, text: str, message: Received) -> tuple[Verb, Request]:
        """Check a command before it is queued."""
        # The rate comes first, so that invalid commands are limited too.
        if not self._has_token():
            raise CommandRefused(
                "rate_limited", "more commands than mqtt.commands.max_per_minute allows; try again later"
            )
        verb = _VERBS.get(text)
        if verb is None:
            raise CommandRefused("unknown_verb", f"there is no such command; the commands are {', '.join(_VERBS)}")
        if verb not in self._allowed:
            raise CommandRefused("not_allowed", f"mqtt.commands.allow does not list {verb}")
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
            if request.id in self._seen:
                raise CommandRefused("replayed", "this id was answered before")
            if request.expires_at <= now:
                raise CommandRefused(
                    "expired", f"it expired at {request.expires_at.isoformat()}, but the time is {now.isoformat()}"
                )
            if request.expires_at - now > MAX_AHEAD:
                raise CommandRefused("expires_too_late", "expires_at is more than one hour ahead")
            if not self._seen.add(request.id, request.expires_at.timestamp(), now.timestamp()):
                raise CommandRefused(
                    "busy", f"{MAX_REMEMBERED} commands have not expired yet, which is the maximum; try again later"
                )
        return verb, request

    def _may_reply_to(self, topic: str) -> bool:
        """Whether replies may go to ``topic``. A request must not make the agent publish on its own message topics."""
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
                self._run_command(*item)

    def _run_command(self, verb: Verb, request: Request, message: Received) -> None:
        # Saved before it runs: after a crash a command may be lost, but never runs twice.
        with self._lock:
            self._seen.save()
        log.info("command.received", verb=verb, id=request.id)
        try:
            details = self._do(verb, request)
        except CommandRefused as refusal:
            self._reply_error(verb, message, request.id, refusal.reason, refusal.message)
            return
        except (AgentError, EngineError) as exc:
            reason = re.sub(r"(?<!^)(?=[A-Z])", "_", type(exc).__name__).lower()
            self._reply_error(verb, message, request.id, reason, exc.message, has_failed=True)
            return
        self._reply(verb, message, self._message(verb, request.id, "done", None, "done", details), is_kept=True)

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
        self, verb: str, message: Received, key: str | None, reason: str, text: str, *, has_failed: bool = False
    ) -> None:
        log.warning("command.failed" if has_failed else "command.refused", verb=verb[:64], reason=reason, error=text)
        reply = self._message(verb, key, "failed" if has_failed else "refused", reason, text, {})
        # A flood of bad commands must not fill the outbox.
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
        if message.response_topic is not None and self._may_reply_to(message.response_topic):
            topic = message.response_topic
        self._publish(
            Outgoing(topic, reply, 1, expiry_s=REPLY_EXPIRY_S, is_kept=is_kept, correlation=message.correlation)
        )


def _printable(text: str) -> str:
    """A verb from outside, safe to repeat in a reply."""
    return "".join(char if char.isprintable() else "?" for char in text[:64])


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
