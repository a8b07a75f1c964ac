"""Opens the way to a broker: TCP or a unix socket, through a proxy, with TLS, inside a WebSocket."""

from __future__ import annotations

import base64
import http.client
import socket
from typing import Protocol

from agent.mqtt.diagnosis import WayRefused, ending_from_exception
from agent.mqtt.settings import MqttSettings, Proxy
from agent.runtime.errors import AgentError
from agent.runtime.secrets import redact

_LOW_WATER_BYTES = 131072
"""The kernel takes no more while this many bytes are not on their way: what waits there cannot be overtaken."""


class ByteStream(Protocol):
    """What the client uses of a socket. ``recv`` and ``send`` raise BlockingIOError if they would block."""

    def recv(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none if the other side has closed."""
        ...

    def send(self, data: bytes | bytearray, /) -> int:
        """The number of bytes taken."""
        ...

    def close(self) -> None:
        """Close the socket."""
        ...

    def fileno(self) -> int:
        """For ``poll``."""
        ...

    def setblocking(self, flag: bool, /) -> None:
        """Whether calls may block."""
        ...


def open_transport(settings: MqttSettings) -> ByteStream:
    """A connection to ``settings.address`` over which MQTT can be spoken. The caller owns it.

    Each step (connecting, the proxy, the TLS handshake, the WebSocket handshake) takes at most
    ``settings.connect_timeout_s``. Environment variables for proxies are ignored.

    Raises:
        ConfigError: a file that the configuration names cannot be used.
        WayRefused: a proxy or a WebSocket server does not let it through.
        OSError: the broker cannot be reached, or its certificate is not accepted.
        ValueError: the host name is impossible.
    """
    address = settings.address
    context = settings.tls.context() if address.is_tls else None
    headers = settings.headers() if address.is_websocket else []
    sock = _connected(settings)
    try:
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=settings.server_name, do_handshake_on_connect=False)
            sock.do_handshake()
        if address.is_websocket:
            from agent.mqtt.network.websocket import WebSocket  # its library takes 20 ms to import

            return WebSocket(sock, address, headers, timeout_s=settings.connect_timeout_s)
    except (OSError, ValueError):
        sock.close()
        raise
    return sock


def probe_transport(settings: MqttSettings) -> str | None:
    """Open the way to ``settings.address`` and close it again: None if it works, else why not. Nothing is sent with
    the client id of ``settings``, so a connection with that id is not disturbed."""
    try:
        open_transport(settings).close()
    except (AgentError, OSError, ValueError) as exc:
        return ending_from_exception(exc, settings).reason
    return None


def _connected(settings: MqttSettings) -> socket.socket:
    address, timeout_s = settings.address, settings.connect_timeout_s
    if address.is_unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(address.path)
        except OSError:
            sock.close()
            raise
        return sock
    if settings.proxy is None:
        sock = socket.create_connection((address.host, address.port), timeout_s)
    else:
        sock = _through(settings.proxy, address.host, address.port, timeout_s)
    # With Nagle's algorithm the kernel holds a message back until the one before is acknowledged, which the broker's
    # system delays by 40 ms: at 30 frames a second, every other result.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _LOW_WATER_BYTES)
    return sock


def _through(proxy: Proxy, host: str, port: int, timeout_s: float) -> socket.socket:
    try:
        if proxy.address.kind == "http":
            return _through_http(proxy, host, port, timeout_s)
        return _through_socks(proxy, host, port, timeout_s)
    except WayRefused:
        raise
    except TimeoutError as exc:
        raise WayRefused(f"the proxy {proxy.address} did not answer within {round(timeout_s, 1):g} s") from exc
    except socket.gaierror as exc:
        names = f"{proxy.address.host!r}" if proxy.address.kind != "socks5" else f"{proxy.address.host!r} or {host!r}"
        raise WayRefused(f"the host name {names} cannot be resolved: {exc.strerror}") from exc
    except OSError as exc:
        raise WayRefused(f"the proxy {proxy.address} cannot be reached: {exc.strerror or exc}") from exc


def _through_http(proxy: Proxy, host: str, port: int, timeout_s: float) -> socket.socket:
    connection = http.client.HTTPConnection(proxy.address.host, proxy.address.port, timeout=timeout_s)
    password, headers = proxy.password(), {}
    if proxy.username is not None and password is not None:
        basic = base64.b64encode(f"{proxy.username}:{password.reveal()}".encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {basic}"
    connection.set_tunnel(f"[{host}]" if ":" in host else host, port, headers)
    try:
        connection.connect()
    except http.client.HTTPException as exc:
        connection.close()
        raise WayRefused(
            f"{proxy.address} does not answer like an HTTP proxy: check mqtt.proxy.url", needs_change=True
        ) from exc
    except OSError as exc:
        connection.close()
        status = str(exc).removeprefix("Tunnel connection failed: ")
        if status == str(exc):
            raise
        raise _refused(proxy, host, port, status, is_about_user=status.startswith("407")) from exc
    sock = connection.sock
    connection.sock = None  # what is left of the connection must not close it
    return sock


def _through_socks(proxy: Proxy, host: str, port: int, timeout_s: float) -> socket.socket:
    from python_socks import ProxyError, ProxyType
    from python_socks.sync import Proxy as SocksProxy

    password = proxy.password()
    socks = SocksProxy(
        ProxyType.SOCKS5,
        proxy.address.host,
        proxy.address.port,
        username=proxy.username,
        password=None if password is None else password.reveal(),
        rdns=proxy.address.kind == "socks5h",
    )
    try:
        return socks.connect(host, port, timeout=timeout_s)
    except ProxyError as exc:
        text = str(exc)
        about_user = any(word in text.lower() for word in ("auth", "username", "password"))
        raise _refused(proxy, host, port, text, is_about_user=about_user) from exc


def _refused(proxy: Proxy, host: str, port: int, why: str, *, is_about_user: bool) -> WayRefused:
    remedy = (
        "check mqtt.proxy.username and mqtt.proxy.password_file" if is_about_user else "is the broker allowed there?"
    )
    text = f"the proxy {proxy.address} opened no way to {host}:{port} ({redact(why)}): {remedy}"
    return WayRefused(text, needs_change=is_about_user)
