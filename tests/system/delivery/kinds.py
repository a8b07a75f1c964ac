"""The ways in which the brokers of drills misbehave, and the brokers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from paho.mqtt.enums import MQTTProtocolVersion

from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.mqtt_packets import Property, Value
from tests.system.delivery.broker_drill import Kind, Opener
from tests.system.delivery.brokers import NatsBroker, RabbitBroker
from tests.system.delivery.fronts import Front, RealFront, RecordingFront

_POISONED = "drill/dut/camera/c1/inspect/event"
_COMMANDED = {"takes_commands": True}


def _nothing(_: Front) -> None:
    """For a fault that is there from the start."""


def _limits(name: str, property_: Property, value: int, **more: Any) -> Kind:
    return Kind(
        f"limits: {name}", _nothing, grants={property_: value}, lasts_s=5.0, quick_s=0.5, may_be_late_s=5.0, **more
    )


def _thin(kilobytes: int) -> Kind:
    """More than the line carries: 10 events and 20 results a second are 32 kB, 2 events and 20 results are 17 kB. The
    line stays thin until everything has arrived."""
    return Kind(
        f"thin line: {kilobytes} kB/s",
        lambda front: front.thin(kilobytes * 1000.0),
        _nothing,
        options={"results_per_s": 20.0, "events_per_s": 2.0 if kilobytes < 10 else 10.0, "keepalive_s": 15},
        lasts_s=60.0,
        quick_s=4.0,
        may_be_late_s=8.0,
    )


REFUSAL = Kind("refusal for a while", lambda front: front.refuse())
WITHHELD = Kind("confirmations withheld", lambda front: front.withhold(), lasts_s=12.0)
POISON = Kind(
    "poisoned event",
    lambda front: front.poison(_POISONED),
    lasts_s=20.0,
    may_be_late_s=3.0,
    held_topic=_POISONED,
)
QUICK_POISON = replace(POISON, quick_s=7.0, may_be_late_s=6.0)
"""With six drills at once an event may be late, but less than the 7 s by which a topic would hold up the others."""
THIN = tuple(_thin(kilobytes) for kilobytes in (5, 12, 15))
FLOOD = Kind(
    "flood of commands",
    lambda front: front.flood(25_000.0),
    options=_COMMANDED,
    lasts_s=15.0,
    may_be_late_s=20.0,  # confirmations wait behind what the broker has sent already
    max_rss_mib=200.0,
)
HUGE = Kind("huge message", lambda front: front.huge(), options=_COMMANDED, may_be_late_s=15.0, max_rss_mib=200.0)
STRANGE = Kind("strange texts", lambda front: front.strange(), options=_COMMANDED, may_be_late_s=15.0)
LIMITS = (
    _limits("no retain", Property.RETAIN_AVAILABLE, 0),
    _limits("QoS 0 only", Property.MAXIMUM_QOS, 0),
    _limits("Receive Maximum 1", Property.RECEIVE_MAXIMUM, 1),
    _limits("packets of 900 bytes", Property.MAXIMUM_PACKET_SIZE, 900, published=("status",)),
    _limits("no keep alive", Property.SERVER_KEEP_ALIVE, 0),
    _limits("no wildcards", Property.WILDCARD_AVAILABLE, 0, options=_COMMANDED),
)
QUICK_LIMITS = (
    replace(
        LIMITS[0],
        name="limits: several",
        grants={name: value for kind in LIMITS if kind is not LIMITS[1] for name, value in kind.grants.items()},
        published=("status",),
        options=_COMMANDED,
    ),
    LIMITS[1],
)
QUICK = (QUICK_POISON, WITHHELD, REFUSAL, THIN[0], FLOOD, HUGE, STRANGE, *QUICK_LIMITS)
"""One of each kind for the test suite, those that take long first."""
KINDS = (REFUSAL, WITHHELD, POISON, *THIN, FLOOD, HUGE, STRANGE, *LIMITS)


_MOSQUITTO_OPTIONS = {
    Property.RETAIN_AVAILABLE: "retain_available false",
    Property.MAXIMUM_PACKET_SIZE: "max_packet_size {value}",
    Property.RECEIVE_MAXIMUM: "max_inflight_messages {value}",
}
_LISTENER_OPTIONS = {Property.MAXIMUM_QOS: "max_qos {value}"}


def _mosquitto(directory: Path, grants: Mapping[Property, Value]) -> Front:
    acl = directory / "broker" / "acl"
    broker = MosquittoBroker(
        directory / "broker",
        acl=_acl(is_open=True),
        options=[text.format(value=grants[name]) for name, text in _MOSQUITTO_OPTIONS.items() if name in grants],
        listener_options=[
            text.format(value=grants[name]) for name, text in _LISTENER_OPTIONS.items() if name in grants
        ],
    )

    def set_access(is_open: bool) -> None:
        acl.write_text(_acl(is_open=is_open))
        broker.reload()

    return RealFront("mosquitto", broker, set_access=set_access)


def _acl(*, is_open: bool) -> str:
    """What an anonymous client may do: everything, or read only."""
    return f"topic {'readwrite' if is_open else 'read'} #\n"


def _v311(name: str, broker: NatsBroker | RabbitBroker, *, user: tuple[str, str] | None = None) -> Front:
    username, password = (None, None) if user is None else user
    protocol = MQTTProtocolVersion.MQTTv311
    return RealFront(name, broker, protocol=protocol, username=username, password=password)


BROKERS: dict[str, Opener] = {
    "recording": lambda _, grants: RecordingFront(grants),
    "recording-3.1.1": lambda _, grants: RecordingFront(grants, version_5=False),
    "mosquitto": _mosquitto,
    "nats": lambda directory, _: _v311("nats", NatsBroker(directory / "broker")),
    "rabbitmq": lambda directory, _: _v311("rabbitmq", RabbitBroker(directory / "broker")),
}
"""What opens each broker in a directory."""

_NEEDED = {"mosquitto": "mosquitto", "nats": "nats-server", "rabbitmq": "rabbitmq-server"}


def missing_program(broker: str) -> str | None:
    """The program of this broker if it is not installed; also the name of its package on Debian and Ubuntu."""
    program = _NEEDED.get(broker)
    return program if program is not None and shutil.which(program) is None else None


def is_possible(kind: Kind, broker: str) -> bool:
    """Whether this broker can misbehave like this: refusing while it runs, and limits, need one that can be told."""
    if kind in LIMITS:
        has_option = kind.grants.keys() <= {*_MOSQUITTO_OPTIONS, *_LISTENER_OPTIONS}
        return broker == "recording" or (broker == "mosquitto" and has_option)
    if kind is HUGE:
        return broker != "nats"  # it takes 1 MiB at most
    return kind is not REFUSAL or broker in {"recording", "mosquitto"}
