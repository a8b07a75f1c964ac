"""The sink that sends to an MQTT broker and reconnects after every failure."""

from __future__ import annotations

import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from agent.mqtt.addresses import AddressList, ReturnWatch
from agent.mqtt.attempts import Version, VersionChoice, referred
from agent.mqtt.base import LineStatistics, Packet, Received, SinkListener, SinkState, SinkStatistics
from agent.mqtt.connection import Connection
from agent.mqtt.diagnosis import Ending, explain_repeated_closing, explain_silence
from agent.mqtt.grants import Granted, lesser_will
from agent.mqtt.loopback import Loopback
from agent.mqtt.network.line import Line
from agent.mqtt.network.transport import probe_transport
from agent.mqtt.settings import MqttSettings
from agent.runtime.backoff import STABLE_S, Backoff
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.logs import get_logger
from agent.runtime.threads import StageThread

NETWORK_CAP_S = 20.0
"""Maximum wait before trying an unreachable broker again. With the time to connect, the agent is back at most 30 s
after its broker."""
REFUSAL_CAP_S = 120.0
"""Maximum wait after a refusal: only a change of settings can help."""
TAKEOVER_WAIT_S = (60.0, 120.0)
"""Wait after takeovers: the other client is left alone."""
RECURRENCES = 3
RECURRENCE_WINDOW_S = 60.0

log = get_logger(__name__)


class Recurrence:
    """Detects that the same thing happens three times within a minute."""

    def __init__(self) -> None:
        self._times_ns: deque[int] = deque(maxlen=RECURRENCES)

    def note(self, now_ns: int) -> bool:
        """Count one at monotonic ``now_ns``; True if it is the third within a minute."""
        self._times_ns.append(now_ns)
        return len(self._times_ns) == RECURRENCES and now_ns - self._times_ns[0] <= RECURRENCE_WINDOW_S * 1e9

    def clear(self) -> None:
        """Start counting again: an attempt was not accepted, so the broker or the network is unstable."""
        self._times_ns.clear()


