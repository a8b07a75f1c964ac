"""The checks of the broker: each address, which agents it knows, and the limits of its service."""

from __future__ import annotations

import concurrent.futures
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agent.config.loader import LoadedConfig
from agent.config.profiles import PROFILES, profile_of_host
from agent.mqtt.inbound import command_topics
from agent.mqtt.loopback import WITHIN_S
from agent.mqtt.settings import MqttSettings, settings_from_config
from agent.mqtt.subscriber import open_subscriber
from agent.mqtt.topics import Topics
from agent.runtime.errors import AgentError
from agent.tools.doctor.broker_way import way_finding
from agent.tools.doctor.findings import Finding
from agent.tools.profile_checks import compare_with_profile

_BROKER_S = 4.0
_LISTEN_S = 0.3
_COMMANDS_S = WITHIN_S + 1.0
_COMPACT_BYTES = 300
"""A compact `result` message; the documented example has about as many."""
_MIN_RESULT_BYTES, _MIN_CLASS_BYTES = 600, 45
"""A full `result` message without its classes, and each class; the documented example has 621 and 51 bytes."""


def broker_findings(loaded: LoadedConfig) -> list[Finding]:
    """Whether the broker accepts a connection at each address, and which agents it knows.

    One address that works is enough: then the others are warnings.
    """
    mqtt = loaded.resolved_mqtt()
    if mqtt.is_embedded:
        return [_embedded_finding()]
    settings = settings_from_config(mqtt, device=loaded.device_id, password_file=loaded.mqtt_password_file)
    choices = [
        replace(settings, address=address, alternatives=()) for address in (settings.address, *settings.alternatives)
    ]
    # At once: one after another, addresses that do not answer would use up the time of the rest.
    with concurrent.futures.ThreadPoolExecutor(len(choices), thread_name_prefix="doctor-broker") as executor:
        each = list(executor.map(lambda one: _findings(one, loaded), choices))
    if len(each) == 1:
        return each[0]
    numbered = [[replace(one, name=f"{one.name} {number}") for one in found] for number, found in enumerate(each, 1)]
    flat = [one for found in numbered for one in found]
    if all(any(one.state == "failed" for one in found) for found in numbered):
        return flat
    remedy = "the agent uses the next address, and comes back to this one"
    return [replace(one, state="warning", remedy=remedy) if one.state == "failed" else one for one in flat]


def _findings(settings: MqttSettings, loaded: LoadedConfig) -> list[Finding]:
    try:
        return [*_accepting(replace(settings, client_id=f"agent-doctor-{secrets.token_hex(4)}"), loaded)]
    except AgentError as exc:
        return [Finding("broker", "failed", exc.message, is_needed=True)]


def _accepting(settings: MqttSettings, loaded: LoadedConfig) -> Iterator[Finding]:
    mqtt = loaded.config.mqtt
    prefix, commands = mqtt.prefix, command_topics(mqtt, Topics(mqtt.prefix, loaded.device_id))
    with open_subscriber(
        settings, [f"{prefix}/+/status"], command_topics=commands, timeout_s=_BROKER_S, is_patient=False
    ) as subscriber:
        protocol = subscriber.connection().protocol or "MQTT"
        devices: set[str] = set()
        end_s = time.monotonic() + _LISTEN_S
        while (left_s := end_s - time.monotonic()) > 0:
            if (received := subscriber.receive(left_s)) is not None:
                devices.add(received.topic.split("/")[-2])
        subscriber.wait_commands_tried(_COMMANDS_S)
        statistics = subscriber.connection()
    known = f"knows {', '.join(sorted(devices))}" if devices else f"no agent is known under {prefix}/"
    facts = {"address": str(settings.address), "protocol": protocol, "devices": sorted(devices)}
    yield Finding("broker", "ok", f"{settings.address}, {protocol}, {known}", is_needed=True, facts=facts)
    if (small := _small_packets(loaded, statistics.max_packet_bytes)) is not None:
        yield small
    else:
        yield way_finding(settings, Topics(mqtt.prefix, loaded.device_id), _result_bytes(loaded))
    for limit in statistics.limits:
        yield Finding("broker", "warning", limit, is_needed=True)


def _small_packets(loaded: LoadedConfig, largest: int | None) -> Finding | None:
    """A broker that accepts no result: the agent connects, and every result is dropped."""
    needed = _result_bytes(loaded)
    if largest is None or largest >= needed:
        return None
    text = (
        f"a result has at least {needed} bytes, but the broker accepts packets of at most {largest}: all are dropped"
    )
    is_full = loaded.config.mqtt.results.detail == "full"
    remedy = "raise its limit (mosquitto: max_packet_size)"
    remedy += ", or set mqtt.results.detail to compact" if is_full else ""
    return Finding("packets", "failed", text, remedy, is_needed=True)


def _result_bytes(loaded: LoadedConfig) -> int:
    """The size of the smallest result that the configuration asks for."""
    if loaded.config.mqtt.results.detail == "compact":
        return _COMPACT_BYTES
    cameras = [camera for camera in loaded.config.cameras.values() if camera.enabled]
    top_k = min((use.decide.top_k for camera in cameras for use in camera.classify), default=0)
    return _MIN_RESULT_BYTES + _MIN_CLASS_BYTES * top_k


def _embedded_finding() -> Finding:
    from agent.mqtt.embedded.broker import EmbeddedBroker

    with EmbeddedBroker() as broker:
        return Finding("broker", "ok", f"embedded: {broker.kind} {broker.version}, for trying out", is_needed=True)


def profile_findings(loaded: LoadedConfig) -> Iterator[Finding]:
    """The configuration compared with the limits of ``mqtt.profile``, or which profile the address calls for."""
    report = compare_with_profile(loaded)
    if report is None:
        yield from _suggestion(loaded)
        return
    name = f"profile {loaded.config.mqtt.profile}"
    for problem in report.errors:
        yield Finding(name, "failed", f"{problem.key}: {problem.message}", is_needed=True)
    for problem in report.warnings:
        yield Finding(name, "warning", f"{problem.key}: {problem.message}")
    if not report.errors and not report.warnings:
        unverified = ", ".join(report.unverified)
        doubt = f", whose {unverified} were found on none of its pages" if unverified else ""
        yield Finding(name, "ok", f"within the limits of {report.title}{doubt}")


def _suggestion(loaded: LoadedConfig) -> Sequence[Finding]:
    for address in loaded.config.mqtt.addresses:
        if (name := profile_of_host(address.host)) is not None:
            remedy = f"set mqtt.profile: {name}, and its limits are checked"
            return [Finding("profile", "absent", f"{address.host} looks like {PROFILES[name].title}", remedy)]
    return []
