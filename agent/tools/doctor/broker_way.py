"""How long a result takes to the broker and back to a subscriber: 50 messages of a result's size."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agent.mqtt.base import Packet
from agent.mqtt.settings import MqttSettings
from agent.mqtt.subscriber import Subscriber, open_subscriber
from agent.mqtt.topics import Topics
from agent.runtime.errors import BrokerUnavailable
from agent.tools.doctor.findings import Finding
from engines import percentile

MESSAGES = 50
_GAP_S = 0.02
_LAST_WITHIN_S = 0.5
_CONNECT_S = 4.0
LATE_MS = 35.0
"""A subscriber's system acknowledges after 40 ms (Linux: TCP_DELACK_MIN); until then Nagle's algorithm holds back a
small packet of the broker."""
_MIN_LATE = 3
"""Fewer are no pattern: a busy machine has them too. Nagle's algorithm delays 10 to 25 % of such messages."""
_NAGLE = (
    "the broker holds small messages back until the last one is acknowledged (Nagle's algorithm): set its option, for "
    "mosquitto set_tcp_nodelay true"
)
_SLOW = "look at the network, and at what else the broker does"


def way_finding(settings: MqttSettings, topics: Topics, size_bytes: int) -> Finding:
    """The times to the broker and back, measured on a topic of its own: ``<prefix>/<device>/doctor/<token>``.

    Nothing is retained. A broker that delivers nothing, or refuses further connections, is no fault: its access list
    need not know the topic.
    """
    token = secrets.token_hex(4)
    topic = f"{topics.root}/doctor/{token}"
    # Two connections: on one, what is sent carries the acknowledgement of what is received, and nothing is late.
    listening = replace(settings, client_id=f"agent-doctor-{token}-in")
    sending = replace(settings, client_id=f"agent-doctor-{token}-out")
    try:
        with (
            open_subscriber(listening, [topic], timeout_s=_CONNECT_S, is_patient=False) as subscriber,
            open_subscriber(sending, [f"{topic}/none"], timeout_s=_CONNECT_S, is_patient=False) as sender,
        ):
            return finding_from_times([*_times_ms(sender, subscriber, topic, size_bytes)], topic, size_bytes)
    except BrokerUnavailable as exc:
        return Finding("way", "absent", f"not measured: {exc.message}", "allow the agent's user two more connections")


def _times_ms(sender: Subscriber, subscriber: Subscriber, topic: str, size_bytes: int) -> Iterator[float]:
    sent_ns: dict[bytes, int] = {}
    for number in range(MESSAGES):
        payload = (b"%d " % number).ljust(size_bytes, b".")
        sent_ns[payload] = time.monotonic_ns()
        sender.send(Packet(topic, payload))
        is_last = number == MESSAGES - 1
        end_s = time.monotonic() + (_LAST_WITHIN_S if is_last else _GAP_S)
        while (left_s := end_s - time.monotonic()) > 0:
            received = subscriber.receive(left_s)
            # What others send to the topic, and what comes twice, is not counted.
            if received is not None and (began_ns := sent_ns.pop(received.payload, None)) is not None:
                yield (time.monotonic_ns() - began_ns) / 1e6


def finding_from_times(times_ms: Sequence[float], topic: str, size_bytes: int) -> Finding:
    """The verdict on the times of the messages that came back, of ``MESSAGES`` that were sent."""
    if not times_ms:
        remedy = f"to have it measured, let the agent's user write and read {topic.rpartition('/')[0]}/#"
        return Finding("way", "absent", f"not measured: the broker delivered nothing sent to {topic}", remedy)
    ordered = sorted(times_ms)
    p50, p99, late = percentile(ordered, 50), percentile(ordered, 99), sum(one > LATE_MS for one in ordered)
    detail = (
        f"{len(ordered)} of {MESSAGES} messages of {size_bytes} bytes came back, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"{late} later than {LATE_MS:g} ms"
    )
    facts = {
        "sent": MESSAGES, "received": len(ordered), "bytes": size_bytes,
        "p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "late": late,
    }  # fmt: skip
    if late < _MIN_LATE:
        return Finding("way", "ok", detail, facts=facts)
    # A way that is slow for every message is the network's; a few late ones among fast ones are held back.
    return Finding("way", "warning", detail, _NAGLE if p50 < LATE_MS / 2 else _SLOW, facts=facts)
