"""How to reach the broker; made from the configuration, holds no secret itself but knows where it lies."""

from __future__ import annotations

import re
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.model import MqttConfig
from agent.config.section import BROKER_URL
from agent.runtime.errors import BrokerUnavailable, ConfigError
from agent.runtime.secrets import Secret, read_secret


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker listens. ``host`` has no brackets, also where it is an IPv6 address.

    ``is_older`` says that MQTT 3.1.1 is all it speaks; where that is not known, it is found out.
    """

    host: str
    port: int
    is_tls: bool = False
    is_older: bool = False

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """From ``mqtt://host:1883`` or ``mqtts://host:8883``; the port may be left out.

        Raises:
            BrokerUnavailable: ``url`` has another form.
        """
        match = BROKER_URL.fullmatch(url)
        port = 0 if match is None else int(match["port"] or (8883 if match["scheme"] == "mqtts" else 1883))
        if match is None or not 1 <= port <= 65535:
            shown = re.sub(r"//[^@/]*@", "//***@", url)
            raise BrokerUnavailable(
                f"the broker's address {shown!r} is not of the form mqtt://host:1883 or mqtts://host:8883; "
                "user name and password have keys of their own (username, password_file)",
                address=shown,
            )
        is_tls = match["scheme"] == "mqtts"
        return cls(match["host"].strip("[]"), port, is_tls)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.is_tls else ''}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the agent is to the broker. The password is read at each attempt, so that a new one needs no restart."""

    username: str | None = None
    password_file: Path | None = None

    def password(self) -> Secret | None:
        """The first line of the password file, None where there is no file.

        Raises:
            ConfigError: the file cannot be read, is empty, or every user of this machine may read it.
        """
        return None if self.password_file is None else read_secret(self.password_file)


class _TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho would leave it open for the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates, PEM; they are read at each attempt."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Checks the chain and the host name, TLS 1.2 at least.

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
            _refuse_public(self.key)
            try:
                # An encrypted key would otherwise be asked for on the terminal.
                context.load_cert_chain(str(self.cert), str(self.key), password="")
            except (OSError, ssl.SSLError) as exc:
                raise _unusable("cert_file", self.cert, exc) from exc
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """All that one connection needs. A silent broker is noticed after twice ``keepalive_s``."""

    address: BrokerAddress
    client_id: str
    credentials: Credentials = field(default_factory=Credentials)
    tls: TlsFiles = field(default_factory=TlsFiles)
    keepalive_s: int = 15
    connect_timeout_s: float = 5.0
    """Seconds for the name, the connection, the TLS handshake and the broker's answer, each."""
    backoff_base_s: float = 1.0
    """Longest wait after the first failure."""


def settings_from_config(
    config: MqttConfig, *, device: str, address: BrokerAddress | None = None, password_file: Path | None = None
) -> MqttSettings:
    """The settings for ``device``. ``address`` is that of an embedded broker, ``password_file`` stands in where the
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
    )
    settings.credentials.password()
    if settings.address.is_tls:
        settings.tls.context()
    return settings


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _refuse_public(key: Path) -> None:
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
        f"mqtt.tls.{key} {place} cannot be used: {why}. Check the path, its rights and that it is PEM", file=place
    )
