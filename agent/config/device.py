"""The device id: survives restarts, and does not reveal the machine id."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
from pathlib import Path

from agent.runtime.errors import ConfigError

MACHINE_ID_FILE = Path("/etc/machine-id")

_APPLICATION = b"edge-inference-agent"
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_NOT_ALLOWED = re.compile(r"[^a-z0-9_-]+")


def device_id_of_machine(machine_id_file: Path = MACHINE_ID_FILE, *, hostname: str | None = None) -> str:
    """``device-`` and twelve hex digits derived from the machine id; the host name if there is no machine id.

    The machine id is confidential, so only a keyed hash of it leaves this function.
    Source: machine-id(5), "should not be exposed in untrusted environments".

    Raises:
        ConfigError: neither an id nor a usable host name.
    """
    try:
        text = machine_id_file.read_text(encoding="ascii").strip().lower()
    except (OSError, UnicodeDecodeError):
        text = ""
    if _MACHINE_ID.fullmatch(text) and text.strip("0"):
        return "device-" + hmac.new(bytes.fromhex(text), _APPLICATION, hashlib.sha256).hexdigest()[:12]
    name = socket.gethostname() if hostname is None else hostname
    level = _NOT_ALLOWED.sub("-", name.lower()).strip("-_")[:64]
    if not level or level == "localhost":
        raise ConfigError(
            f"device.id is auto, but {machine_id_file} holds no machine id and the host name {name!r} does not "
            "identify this machine. Set device.id in the configuration",
            machine_id_file=str(machine_id_file),
            hostname=name,
        )
    return level
