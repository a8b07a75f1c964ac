"""Why a connection ended or was not made, in texts that say what to do."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from agent.config.broker_address import BrokerAddress
from agent.mqtt.network.wire import Property, Value
from agent.mqtt.settings import MqttSettings
from agent.runtime.errors import AgentError
from agent.runtime.secrets import redact

EndKind = Literal[
    "stopped",
    "version",
    "unanswered",
    "mute",
    "refused",
    "tls",
    "setup",
    "network",
    "lost",
    "closed",
    "takeover",
    "duplicate",
    "violation",
    "no_confirmations",
    "left",
]
"""``version``: the broker does not speak this MQTT version; ``unanswered``: it closed the connection without answering
CONNECT; ``mute``: it kept the connection open without answering; ``setup``: a local file cannot be used; ``lost``: an
accepted connection broke; ``closed``: the broker closed an accepted connection without a reason; ``takeover``: it said
that another client has the same id; ``duplicate``: it said so three times within a minute; ``violation``: it sent what
the standard forbids; ``no_confirmations``: it accepted packets and did not confirm them; ``left``: this side left a
working connection for an earlier address."""

# Reason codes. Source: MQTT Version 5.0, section 2.4; 3.1.1's return codes are mapped onto them.
UNSUPPORTED_VERSION = 0x84
SESSION_TAKEN_OVER = 0x8E
USE_ANOTHER_SERVER = 0x9C
SERVER_MOVED = 0x9D
_MAX_BROKER_TEXT = 200
_REFUSALS = {
    0x81: "it could not read the CONNECT packet (malformed packet)",
    0x82: "it reports a protocol error",
    0x85: "it does not accept this client id: set mqtt.client_id",
    0x86: "not authorised (bad user name or password): check mqtt.username and mqtt.password_file",
    0x87: "not authorised: check mqtt.username, mqtt.password_file and the broker's access list",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x90: "it does not accept the topic of the last will: check mqtt.prefix against its access list",
    0x95: "the CONNECT packet is too large for it",
    0x97: "a quota is used up",
    0x9A: "it does not support retained messages, which the last will needs",
    0x9B: "it does not support QoS 1, which the last will needs",
    0x9F: "too many connections in a short time",
}

_SHARED_PORT = 443
"""Servers tell protocols apart on this port, by ALPN or by a WebSocket."""

_NAMES = {
    0x00: "normal disconnection",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9E: "shared subscriptions not supported",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
    0xA1: "subscription identifiers not supported",
    0xA2: "wildcard subscriptions not supported",
}

# Verification results. Source: OpenSSL, X509_STORE_CTX_get_error.
_CERTIFICATE = {
    9: "is not yet valid: check the clock of this device",
    10: "has expired: renew it, or check the clock of this device",
    18: "is self-signed, not signed by the authority in mqtt.tls.ca_file",
    19: "is signed by an authority that is not in mqtt.tls.ca_file",
    20: "is signed by an authority that is not in mqtt.tls.ca_file",
    21: "is signed by an authority that is not in mqtt.tls.ca_file",
    62: "is for another host name: check the host in mqtt.broker (or mqtt.tls.server_name) against the certificate's "
    "names",
    64: "is for another address: check the host in mqtt.broker against the certificate's names",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection or an attempt ended. ``was_granted``: the broker had accepted it.

    ``code`` is the broker's reason code, ``server`` the other server that it named.
    """

    kind: EndKind
    reason: str
    was_granted: bool = False
    code: int | None = None
    server: str | None = None


class WayRefused(OSError):
    """A proxy or a server before the broker does not let the connection through; the text says what to do.

    ``needs_change``: only other settings can help.
    """

    def __init__(self, message: str, *, needs_change: bool = False) -> None:
        super().__init__(message)
        self.needs_change = needs_change


class LibraryLog(logging.Handler):
    """Keeps paho's last warning, for the reason of an ending. paho's own `on_log` formats a line for every packet."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text: str | None = None

    def logger(self) -> logging.Logger:
        """A private logger that passes on only warnings and errors."""
        logger = logging.Logger("mqtt", logging.WARNING)  # noqa: LOG001 (every connection has its own)
        logger.addHandler(self)
        return logger

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.text = record.getMessage()


def ending_from_exception(exc: Exception, settings: MqttSettings) -> Ending:
    """The ending for an exception while the connection was opened."""
    address = settings.address
    if isinstance(exc, AgentError):
        return Ending("setup", redact(exc.message))
    if isinstance(exc, WayRefused):
        return Ending("refused" if exc.needs_change else "network", redact(str(exc)))
    if address.is_unix:
        return Ending("network", redact(_unix_problem(exc, address)))
    if isinstance(exc, ssl.SSLCertVerificationError):
        verdict = _CERTIFICATE.get(exc.verify_code, f"was not accepted: {exc.verify_message}")
        return Ending("tls", redact(f"the certificate of {address} {verdict}"))
    if isinstance(exc, ssl.SSLError | ConnectionResetError) and address.is_tls:
        return Ending("tls", redact(_tls_refusal(exc, settings)))
    if isinstance(exc, ValueError) and not isinstance(exc, OSError):
        return Ending("setup", f"{address} is not a valid address ({exc}): check mqtt.broker")
    if isinstance(exc, socket.gaierror):
        return Ending("network", redact(f"the host name {address.host!r} cannot be resolved: {exc.strerror}"))
    if isinstance(exc, TimeoutError):
        return Ending("network", f"{address} did not answer within {round(settings.connect_timeout_s, 1):g} s")
    if isinstance(exc, ConnectionRefusedError):
        return Ending("network", f"nothing listens at {address} (connection refused): is the broker running?")
    return Ending("network", redact(f"{address} cannot be reached: {exc}"))


def _unix_problem(exc: Exception, address: BrokerAddress) -> str:
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return f"there is no socket at {address.path}: is the broker running, and does it listen there?"
    if isinstance(exc, PermissionError):
        return f"user number {os.geteuid()}, who runs the agent, may not connect to {address.path}: give it the right"
    if isinstance(exc, ConnectionRefusedError):
        return f"nothing listens at {address.path} (connection refused): is the broker running?"
    return f"{address} cannot be reached: {exc}"


def reason_name(code: int) -> str:
    """The standard's name of a reason code, and the code."""
    return f"{_NAMES.get(code, 'unknown reason')} (0x{code:02X})"


