"""What the next attempt to connect asks for: the version of MQTT, and the server that a broker names instead."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from agent.config.broker_address import BrokerAddress
from agent.mqtt.diagnosis import SERVER_MOVED, USE_ANOTHER_SERVER, Ending
from agent.mqtt.settings import MqttSettings

Version = Literal["5", "3.1.1"]

ASK_AGAIN_S = 600.0
"""For so long a broker known to be older is not asked for MQTT 5 when its connection is lost."""

_UNSURE = 2
_REFERENCE = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?")


class VersionChoice:
    """MQTT 5, or 3.1.1 if the broker is older: there it does not say which messages it refused.

    A closed connection proves nothing, so MQTT 5 is asked for twice, and again at each reconnect until the broker has
    refused it by name, or stayed silent twice and then accepted 3.1.1. That holds for ``ASK_AGAIN_S``.
    """

    def __init__(self, settings: MqttSettings) -> None:
        self._fixed: Version | None = None if settings.protocol == "auto" else settings.protocol
        self._is_older = settings.address.is_older
        self._older_until = 0.0
        self._silent = 0
        self._closed = 0
        self._why: str | None = None

    def first(self, now: float) -> Version:
        """The version to begin with at ``now``, monotonic seconds."""
        self._closed = 0
        if self._fixed is not None:
            return self._fixed
        return "3.1.1" if self._is_older or now < self._older_until else "5"

    def after(self, version: Version, ending: Ending) -> Version | None:
        """The version to try at once after one that was not accepted; None if that would not help."""
        if version == "3.1.1":
            self._older_until = 0.0
            return None
        if self._fixed is not None or ending.kind not in {"version", "unanswered", "mute"}:
            return None
        if ending.kind == "version":
            self._silent = _UNSURE
            self._why = "the broker refused MQTT 5"
            return "3.1.1"
        self._silent += 1
        if ending.kind == "unanswered" and not self._closed:
            self._closed = 1
            return "5"
        self._why = "the broker gave no answer to MQTT 5"
        return "3.1.1"

    def accepted(self, version: Version, now: float) -> None:
        """The broker accepted ``version``."""
        if version == "5":
            self._silent, self._older_until = 0, 0.0
        elif self._silent >= _UNSURE and now >= self._older_until:
            self._older_until = now + ASK_AGAIN_S

    def reason(self, version: Version | None) -> str | None:
        """Why it is not MQTT 5; None if it is."""
        if version != "3.1.1":
            return None
        if self._fixed is not None:
            return "mqtt.protocol asks for it"
        return "this broker is known to be older" if self._is_older else self._why


def referred(ending: Ending, settings: MqttSettings) -> tuple[MqttSettings | None, str | None]:
    """The settings for the server that the broker named in ``ending``, or why it is not used; both None if it named
    none.

    With TLS the other server has to prove its name, so it may have the password. Without TLS nothing proves who it is,
    so it gets none.
    """
    if ending.server is None or ending.code not in {SERVER_MOVED, USE_ANOTHER_SERVER}:
        return None, None
    names = ending.server.split()
    match = _REFERENCE.fullmatch(names[0]) if names else None
    port = settings.address.port if match is None or match["port"] is None else int(match["port"])
    if settings.address.is_unix:
        return None, "the broker is at a socket of this machine"
    if match is None or not 1 <= port <= 65535:
        return None, "it is not host or host:port"
    if not settings.address.is_tls and settings.credentials.username is not None:
        return None, "user name and password would go to it unencrypted: use mqtts://, or write it in mqtt.broker"
    address: BrokerAddress = replace(settings.address, host=match["host"].strip("[]"), port=port)
    if address == settings.address:
        return None, "it is the same address"
    return replace(settings, address=address), None
