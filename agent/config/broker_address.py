"""Where a broker listens: the one pattern for its address, used by the configuration and the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ADDRESS = re.compile(r"(?P<scheme>mqtts?)://(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?/?")
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host and port of a broker. ``host`` has no brackets, also for an IPv6 address.

    ``is_older``: it speaks only MQTT 3.1.1; if that is not known beforehand, the client finds it out.
    """

    host: str
    port: int
    is_tls: bool = False
    is_older: bool = False

    @classmethod
    def parse(cls, url: str) -> BrokerAddress:
        """From ``mqtt://host:1883`` or ``mqtts://host:8883``; the port is optional.

        Raises:
            ValueError: ``url`` has another form, or its port is outside 1 to 65535.
        """
        match = _ADDRESS.fullmatch(url)
        if match is None:
            # Not repeated: a part of it may be a password.
            raise ValueError(
                "broker must look like mqtt://host:1883 or mqtts://host:8883 (in the configuration also "
                "`embedded`); user name and password have their own keys (username, password_file)"
            )
        port = int(match["port"] or _DEFAULT_PORTS[match["scheme"]])
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} of the broker is outside 1 to 65535; write for example mqtt://host:1883")
        return cls(match["host"].strip("[]"), port, match["scheme"] == "mqtts")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.is_tls else ''}://{host}:{self.port}"
