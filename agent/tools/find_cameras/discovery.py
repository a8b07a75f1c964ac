"""WS-Discovery: asks every device on the networks of this machine which of them are ONVIF cameras.

Source: WS-Discovery (April 2005), sections 2.4 and 5; ONVIF Core Specification, section 7.3; SOAP-over-UDP 1.1.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

from agent.tools.find_cameras.soap import NotSoap, SoapFault, envelope, header_and_body_of

PORT = 3702
GROUPS = ("239.255.255.250", "ff02::c")
_ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
_DISCOVERY = "http://schemas.xmlsoap.org/ws/2005/04/discovery"
_NETWORK = "http://www.onvif.org/ver10/network/wsdl"
_SCOPE = "onvif://www.onvif.org/"
_MAX_DATAGRAM = 65_535
_MAX_DEVICES = 256
_MAX_DATAGRAMS = 4096
_REPEAT_S = 0.25
"""A datagram may be lost, so each question is asked twice."""


@dataclass(frozen=True, slots=True)
class Found:
    """A device that answered. ``endpoint`` is its lasting id, ``sender`` the address that the answer came from.

    ``addresses`` are the URLs of its device service, in its order; anyone can write any address into them.
    """

    endpoint: str
    sender: str
    addresses: tuple[str, ...]
    name: str
    hardware: str

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """The URLs that lead to the sender itself."""
        return tuple(url for url in self.addresses if host_of(url) == self.sender)


def host_of(url: str, schemes: Sequence[str] = ("http", "https")) -> str | None:
    """The host of an address of these schemes in its usual form; None if it is no such address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in schemes and parts.port != 0 else None
    except ValueError:
        return None
    return None if host is None else _usual(host)


def _usual(host: str) -> str:
    """An address in its shortest form, without the zone of a link-local one."""
    host = host.partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower()
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def find(
    wait_s: float,
    *,
    at: Sequence[tuple[str, int]] = (),
    interfaces: Sequence[str] | None = None,
    port: int = PORT,
) -> list[Found]:
    """The devices that answer within ``wait_s``, by address.

    ``at`` asks these hosts and ports alone, and waits no longer than for all of them, instead of everyone on
    ``interfaces`` (None: all but the loopback one), at ``port``.

    Raises:
        socket.gaierror: a host of ``at`` cannot be resolved.
    """
    key = f"urn:uuid:{uuid.uuid4()}"
    question = _probe(key)
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        asked = list(_directed(at, opened) if at else _everyone(interfaces, port, opened))
        for connection in {one for one, _ in asked}:
            selector.register(connection, selectors.EVENT_READ)
        began = time.monotonic()
        _ask(asked, question)
        found: dict[_Key, Found] = {}
        enough = len(at) or _MAX_DEVICES
        _collect(selector, key, began + min(_REPEAT_S, wait_s), found, enough)
        if len(found) < enough:
            _ask(asked, question)
        _collect(selector, key, began + wait_s, found, enough)
    return sorted(found.values(), key=lambda one: (":" in one.sender, one.sender, one.endpoint))


_Asked = tuple[socket.socket, tuple[object, ...]]
_Key = tuple[str, frozenset[str]]


def _directed(at: Sequence[tuple[str, int]], opened: ExitStack) -> Iterator[_Asked]:
    for host, port in at:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        yield opened.enter_context(_socket(family, kind)), address


def _everyone(interfaces: Sequence[str] | None, port: int, opened: ExitStack) -> Iterator[_Asked]:
    for index, name in socket.if_nameindex():
        if name != "lo" if interfaces is None else name in interfaces:
            with suppress(OSError):  # an interface without addresses of this kind, or without multicast
                version4 = opened.enter_context(_socket(socket.AF_INET, socket.SOCK_DGRAM))
                # struct ip_mreqn: the group and the address are not used here, see ip(7)
                version4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("@4s4si", b"", b"", index))
                yield version4, (GROUPS[0], port)
            with suppress(OSError):
                version6 = opened.enter_context(_socket(socket.AF_INET6, socket.SOCK_DGRAM))
                version6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                yield version6, (GROUPS[1], port, 0, index)


def _socket(family: int, kind: int) -> socket.socket:
    connection = socket.socket(family, kind)
    connection.setblocking(False)  # noqa: FBT003 - a positional argument of the library
    return connection


def _ask(asked: Sequence[_Asked], question: bytes) -> None:
    for connection, address in asked:
        with suppress(OSError):  # a network that is down
            connection.sendto(question, address)


def _collect(
    selector: selectors.BaseSelector, key: str, deadline: float, found: dict[_Key, Found], enough: int
) -> None:
    """Add what answers until ``deadline``, or until there are ``enough``.

    A device on several networks answers on each with the same addresses: then the answer counts that came from one of
    these.
    """
    for _ in range(_MAX_DATAGRAMS):
        left_s = deadline - time.monotonic()
        if left_s <= 0 or len(found) >= enough:
            break
        for ready, _ in selector.select(left_s):
            connection = ready.fileobj
            if not isinstance(connection, socket.socket):
                continue
            with suppress(OSError):  # nobody listens at a host that was asked directly
                data, sender = connection.recvfrom(_MAX_DATAGRAM)
                for one in matches(data, key, _usual(str(sender[0]))):
                    place = one.endpoint, frozenset(one.addresses)
                    if place not in found or not found[place].own_addresses:
                        found[place] = one


def _probe(key: str) -> bytes:
    header = (
        f"<a:Action>{_DISCOVERY}/Probe</a:Action><a:MessageID>{key}</a:MessageID>"
        "<a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>"
    )
    body = f'<d:Probe><d:Types xmlns:n="{_NETWORK}">n:NetworkVideoTransmitter</d:Types></d:Probe>'
    return envelope(body, header, namespaces=f' xmlns:a="{_ADDRESSING}" xmlns:d="{_DISCOVERY}"')


def matches(data: bytes, key: str, sender: str) -> Iterator[Found]:
    """The devices in one datagram; none if it is no answer to the question with the id ``key``."""
    try:
        header, body = header_and_body_of(data)
    except (NotSoap, SoapFault):
        return
    relates = header.find(f"{{{_ADDRESSING}}}RelatesTo")
    if relates is None or (relates.text or "").strip() != key:
        return
    for match in body.iter(f"{{{_DISCOVERY}}}ProbeMatch"):
        scopes = _words(match, f"{{{_DISCOVERY}}}Scopes")
        endpoint = _words(match, f"{{{_ADDRESSING}}}EndpointReference/{{{_ADDRESSING}}}Address")
        addresses = tuple(dict.fromkeys(url for url in _words(match, f"{{{_DISCOVERY}}}XAddrs") if host_of(url)))
        if addresses:
            yield Found(
                endpoint=endpoint[0] if endpoint else addresses[0],
                sender=sender,
                addresses=addresses,
                name=_scope(scopes, "name/"),
                hardware=_scope(scopes, "hardware/"),
            )


def _words(match: Element, path: str) -> list[str]:
    found = match.find(path)
    return [] if found is None else (found.text or "").split()


def _scope(scopes: Sequence[str], kind: str) -> str:
    start = _SCOPE + kind
    return next((unquote(one[len(start) :]) for one in scopes if one.startswith(start)), "")
