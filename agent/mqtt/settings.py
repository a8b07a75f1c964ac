"""What one connection to the broker needs, made from the configuration."""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent.config.broker_address import BrokerAddress
from agent.config.model import MqttConfig
from agent.runtime.errors import ConfigError
from agent.runtime.logs import get_logger
from agent.runtime.secrets import Secret, read_secret

MAX_LIVE_PACKET_BYTES = 2**20
"""For a live view of what agents send: a `runtime` with a thousand labels has some tens of kilobytes."""

_MAX_COMMAND_PACKET_BYTES = 65536
_MAX_COMMANDS_PER_S = 100.0

log = get_logger(__name__)

_LAST_GOOD_SERVES = "correct the file; until then the last password that could be read is used"


@dataclass(slots=True)
class _LastGood:
    """The last password that could be read, and whether the log has said that the file is unusable since."""

    password: Secret | None = None
    is_warned: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password file. The password is read at each attempt, so a new one needs no restart."""

    username: str | None = None
    password_file: Path | None = None
    _last_good: _LastGood = field(default_factory=_LastGood, init=False, repr=False, compare=False)

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
            last.password = read_secret(self.password_file)
        except ConfigError as exc:
            if last.password is None:
                raise
            if not last.is_warned:
                log.warning("mqtt.password_read_failed", reason=exc.message, remedy=_LAST_GOOD_SERVES)
            last.is_warned = True
        else:
            last.is_warned = False
        return last.password


class _TidySocket(ssl.SSLSocket):
    """Closes itself if the handshake fails; paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate files, PEM; read at each attempt."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

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
        context.sslsocket_class = _TidySocket
        if self.cert is not None and self.key is not None:
            _require_private(self.key)
            try:
                # Without a password argument OpenSSL would ask for that of an encrypted key on the terminal.
                context.load_cert_chain(str(self.cert), str(self.key), password="")
            except (OSError, ssl.SSLError) as exc:
                raise _unusable("cert_file", self.cert, exc) from exc
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """What one connection needs. A silent broker is detected after twice ``keepalive_s``."""

    address: BrokerAddress
    client_id: str
    credentials: Credentials = field(default_factory=Credentials)
    tls: TlsFiles = field(default_factory=TlsFiles)
    keepalive_s: int = 15
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """The version of MQTT; `auto` is the newest that the broker speaks."""
    connect_timeout_s: float = 5.0
    """Limit for each of: connecting, the TLS handshake, and the broker's answer."""
    backoff_base_s: float = 1.0
    """Maximum wait after the first failure."""
    max_packet_bytes: int = MAX_LIVE_PACKET_BYTES
    """A larger message is not received: an MQTT 5 broker is asked not to send it, and what comes is discarded."""
    max_received_per_s: float | None = None
    """Received messages above this are dropped before they are read; None is no limit."""


def settings_from_config(
    config: MqttConfig, *, device: str, address: BrokerAddress | None = None, password_file: Path | None = None
) -> MqttSettings:
    """The settings for ``device``. ``address`` is that of an embedded broker; ``password_file`` is used if the
    configuration names none.

    Raises:
        ConfigError: the password file or a certificate cannot be used.
    """
    named = config.password_file
    settings = MqttSettings(
        address=address or BrokerAddress.parse(config.broker),
        client_id=config.client_id or f"{config.prefix.replace('/', '-')}-{device}",
        credentials=Credentials(config.username, password_file if named is None else Path(named)),
        tls=TlsFiles(_path(config.tls.ca_file), _path(config.tls.cert_file), _path(config.tls.key_file)),
        keepalive_s=config.keepalive_s,
        protocol=config.protocol,
        max_packet_bytes=_MAX_COMMAND_PACKET_BYTES,
        max_received_per_s=_MAX_COMMANDS_PER_S,
    )
    settings.credentials.password()
    if settings.address.is_tls:
        settings.tls.context()
    return settings


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