def ending_from_refusal(code: int, values: Mapping[int, Value], settings: MqttSettings) -> Ending:
    """The ending for a CONNACK that refuses, with its properties."""
    if code == UNSUPPORTED_VERSION:
        return Ending("version", f"{settings.address} does not speak this version of MQTT", code=code)
    who = "" if settings.credentials.username is None else f" of user {settings.credentials.shown_username!r}"
    verdict = _REFUSALS.get(code, reason_name(code))
    text = redact(f"{settings.address} refused the connection{who}: {verdict}{_details(values)}")
    return Ending("refused", text, code=code, server=_server(values))


def ending_from_disconnect(
    code: int, values: Mapping[int, Value], settings: MqttSettings, *, was_granted: bool
) -> Ending:
    """The ending for a DISCONNECT from the broker, with its properties."""
    if code == SESSION_TAKEN_OVER:
        text = f"another client connected to {settings.address} as {settings.client_id!r}"
        return Ending("takeover", text, was_granted, code)
    why = f"the broker closed it: {reason_name(code)}{_details(values)}"
    text = redact(f"lost the connection to {settings.address}: {why}")
    return Ending("lost", text, was_granted, code, _server(values))


def _server(values: Mapping[int, Value]) -> str | None:
    return _text(values, Property.SERVER_REFERENCE)


def _details(values: Mapping[int, Value]) -> str:
    """What the broker says itself, as it is not known what its texts contain."""
    server, reason = _server(values), _text(values, Property.REASON)
    named = "" if server is None else f"; it names {server!r} instead"
    return f"{'' if reason is None else f'; it says {reason!r}'}{named}"


def _text(values: Mapping[int, Value], key: Property) -> str | None:
    text = values.get(key)
    return text.decode(errors="replace")[:_MAX_BROKER_TEXT] if isinstance(text, bytes) else None


def ending_from_silence(settings: MqttSettings, last_log: str | None) -> Ending:
    """The ending for a connection that was closed before the broker answered CONNECT."""
    address = settings.address
    if address.is_tls:
        detail = f" ({last_log})" if last_log else ""
        remedy = "does it require a client certificate"
        if settings.tls.alpn is not None or address.port == _SHARED_PORT:
            remedy += f", or another protocol in mqtt.tls.alpn than {settings.tls.alpn or 'none'}"
        return Ending("unanswered", redact(f"{address} closed the connection during its start{detail}: {remedy}?"))
    return Ending("unanswered", f"{address} closed the connection without an answer: is it an MQTT broker?")


def explain_silence(ending: Ending, settings: MqttSettings) -> Ending:
    """Check once whether a port that does not answer speaks TLS; a broker does not say so."""
    address = settings.address
    # The check goes to the broker directly: behind a proxy it could not, and must not, be made.
    if address.is_tls or address.is_unix or settings.proxy is not None:
        return ending
    if not _speaks_tls(address, settings.connect_timeout_s):
        return ending
    return Ending("tls", f"port {address.port} of {address.host} speaks TLS: write {_secure(address)} in mqtt.broker")


def _secure(address: BrokerAddress) -> str:
    return "wss://" if address.is_websocket else "mqtts://"


def _clear(address: BrokerAddress) -> str:
    return "ws://" if address.is_websocket else "mqtt://"


def explain_repeated_closing(ending: Ending, settings: MqttSettings, times: int) -> Ending:
    """The ending for a connection that the broker has closed ``times`` times within a minute."""
    reason = (
        f"{settings.address} closed the connection {times} times within a minute without a reason; possible causes: "
        f"another client with the id {settings.client_id!r}, a topic that the access list forbids, a limit of the "
        "broker. Its log has the reason"
    )
    return replace(ending, reason=reason)


def _tls_refusal(exc: ssl.SSLError | ConnectionResetError, settings: MqttSettings) -> str:
    address = settings.address
    reason = exc.reason if isinstance(exc, ssl.SSLError) and exc.reason else str(exc)
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}:
        return (
            f"port {address.port} of {address.host} does not speak TLS: write {_clear(address)} in mqtt.broker, "
            "or its TLS port"
        )
    if "NO_APPLICATION_PROTOCOL" in reason:
        asked = settings.tls.alpn or "none"
        return f"{address} has no protocol for the name `{asked}` in the TLS handshake: check mqtt.tls.alpn"
    if isinstance(exc, ssl.SSLEOFError | ConnectionResetError):
        return (
            f"{address} aborted the TLS handshake: is {address.port} its TLS port, and does it require a "
            "client certificate (mqtt.tls.cert_file)?"
        )
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"{address} refused the TLS handshake ({reason}): it requires a client certificate (mqtt.tls.cert_file)"
    return f"the TLS handshake with {address} failed: {reason}"


def _speaks_tls(address: BrokerAddress, timeout_s: float) -> bool:
    """Whether a TLS handshake succeeds. No data is sent, so the certificate is not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), timeout_s) as plain:
        plain.settimeout(timeout_s)
        with context.wrap_socket(plain, server_hostname=address.host):
            return True
    return False