class MqttClient:
    """A sink that sends to an MQTT broker: MQTT 5, or 3.1.1 if the broker is older.

    One thread, ``mqtt``, connects, runs the network and calls the listener. After every failure it connects again, to
    the next of several addresses, and reads the password and the certificates again. With several addresses a second
    thread, ``mqtt-return``, watches for the way back to an earlier one. ``will`` is the message that the broker sends
    if this agent dies; a broker that refuses it gets it without retain or with QoS 0. ``on_received`` is called on
    ``mqtt`` with each message of ``subscriptions``, except the probes on ``command_topics``, see ``Loopback``.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        will: Packet | None = None,
        subscriptions: Sequence[str] = (),
        on_received: Callable[[Received], None] | None = None,
        command_topics: Sequence[str] = (),
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._will = will
        self._subscriptions = tuple(subscriptions)
        self._on_received = on_received
        self._clock = clock or SystemClock()
        self._backoff = Backoff(base_s=settings.backoff_base_s, rng=rng)
        self._takeovers = Recurrence()
        self._closings = Recurrence()
        self._addresses = AddressList(settings, self._clock)
        self._returning: StageThread | None = None
        self._stop = threading.Event()
        self._thread: StageThread | None = None
        self._listener: SinkListener | None = None
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._state: SinkState = "disconnected"
        self._since_utc_ns = self._clock.utc_ns()
        self._reason: str | None = "not started"
        self._version: Version | None = None
        self._versions: dict[str, VersionChoice] = {}
        self._wills: dict[str, Packet] = {}
        self._current = settings
        self._granted = Granted()
        self._limits: tuple[str, ...] = ()
        self._rejected: Counter[str] = Counter()
        self._loopback = Loopback(command_topics, self._clock)
        self._line = Line()
        self._grants = 0
        self._granted_at_ns = 0
        self._failure: str | None = None
        self._subscribed = threading.Event()
        self._reported: str | None = None

    def start(self, listener: SinkListener) -> None:
        """See Sink."""
        if self._thread is not None:
            raise RuntimeError("start() was called twice: an MqttClient starts once")
        self._listener = listener
        self._set_state("connecting", "no connection yet")
        self._thread = StageThread(
            "mqtt", partial(self._run, listener), on_failure=partial(self._on_thread_failure, listener)
        )
        self._thread.start()
        if self._settings.alternatives:
            watch = ReturnWatch(
                self._addresses,
                probe=probe_transport,
                is_connected=lambda: self._state == "connected",
                leave=self._leave,
                clock=self._clock,
            )
            self._returning = StageThread(
                "mqtt-return",
                partial(watch.watch, self._stop),
                on_failure=partial(self._on_thread_failure, listener),
            )
            self._returning.start()

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        """See Sink. A packet above the broker's size limit is refused as ``oversize``."""
        connection = self._connection
        return "disconnected" if connection is None else connection.send(packet, key)

    def stop(self, timeout_s: float) -> bool:
        """See Sink. A name look-up cannot be interrupted; the thread ends after it."""
        self._stop.set()
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.end()
        is_done = self._thread is None or self._thread.join(timeout_s)
        if self._returning is not None:
            is_done &= self._returning.join(0.1)  # it sleeps, or a way that it tries has a limit of its own
        if not is_done:
            log.warning("broker.stop_cut_off", waited_s=timeout_s, doing="connecting")
        self._set_state("stopped", None)
        return is_done

    def statistics(self) -> SinkStatistics:
        """See Sink."""
        with self._lock:
            connection = self._connection
            return SinkStatistics(
                state=self._state,
                address=str(self._current.address),
                protocol=None if self._version is None else f"MQTT {self._version}",
                since_utc_ns=self._since_utc_ns,
                reason=self._reason,
                reconnects=max(0, self._grants - 1),
                unconfirmed=0 if connection is None else connection.unconfirmed,
                failure=self._failure,
                others=self._addresses.others(),
                protocol_reason=self._choice(self._current).reason(self._version),
                limits=(*self._limits, *self._loopback.problems),
                max_packet_bytes=self._granted.max_packet_bytes,
                rejected=dict(self._rejected),
            )

    def line(self) -> LineStatistics:
        """See Sink."""
        connection = self._connection
        return LineStatistics(self._line.bytes_per_s, 0) if connection is None else connection.line()

    def wait_subscribed(self, timeout_s: float) -> bool:
        """Wait until the broker has answered the subscriptions; False after ``timeout_s``."""
        return self._subscribed.wait(timeout_s)

    def wait_commands_tried(self, timeout_s: float) -> bool:
        """Wait until the statistics say whether commands arrive, see ``Loopback``; False after ``timeout_s``."""
        return self._loopback.wait_known(timeout_s)

    def on_granted(self, version: Version, granted: Granted) -> None:
        """See ConnectionListener."""
        address, limits = str(self._current.address), granted.limits(self._subscriptions)
        if address in self._wills:
            limits = (*limits, "the last will is sent as the broker accepts it: see the log")
        now_ns = self._clock.monotonic_ns()
        choice = self._choice(self._current)
        choice.accepted(version, now_ns / 1e9)
        with self._lock:
            self._version = version
            self._grants += 1
            self._granted_at_ns = now_ns
            self._granted = granted
            is_news, self._limits = limits != self._limits, limits
        self._addresses.granted()
        self._set_state("connected", None)
        why = choice.reason(version)
        reason = {} if why is None else {"protocol_reason": why}
        log.info("broker.connected", broker=address, protocol=f"MQTT {version}", **reason)
        if limits and is_news:
            log.warning("broker.limited", broker=address, limits=list(limits))
        self._reported = None
        if self._listener is not None:
            self._listener.on_connected()

    def on_subscribed(self, problem: str | None) -> None:
        """See ConnectionListener."""
        if problem is not None:
            log.warning("broker.subscription_refused", problem=problem)
        self._loopback.subscribed(problem, str(self._current.address))
        self._subscribed.set()

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See ConnectionListener."""
        if key < 0:
            self._loopback.confirmed(key, problem)
        elif self._listener is not None:
            self._listener.on_confirmed(key, problem)

    def on_received(self, message: Received) -> None:
        """See ConnectionListener."""
        if not self._loopback.is_own(message) and self._on_received is not None:
            self._on_received(message)

    def on_turn(self) -> None:
        """See ConnectionListener."""
        if (connection := self._connection) is not None:
            self._loopback.turn(connection.send)

    def on_rejected(self, counts: Mapping[str, int]) -> None:
        """See ConnectionListener."""
        with self._lock:
            self._rejected.update(counts)
        for reason, count in counts.items():
            log.warning("mqtt.message_dropped", reason=reason, count=count, total=self._rejected[reason])

    def _run(self, listener: SinkListener) -> None:
        other: MqttSettings | None = None
        while not self._stop.is_set():
            settings = other or self._addresses.current
            ending = self._attempt(settings)
            if self._stop.is_set():
                return
            ending = self._explained(ending)
            self._set_state("disconnected", ending.reason)
            if ending.was_granted:
                listener.on_disconnected(ending.reason)
            self._report(ending)
            other = self._referred(ending, settings) if other is None else None
            if other is None:
                is_next_fresh = self._addresses.ended(ending, was_stable=self._was_stable(ending))
                self._clock.wait(self._stop, 0.0 if is_next_fresh else self._wait_s(ending))

    def _was_stable(self, ending: Ending) -> bool:
        return ending.was_granted and self._clock.monotonic_ns() - self._granted_at_ns >= STABLE_S * 1e9

    def _leave(self, reason: str) -> None:
        connection = self._connection
        if connection is not None:
            connection.leave(reason)

    def _on_thread_failure(self, listener: SinkListener, error: Exception) -> None:
        log.error("broker.client_failed", exc_info=error)
        with self._lock:
            self._failure = f"{type(error).__name__}: {error}"
        self._set_state("disconnected", "an exception ended the client's thread, see the log")
        listener.on_failed(error)

    def _attempt(self, settings: MqttSettings) -> Ending:
        """Run one connection from start to end, with the older protocol if the broker needs it."""
        with self._lock:
            self._current = settings
        choice = self._choice(settings)
        version = choice.first(self._clock.monotonic_ns() / 1e9)
        while True:
            ending = self._connect(settings, version)
            if ending.was_granted or self._stop.is_set():
                return ending
            other = choice.after(version, ending)
            if other is None:
                return explain_silence(ending, settings) if ending.kind == "unanswered" else ending
            version = other

    def _connect(self, settings: MqttSettings, version: Version) -> Ending:
        """Run one connection, without what the broker refuses of the last will."""
        address = str(settings.address)
        while True:
            will = self._wills.get(address, self._will)
            connection = Connection(
                settings, self, version=version, will=will, subscriptions=self._subscriptions, line=self._line
            )
            with self._lock:
                self._connection = connection
            if self._stop.is_set():
                connection.end()
            try:
                ending = connection.run()
            finally:
                with self._lock:
                    self._connection = None
                self._loopback.ended(address)
            lesser = None if ending.was_granted else lesser_will(will, ending.code)
            if lesser is None:
                return ending
            self._wills[address] = lesser
            log.warning("broker.will_reduced", broker=address, retain=lesser.retain, qos=lesser.qos)

    def _choice(self, settings: MqttSettings) -> VersionChoice:
        return self._versions.setdefault(str(settings.address), VersionChoice(settings))

    def _referred(self, ending: Ending, settings: MqttSettings) -> MqttSettings | None:
        """The settings for the server that the broker named instead, if it may be used."""
        other, why_not = referred(ending, settings)
        if other is not None:
            log.warning("broker.redirected", broker=str(settings.address), to=str(other.address))
        elif why_not is not None:
            log.warning("broker.redirection_ignored", server=ending.server, reason=why_not)
        return other

    def _explained(self, ending: Ending) -> Ending:
        """``ending``, and what it means if it came three times within a minute."""
        now_ns = self._clock.monotonic_ns()
        if not ending.was_granted:
            # After a takeover the next attempt is accepted at once. A refused one points to the broker or the network.
            self._takeovers.clear()
            self._closings.clear()
        if ending.kind == "closed" and self._closings.note(now_ns):
            return explain_repeated_closing(ending, self._settings, RECURRENCES)
        if ending.kind == "takeover" and self._takeovers.note(now_ns):
            log.error("broker.duplicate_client_id", client_id=self._settings.client_id)
            reason = (
                f"duplicate_client_id: {ending.reason}, three times within a minute: change device.id or "
                "mqtt.client_id of one of them"
            )
            return replace(ending, kind="duplicate", reason=reason)
        return ending

    def _wait_s(self, ending: Ending) -> float:
        if self._was_stable(ending):
            self._backoff.reset()
        if ending.kind == "duplicate":
            return self._backoff.between_s(*TAKEOVER_WAIT_S)
        is_refusal = ending.kind in {"refused", "tls", "setup", "version"}
        return self._backoff.next_s(REFUSAL_CAP_S if is_refusal else NETWORK_CAP_S)

    def _report(self, ending: Ending) -> None:
        """Log a lost or failed connection once, and again only if the kind of failure changes."""
        if ending.kind != self._reported:
            self._reported = ending.kind
            log.warning("broker.disconnected", broker=str(self._current.address), reason=ending.reason)

    def _set_state(self, state: SinkState, reason: str | None) -> None:
        with self._lock:
            if self._state == "stopped":
                return
            if state != self._state:
                self._since_utc_ns = self._clock.utc_ns()
            self._state, self._reason = state, reason
