"""Writes a support bundle: what remote support needs to understand a device, without secrets."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from agent.config.dump import yaml_from_config
from agent.config.loader import LoadedConfig
from agent.runtime.errors import AgentError, ConfigError
from agent.runtime.secrets import redact
from agent.tools.doctor.findings import Report
from engines import describe, read_regular

_JOURNAL_LINES = 2000
_COMMAND_S = 15.0
_BROKER_S = 4.0
_LISTEN_S = 1.5
_MAX_BYTES = 8 << 20


def write_bundle(target: Path, report: Report, loaded: LoadedConfig | None, *, unit: str = "agent.service") -> None:
    """Write a ``.tar.gz`` of text files with mode 0600; each text is redacted.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    check_target(target)
    texts = dict(_texts(report, loaded, unit))
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, text in texts.items():
                data = redact(text).encode("utf-8", "replace")[-_MAX_BYTES:]
                entry = tarfile.TarInfo(f"agent-bundle/{name}")
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
                archive.addfile(entry, io.BytesIO(data))
    except OSError as exc:
        raise ConfigError(
            f"the bundle {target} cannot be written: {exc.strerror}. Name a file in a directory that you may write to",
            path=str(target),
        ) from exc


def check_target(target: Path) -> None:
    """Refuse to replace a file, before time is spent on its content.

    Raises:
        ConfigError: it exists.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} already exists. Name another file for the bundle", path=str(target))


def _texts(report: Report, loaded: LoadedConfig | None, unit: str) -> Iterator[tuple[str, str]]:
    yield "made-at.txt", datetime.now(timezone.utc).isoformat() + "\n"
    yield "doctor.json", _json(report.as_dict())
    yield "environment.json", _json(asdict(describe()))
    yield "packages.txt", "".join(sorted(f"{one.name}=={one.version}\n" for one in metadata.distributions()))
    yield "journal.txt", _output_of("journalctl", "-u", unit, "-n", str(_JOURNAL_LINES), "--no-pager", "-o", "cat")
    yield "unit.txt", _output_of("systemctl", "cat", unit)
    yield "service.txt", _output_of("systemctl", "show", unit, "--property=ActiveState,SubState,Result,NRestarts")
    if loaded is not None:
        # The parsed configuration, not the file: comments may hold secrets.
        yield "config.yaml", yaml_from_config(loaded.config)
        yield "state.txt", "".join(_state(loaded.state_dir))
        yield "messages.json", _json(_last_messages(report, loaded))


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str, sort_keys=True) + "\n"


def _output_of(*command: str) -> str:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{command[0]} returned nothing: {exc}\n"
    return result.stdout or result.stderr or f"{command[0]} returned nothing\n"


def _state(directory: Path) -> Iterator[str]:
    """Names and sizes of the files in the state directory, and how the last session ended; no contents."""
    try:
        for file in sorted(directory.rglob("*"))[:1000]:
            if file.is_file():
                yield f"{file.stat().st_size:12d} {file.relative_to(directory)}\n"
        yield f"\nlast exit: {read_regular(directory / 'last-exit').decode('utf-8', 'replace')}"
    except (OSError, ValueError) as exc:
        yield f"{directory}: {getattr(exc, 'strerror', None) or exc}\n"


def _last_messages(report: Report, loaded: LoadedConfig) -> Mapping[str, object]:
    """Retained and new messages of this device: status, runtime, health, states."""
    from agent.mqtt.settings import settings_from_config
    from agent.mqtt.subscriber import open_subscriber

    mqtt = loaded.resolved_mqtt()
    if mqtt.is_embedded:
        return {"none": "the broker is embedded and ends with the agent"}
    broker = [one for section in report.sections if section.name == "broker" for one in section.findings]
    refused = [one for one in broker if one.name.startswith("broker")]
    if any(one.state == "failed" for one in refused):
        return {"none": refused[0].detail}
    found: dict[str, object] = {}
    try:
        settings = settings_from_config(mqtt, device=loaded.device_id, password_file=loaded.mqtt_password_file)
        settings = replace(settings, client_id=f"agent-doctor-{secrets.token_hex(4)}")
        with open_subscriber(settings, [f"{mqtt.prefix}/{loaded.device_id}/#"], timeout_s=_BROKER_S) as subscriber:
            end_s = time.monotonic() + _LISTEN_S
            while (left_s := end_s - time.monotonic()) > 0:
                if (received := subscriber.receive(left_s)) is not None:
                    found[received.topic] = received.payload.decode("utf-8", "replace")
    except AgentError as exc:
        found["none"] = exc.message
    return found
