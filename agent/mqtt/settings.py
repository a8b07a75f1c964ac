"""What one connection to the broker needs, made from the configuration."""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.config.broker_address import BrokerAddress, ProxyAddress
from agent.config.model import MqttConfig
from agent.config.sections.broker import ProxyConfig
from agent.runtime.errors import ConfigError
from agent.runtime.logs import get_logger
from agent.runtime.secrets import Secret, SecretKind, read_secret

MAX_LIVE_PACKET_BYTES = 2**20
"""For a live view of what agents send: a `runtime` with a thousand labels has some tens of kilobytes."""

_MAX_COMMAND_PACKET_BYTES = 65536
_MAX_COMMANDS_PER_S = 100.0

log = get_logger(__name__)

_SHOWN_CHARS = 64
_ENCRYPTED = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED")
"""How an encrypted key in PEM says so. Source: RFC 7468, section 11; RFC 1421, section 4.6.1.1."""
_MAX_KEY_BYTES = 65536
_MAX_HEADER_CHAR = "\x7e"
_LAST_GOOD_SERVES = "correct the file; until then the last password that could be read is used"


@dataclass(slots=True)
class _LastGood:
    """The last password that could be read, and whether the log has said that the file is unusable since."""

    password: Secret | None = None
    is_warned: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password file. The password is read at each attempt, so a new one needs no restart."""

    username: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    _last_good: _LastGood = field(default_factory=_LastGood, init=False, repr=False, compare=False)

    @property
    def shown_username(self) -> str:
        """The user name for messages: without a query, which holds a token (AWS IoT custom authorizers), and short."""
        name, query, _ = (self.username or "").partition("?")
        short = name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}..."
        return f"{short}?..." if query else short

    def password(self) -> Secret | None:
        """The first line of the password file; None without a file.

        If the file has become unusable, the last password that could be read, with one warning in the log.

        Raises:
            ConfigError: the file cannot be read, is empty, or is readable by every user of this machine, and no
                password has been read from it before.
        """
        if self.password_file is None:
            return None
        last = self._last_good
        try:
            last.password = read_secret(self.password_file, SecretKind.MQTT_PASSWORD)
        except ConfigError as exc:
            if last.password is None:
                raise
            if not last.is_warned:
                log.warning("mqtt.password_read_failed", reason=exc.message, remedy=_LAST_GOOD_SERVES)
            last.is_warned = True
        else:
            last.is_warned = False
        return last.password


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate files, PEM, and the names for the handshake; the files are read at each attempt.

    ``alpn`` is the protocol to ask for, ``server_name`` the name to send and to verify instead of the address's host.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    key_password: Path | None = None
    alpn: str | None = None
    server_name: str | None = None

    def context(self) -> ssl.SSLContext:
        """A context that checks the chain and the host name, and requires TLS 1.2.

        Raises:
            ConfigError: a file cannot be read or used.
        """
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except (OSError, ssl.SSLError) as exc:
            raise _unusable("ca_file", self.ca, exc) from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.alpn is not None:
            context.set_alpn_protocols([self.alpn])
        if self.cert is not None and self.key is not None:
            _load_pair(context, self.cert, self.key, self.key_password)
        return context


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path, password_file: Path | None) -> None:
    is_encrypted = _is_encrypted(key)
    if is_encrypted and password_file is None:
        raise ConfigError(
            f"mqtt.tls.key_file {key} is encrypted, but mqtt.tls.key_password_file is not set. Set it, or decrypt the "
            "key with: openssl pkey -in KEY -out NEW",
            file=str(key),
        )
    password = None if password_file is None else read_secret(password_file, SecretKind.KEY_PASSWORD)
    try:
        # Without a password argument OpenSSL would ask for that of an encrypted key on the terminal.
        context.load_cert_chain(str(cert), str(key), password="" if password is None else password.reveal())
    except (OSError, ssl.SSLError) as exc:
        if is_encrypted and isinstance(exc, ssl.SSLError) and "KEY_VALUES_MISMATCH" not in (exc.reason or ""):
            raise ConfigError(
                f"mqtt.tls.key_file {key} cannot be decrypted with the password in {password_file}, or {cert} is no "
                "certificate in PEM: check these files",
                file=str(key),
            ) from exc
        raise _unusable("cert_file", cert, exc) from exc


def _is_encrypted(key: Path) -> bool:
    _require_private(key)
    try:
        text = key.read_bytes()[:_MAX_KEY_BYTES].decode("latin-1")
    except OSError as exc:
        raise _unusable("key_file", key, exc) from exc
    return any(mark in text for mark in _ENCRYPTED)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy between this device and the broker; its password is read at each attempt."""

    address: ProxyAddress
    username: str | None = None
    password_file: Path | None = None

    def password(self) -> Secret | None:
        """The first line of the password file; None without a file.

        Raises:
            ConfigError: the file cannot be used.
        """
        return None if self.password_file is None else read_secret(self.password_file, SecretKind.PROXY_PASSWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """What one connection needs. A silent broker is detected after twice ``keepalive_s``.

    ``address`` is tried first, then ``alternatives`` in their order. ``header_files`` are HTTP headers for a
    WebSocket: name and file with the value. ``return_after_s``: see AddressList.
    """

    address: BrokerAddress
    client_id: str
    alternatives: tuple[BrokerAddress, ...] = ()
    return_after_s: float = 300.0
    proxy: Proxy | None = None
    header_files: tuple[tuple[str, Path], ...] = ()
    credentials: Credentials = field(default_factory=Credentials)
    tls: TlsFiles = field(default_factory=TlsFiles)
    keepalive_s: int = 15
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """The version of MQTT; `auto` is the newest that the broker speaks."""
    connect_timeout_s: float = 5.0
    """Limit for each of: connecting, the TLS handshake, and the broker's answer."""
    confirm_within_s: float = 10.0
    """A connection ends if the broker confirms nothing for this long after the packets have left."""
    backoff_base_s: float = 1.0
    """Maximum wait after the first failure."""
    max_packet_bytes: int = MAX_LIVE_PACKET_BYTES
    """A larger message is not received: an MQTT 5 broker is asked not to send it, and what comes is discarded."""
    max_received_per_s: float | None = None
    """Received messages above this are dropped before they are read; None is no limit."""
    subscription_qos: Literal[0, 1] = 1
    """With 1 each message of QoS 1 is confirmed, and the kernel then confirms others late: see docs/brokers.md."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that a connection reads."""
        tls, proxy = self.tls, None if self.proxy is None else self.proxy.password_file
        named = (self.credentials.password_file, tls.ca, tls.cert, tls.key, tls.key_password, proxy)
        return (*(path for path in named if path is not None), *(path for _, path in self.header_files))

    @property
    def server_name(self) -> str:
        """The host name to send in the TLS handshake, and to look for in the certificate."""
        return self.tls.server_name or self.address.host

    def headers(self) -> list[tuple[str, Secret]]:
        """The configured headers of a WebSocket's handshake, read from their files.

        Raises:
            ConfigError: a file cannot be used, or its value cannot be in a header.
        """
        return [(name, _header_value(name, path)) for name, path in self.header_files]


def _header_value(name: str, path: Path) -> Secret:
    value = read_secret(path, SecretKind.HEADER)
    if not all(" " <= char <= _MAX_HEADER_CHAR for char in value.reveal()):
        raise ConfigError(
            f"the header file {path} holds a character that cannot be in {name}: a header has printable ASCII "
            "characters",
            file=str(path),
        )
    return value


def settings_from_config(
    config: MqttConfig, *, device: str, address: BrokerAddress | None = None, password_file: Path | None = None
) -> MqttSettings:
    """The settings for ``device``. ``address`` is that of an embedded broker; ``password_file`` is used if the
    configuration names none.

    Raises:
        ConfigError: the password file, a certificate or another file of the connection cannot be used.
    """
    named = config.password_file
    first, *others = (address,) if address is not None else config.addresses
    tls = config.tls
    settings = MqttSettings(
        address=first,
        alternatives=tuple(others),
        return_after_s=float(config.return_after_s),
        client_id=client_id_of(config, device),
        credentials=Credentials(config.username, password_file if named is None else Path(named)),
        tls=TlsFiles(
            _path(tls.ca_file),
            _path(tls.cert_file),
            _path(tls.key_file),
            _path(tls.key_password_file),
            tls.alpn,
            tls.server_name,
        ),
        proxy=None if config.proxy is None else _proxy(config.proxy),
        header_files=tuple((name, Path(file)) for name, file in config.websocket.header_files.items()),
        keepalive_s=config.keepalive_s,
        protocol=config.protocol,
        max_packet_bytes=_MAX_COMMAND_PACKET_BYTES,
        max_received_per_s=_MAX_COMMANDS_PER_S,
    )
    settings.credentials.password()
    if any(one.is_tls for one in (first, *others)):
        settings.tls.context()
    if settings.proxy is not None:
        settings.proxy.password()
    settings.headers()
    return settings


def client_id_of(config: MqttConfig, device: str) -> str:
    """The MQTT client id of ``device``."""
    return config.client_id or f"{config.prefix.replace('/', '-')}-{device}"


def _proxy(config: ProxyConfig) -> Proxy:
    return Proxy(ProxyAddress.parse(config.url), config.username, _path(config.password_file))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _require_private(key: Path) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError as exc:
        raise _unusable("key_file", key, exc) from exc
    if mode & stat.S_IROTH:
        raise ConfigError(
            f"the key file {key} has mode {mode:o}, so every user of this machine can read it. Run: chmod 600 {key}",
            file=str(key),
            mode=f"{mode:o}",
        )


def _unusable(key: str, path: Path | None, exc: Exception) -> ConfigError:
    place = "the system's certificates" if path is None else str(path)
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return ConfigError(
        f"mqtt.tls.{key} {place} cannot be used: {why}. Check the path, its permissions and that it is PEM", file=place
    )
