"""Builds broker connection, outbox and publisher from the configuration, and applies a changed one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.config.broker_address import BrokerAddress
from agent.config.loader import LoadedConfig
from agent.config.sections.subscribers import MaxRateConfig
from agent.mqtt.base import Sink
from agent.mqtt.client import MqttClient
from agent.mqtt.identity import Identity
from agent.mqtt.inbound import Inbound, command_topics, subscriptions
from agent.mqtt.messages import Runtime
from agent.mqtt.settings import MqttSettings, settings_from_config
from agent.publish.delivery.retained_topics import FILE_NAME, RetainedLedger, retained_topics
from agent.publish.delivery.send_rate import SendRate
from agent.publish.home_assistant.device import open_home_assistant
from agent.publish.outbox.choose import open_outbox
from agent.publish.publisher import Publisher
from agent.runtime.clock import Clock
from agent.runtime.clock_sync import ClockWatch
from agent.runtime.logs import get_logger
from agent.runtime.records import Classification

_STOP_S = 2.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _ConnectionInputs:
    """Everything that a connection depends on: if it differs, a new connection is made.

    ``files`` is a digest of the password and the certificates.
    """

    settings: MqttSettings
    filters: tuple[str, ...]
    command_topics: tuple[str, ...]
    files: str


class Uplink:
    """Owns the embedded broker, the outbox, the connection and the publisher until ``close``.

    ``on_result_sent``: see Publisher. Called by one thread at a time.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        identity: Identity,
        *,
        clock: Clock,
        extra_sinks: Sequence[Sink],
        on_result_sent: Callable[[Classification, int], None],
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._resources = ExitStack()
        config = loaded.config.mqtt
        with ExitStack() as undo:
            self._embedded = _embedded_broker(undo) if config.is_embedded else None
            self._mqtt = config
            self._inputs = self._connection_inputs(loaded)
            self._ledger = RetainedLedger(loaded.state_dir / FILE_NAME)
            self._ledger.expect(retained_topics(loaded.config, identity.topics))
            self.inbound = Inbound()
            clock_state = ClockWatch().state
            outbox = open_outbox(config.outbox, loaded.state_dir, clock=clock, clock_state=clock_state)
            undo.callback(outbox.close)
            self.publisher = Publisher(
                self._make_client(self._inputs),
                identity=identity,
                result_qos=config.results.qos,
                result_detail=config.results.detail,
                result_max_hz=config.results.max_hz,
                outbox=outbox,
                ledger=self._ledger,
                send_rate=self._send_rate(config.max_rate),
                extra_sinks=extra_sinks,
                clock=clock,
                clock_state=clock_state,
                on_result_sent=on_result_sent,
            )
            undo.callback(self._stop)
            self._home = open_home_assistant(loaded, identity, self.inbound, self.publisher, clock)
            self._resources = undo.pop_all()

    @property
    def address(self) -> BrokerAddress:
        """The broker's first address."""
        return self._inputs.settings.address

    def expect(self, loaded: LoadedConfig) -> None:
        """Remember the retained topics of the cameras in ``loaded``; call it before ``loaded`` takes effect."""
        self._ledger.expect(retained_topics(loaded.config, self._identity.topics))

    def prepare(self, loaded: LoadedConfig) -> Callable[[], None] | None:
        """Check ``loaded`` and return the function that applies it, or None if nothing differs.

        Prefix, outbox and an embedded broker cannot change while the agent runs.

        Raises:
            ConfigError: the password file or a certificate cannot be used.
        """
        inputs, mqtt = self._connection_inputs(loaded), loaded.config.mqtt
        self.expect(loaded)
        if inputs == self._inputs and mqtt == self._mqtt:
            return None

        def apply_change() -> None:
            before, self._mqtt = self._mqtt, mqtt
            results = mqtt.results
            self.publisher.change_results(qos=results.qos, max_hz=results.max_hz, detail=results.detail)
            if mqtt.max_rate != before.max_rate:
                self.publisher.change_rate(self._send_rate(mqtt.max_rate))
            self._home.switch_to(loaded)
            self.inbound.listen(self._home.birth_topic, self._home.on_status)
            if inputs != self._inputs:
                self._inputs = inputs
                self.publisher.move(self._make_client(inputs))

        return apply_change

    def announce(self, loaded: LoadedConfig, runtime: Runtime) -> None:
        """Publish what runs from now on, and clear the retained topics that it no longer uses."""
        self.publisher.offer(runtime)
        self._home.announce(runtime)
        self.publisher.clear(self._ledger.settle(retained_topics(loaded.config, self._identity.topics)))

    def tick(self) -> None:
        """Call this regularly: saves which topics the broker has cleared, answers a start of Home Assistant."""
        self._home.tick()
        self._ledger.save()

    def close(self) -> None:
        """Send waiting messages, disconnect, end the embedded broker. Idempotent."""
        self._resources.close()

    def _stop(self) -> None:
        if not self.publisher.stop(_STOP_S):
            log.warning("stop.cut_off", thread="publisher")
        self._ledger.save()

    def _send_rate(self, limits: MaxRateConfig) -> SendRate:
        return SendRate(self._clock, messages_hz=limits.messages_hz, bytes_per_s=limits.bytes_per_s)

    def _connection_inputs(self, loaded: LoadedConfig) -> _ConnectionInputs:
        settings = settings_from_config(
            loaded.resolved_mqtt(),
            device=self._identity.device,
            address=self._embedded,
            password_file=loaded.mqtt_password_file,
        )
        mqtt, topics = loaded.config.mqtt, self._identity.topics
        return _ConnectionInputs(
            settings, subscriptions(mqtt, topics), command_topics(mqtt, topics), _digest(settings)
        )

    def _make_client(self, inputs: _ConnectionInputs) -> MqttClient:
        return MqttClient(
            inputs.settings,
            will=self._identity.status("offline"),
            subscriptions=inputs.filters,
            on_received=self.inbound.receive,
            command_topics=inputs.command_topics,
            clock=self._clock,
        )


def _digest(settings: MqttSettings) -> str:
    """Digest of the files that a connection uses; a missing or unreadable one counts as empty."""
    digest = hashlib.sha256()
    for path in settings.files:
        digest.update(hashlib.sha256(_content(path)).digest())
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def _embedded_broker(resources: ExitStack) -> BrokerAddress:
    """The address of a broker of our own, which ends with ``resources``."""
    from agent.mqtt.embedded.broker import EmbeddedBroker

    return resources.enter_context(EmbeddedBroker()).address
