"""How the broker is reached: addresses, TLS, WebSocket and proxy, and whose limits apply."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agent.config.broker_address import EMBEDDED, BrokerAddress, ProxyAddress
from agent.config.sections.base import AlpnName, HeaderName, HostName, PlacedError, Section

MAX_ADDRESSES = 8

ProfileName = Literal["aws-iot", "azure-event-grid", "hivemq-cloud", "emqx-serverless", "emqx-dedicated"]
"""The services in ``agent.config.profiles``."""

_OWN_HEADERS = ("host", "connection", "upgrade")


class TlsConfig(Section):
    """For a `mqtts://` or `wss://` broker; the chain and the host name are always checked."""

    ca_file: str | None = None
    """Authority that signed the broker's certificate, PEM; null uses the system's authorities."""
    cert_file: str | None = None
    """Certificate of this client, PEM."""
    key_file: str | None = None
    """Key of this client's certificate, PEM, readable only by the agent."""
    key_password_file: str | None = None
    """File with the password of an encrypted `key_file` on its first line."""
    alpn: AlpnName | None = None
    """Protocol to name in the TLS handshake (ALPN), such as `x-amzn-mqtt-ca` for AWS IoT Core on port 443."""
    server_name: HostName | None = None
    """Host name to send (SNI) and to look for in the broker's certificate, instead of that in `mqtt.broker`."""

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> TlsConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        if self.key_password_file is not None and self.key_file is None:
            raise ValueError("key_password_file has the password of key_file, but there is none: give both")
        for key in ("cert_file", "key_file"):
            if str(getattr(self, key)).startswith("pkcs11:"):
                raise ValueError(
                    f"{key} is a PKCS#11 URI, but Python's TLS reads keys from files only; docs/brokers.md has two "
                    "ways to use a key in hardware"
                )
        return self


class WebSocketConfig(Section):
    """For a `ws://` or `wss://` broker."""

    header_files: dict[HeaderName, str] = Field(default_factory=dict)
    """Further HTTP headers: name, such as `Authorization`, and the file with its value on the first line."""

    @model_validator(mode="after")
    def _headers_are_free(self) -> WebSocketConfig:
        names = [name.lower() for name in self.header_files]
        for given, name in zip(self.header_files, names, strict=True):
            if name in _OWN_HEADERS or name.startswith("sec-websocket-"):
                raise PlacedError(f"the handshake sets {given} itself; remove it", "header_files", given)
            if names.count(name) > 1:
                raise PlacedError(f"{given} is given twice, in another spelling; keep one", "header_files", given)
        return self


class ProxyConfig(Section):
    """A proxy between this device and the broker; environment variables are not read."""

    url: str
    """`http://host:port` (CONNECT), `socks5://host:port`, or `socks5h://host:port`, where the proxy looks up names."""
    username: str | None = Field(default=None, min_length=1, max_length=255)
    """User name for the proxy."""
    password_file: str | None = None
    """File with the proxy's password on its first line."""

    @model_validator(mode="after")
    def _is_a_proxy(self) -> ProxyConfig:
        address = ProxyAddress.parse(self.url)
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file of the proxy belong together: give both or neither")
        if address.kind == "http" and ":" in (self.username or ""):
            raise ValueError("username holds a colon, but HTTP ends the user name there; use another user")
        if len((self.username or "").encode()) > 255:
            raise ValueError("username is longer than 255 bytes, which is the most that SOCKS5 can carry")
        return self


def addresses_of(broker: str | tuple[str, ...]) -> tuple[BrokerAddress, ...]:
    """The addresses in ``mqtt.broker``, in their order; empty for an embedded broker.

    Raises:
        PlacedError: one is no address, is there twice, or there are too many.
    """
    if broker == EMBEDDED:
        return ()
    if isinstance(broker, str):
        return (_address(broker, "broker"),)
    if not 1 <= len(broker) <= MAX_ADDRESSES:
        raise PlacedError(f"has {len(broker)} addresses; give 1 to {MAX_ADDRESSES}", "broker")
    found: list[BrokerAddress] = []
    for index, url in enumerate(broker):
        address = _address(url, "broker", index)
        if address in found:
            raise PlacedError(f"{address} is there twice; keep one", "broker", index)
        found.append(address)
    return tuple(found)


def _address(url: str, *below: str | int) -> BrokerAddress:
    if url == EMBEDDED:
        raise PlacedError("`embedded` cannot be one of several addresses; write broker: embedded", *below)
    try:
        return BrokerAddress.parse(url)
    except ValueError as exc:
        raise PlacedError(str(exc), *below) from None
