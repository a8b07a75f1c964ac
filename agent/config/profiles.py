"""Limits of brokers that are sold as a service, as data: what ``mqtt.profile`` chooses from.

Figures are those that the services published; where a page gives two, the smaller one. They change and can often be
raised by the service's support: a profile says what a new account gets. ``unverified`` names the fields whose figure
was found on no page of the service: they are from practice, or assumed to be MQTT's own limit. None of these services
was connected to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agent.config.sections.broker import ProfileName

_KIB, _MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerProfile:
    """What one service accepts from one connection; None is no limit of its own.

    ``max_payload_bytes``: of one message. ``max_retained_bytes``: of one retained message, where it is less.
    ``max_topic_levels``: parts between slashes. ``max_publish_hz`` and ``max_publish_bytes_hz``: messages and bytes a
    second. ``max_filters``: subscriptions. ``needs_tls``: no clear text. ``host_pattern``: the end of its host names.
    ``sources``: titles of the pages with the figures.
    """

    title: str
    max_payload_bytes: int | None = None
    max_retained_bytes: int | None = None
    max_topic_levels: int | None = None
    max_topic_bytes: int | None = None
    max_publish_hz: int | None = None
    max_publish_bytes_hz: int | None = None
    max_client_id_bytes: int | None = None
    max_filters: int | None = None
    max_qos: int = 2
    may_retain: bool = True
    needs_tls: bool = True
    protocols: tuple[str, ...] = ("5", "3.1.1")
    host_pattern: str = "$^"
    sources: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()


PROFILES: Mapping[ProfileName, BrokerProfile] = MappingProxyType(
    {
        "aws-iot": BrokerProfile(
            title="AWS IoT Core",
            max_payload_bytes=128 * _KIB,
            max_topic_levels=8,
            max_topic_bytes=256,
            max_publish_hz=100,
            max_publish_bytes_hz=512 * _KIB,
            max_client_id_bytes=128,
            max_filters=50,
            max_qos=1,
            host_pattern=r"\.iot\.[a-z0-9-]+\.amazonaws\.com(\.cn)?",
            sources=(
                "AWS General Reference, AWS IoT Core endpoints and quotas",
                "AWS IoT Developer Guide, Device communication protocols; MQTT",
                "AWS IoT Device SDK v2, ClientExtendedValidationAndFlowControl",
                "ESP RainMaker, Limits (subscriptions)",
            ),
        ),
        "azure-event-grid": BrokerProfile(
            title="Azure Event Grid, MQTT broker",
            max_payload_bytes=512 * _KIB,
            max_retained_bytes=64 * _KIB,
            max_topic_levels=8,
            max_topic_bytes=256,
            max_publish_hz=100,
            max_publish_bytes_hz=_MIB,
            max_client_id_bytes=128,
            max_qos=1,
            host_pattern=r"\.eventgrid\.azure\.net",
            sources=(
                "Azure Event Grid, Quotas and limits (100 messages a second in 2023, 1,000 since)",
                "Azure Event Grid, MQTT features supported by the MQTT broker",
                "Azure Event Grid, Support for MQTT retain",
            ),
            unverified=("max_client_id_bytes",),
        ),
        "hivemq-cloud": BrokerProfile(
            title="HiveMQ Cloud",
            max_payload_bytes=5 * _MIB,
            max_client_id_bytes=65535,
            host_pattern=r"\.hivemq\.cloud",
            sources=("HiveMQ Community, Frequently asked questions: HiveMQ Cloud",),
            unverified=("max_payload_bytes", "max_client_id_bytes"),
        ),
        "emqx-serverless": BrokerProfile(
            title="EMQX Platform, Serverless",
            max_payload_bytes=_MIB,
            max_retained_bytes=_MIB,
            max_topic_levels=10,
            max_publish_hz=10,
            max_client_id_bytes=1024,
            max_filters=10,
            host_pattern=r"\.emqxsl\.(com|cn)",
            sources=("EMQX Platform, Quotas and limits",),
        ),
        "emqx-dedicated": BrokerProfile(
            title="EMQX Platform, Dedicated",
            max_payload_bytes=_MIB,
            max_retained_bytes=_MIB,
            max_client_id_bytes=256,
            needs_tls=False,
            host_pattern=r"\.emqx\.cloud",
            sources=("EMQX Platform, Quotas and limits",),
            unverified=("needs_tls",),
        ),
    }
)


def profile_of_host(host: str) -> ProfileName | None:
    """The profile whose service has host names like this one; None if it is no service known here."""
    for name, profile in PROFILES.items():
        if re.search(f"{profile.host_pattern}$", host.lower()):
            return name
    return None
