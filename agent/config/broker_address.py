"""Where a broker or a proxy listens: the patterns of their addresses, used by configuration and command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

EMBEDDED = "embedded"
"""What ``mqtt.broker`` says for a broker that starts with the agent."""

_HOST = r"\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+"
# RFC 3986: a path. Without a query, which may hold a token: the address is in logs and messages.
_PATH = r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
_ADDRESS = re.compile(rf"(?P<scheme>mqtts?|wss?)://(?P<host>{_HOST})(:(?P<port>[0-9]{{1,5}}))?(?P<path>{_PATH})?")
_UNIX = re.compile(r"unix://(?P<path>/[^\x00-\x1f\x7f?#]+)")
_PROXY = re.compile(rf"(?P<scheme>http|socks5h?)://(?P<host>{_HOST})(:(?P<port>[0-9]{{1,5}}))?/?")
_SCHEMES, _PROXY_SCHEMES = ("mqtt", "mqtts", "ws", "wss", "unix"), ("http", "socks5", "socks5h")
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443, "http": 3128, "socks5": 1080, "socks5h": 1080}

DEFAULT_PATH = "/mqtt"
"""The path of a WebSocket address that names none: that of EMQX, HiveMQ and AWS IoT Core; mosquitto takes any."""

MAX_UNIX_PATH_BYTES = 107
"""Longest path of a unix socket. Source: unix(7), ``sun_path`` has 108 bytes with its end."""

_FORMS = (
    "mqtt://host:1883, mqtts://host:8883, ws://host:80/path, wss://host:443/path or unix:///run/mosquitto.sock "
    "(in the configuration also `embedded`)"
)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host and port of a broker. ``host`` has no brackets, also for an IPv6 address.

    ``is_older``: it speaks only MQTT 3.1.1; if that is not known beforehand, the client finds it out. ``path`` is that
    of a WebSocket, or of a unix socket, which has neither host nor port.
    """

    host: str
    port: int
    is_tls: bool = False
    is_older: bool = False
    is_websocket: bool = False
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """From an address such as ``mqtts://host:8883`` or ``unix:///path``; the port is optional.

        Raises:
            ValueError: ``url`` has another form, its port is outside 1 to 65535, or its path is too long.
        """
        if (unix := _UNIX.fullmatch(url)) is not None:
            return cls._of_unix(unix["path"])
        match = _ADDRESS.fullmatch(url)
        is_websocket = match is not None and match["scheme"] in {"ws", "wss"}
        if match is None or not (is_websocket or match["path"] in {None, "/"}):
            # Not repeated: a part of it may be a password.
            raise ValueError(
                f"broker{_fault(url, _SCHEMES)} must look like {_FORMS}; user name and password have their own keys "
                "(username, password_file), and so has a token for a WebSocket (websocket.header_files)"
            )
        path = (match["path"] or DEFAULT_PATH) if is_websocket else ""
        port = _port("broker", match, "mqtt://host:1883")
        is_tls = match["scheme"] in {"mqtts", "wss"}
        return cls(match["host"].strip("[]"), port, is_tls, is_websocket=is_websocket, path=path)

    @classmethod
    def _of_unix(cls, path: str) -> BrokerAddress:
        size = len(path.encode())
        if size > MAX_UNIX_PATH_BYTES:
            raise ValueError(
                f"broker: the path of the unix socket has {size} bytes, but the system allows {MAX_UNIX_PATH_BYTES}; "
                "let the broker listen at a shorter path"
            )
        return cls("", 0, path=path)

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket of this machine."""
        return not self.host

    @property
    def is_clear_text(self) -> bool:
        """Whether what is sent there crosses a network unencrypted."""
        is_local = self.is_unix or self.host in {"localhost", "::1"} or self.host.startswith("127.")
        return not (self.is_tls or is_local)

    @property
    def scheme(self) -> str:
        """``mqtt``, ``mqtts``, ``ws``, ``wss`` or ``unix``."""
        return "unix" if self.is_unix else f"{'ws' if self.is_websocket else 'mqtt'}{'s' if self.is_tls else ''}"

    def __str__(self) -> str:
        return f"{self.scheme}://{'' if self.is_unix else _joined(self.host, self.port)}{self.path}"


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Host and port of a proxy; ``kind`` is ``http`` (CONNECT), ``socks5`` (this device looks up the broker's name) or
    ``socks5h`` (the proxy does)."""

    kind: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> ProxyAddress:
        """From ``http://host:3128``, ``socks5://host:1080`` or ``socks5h://host:1080``; the port is optional.

        Raises:
            ValueError: ``url`` has another form, or its port is outside 1 to 65535.
        """
        match = _PROXY.fullmatch(url)
        if match is None:
            raise ValueError(
                f"url of the proxy{_fault(url, _PROXY_SCHEMES)} must look like http://host:3128, "
                "socks5://host:1080 or socks5h://host:1080; user name and password have their own keys (username, "
                "password_file)"
            )
        return cls(match["scheme"], match["host"].strip("[]"), _port("url", match, "http://host:3128"))

    def __str__(self) -> str:
        return f"{self.kind}://{_joined(self.host, self.port)}"


def _fault(url: str, schemes: Sequence[str]) -> str:
    """The usual mistakes in an address, as `` holds a blank, but``; empty for others. Never a part of the address."""
    scheme, separator, rest = url.partition("://")
    near = difflib.get_close_matches(scheme.lower(), schemes, n=1)
    faults = {
        f" is `{EMBEDDED}` in small letters, or": url.lower() == EMBEDDED,
        " holds a blank, but": any(char.isspace() for char in url),
        " holds a user or a password, but": "@" in rest,
        f" begins with capital letters, but {scheme.lower()}:// is written in small ones; it": scheme not in schemes
        and scheme.lower() in schemes,
        f" does not begin with a known scheme (did you mean {near[0] if near else ''}://?), but": bool(
            separator and near
        )
        and scheme.lower() not in schemes,
        f" has no scheme such as {schemes[0]}://, but": not separator,
        " has a path, which only ws:// and wss:// have, but": scheme in {"mqtt", "mqtts"} and "/" in rest.rstrip("/"),
    }
    return next((fault for fault, is_found in faults.items() if is_found), "")


def _port(key: str, match: re.Match[str], example: str) -> int:
    port = int(match["port"] or _DEFAULT_PORTS[match["scheme"]])
    if not 1 <= port <= 65535:
        raise ValueError(f"{key}: port {port} is outside 1 to 65535; write for example {example}")
    return port


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
