"""The checks of `serve`: its library, tokens, certificate, and whether its addresses can be listened on."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from agent.config.loader import LoadedConfig
from agent.daemon.state_directory import is_held
from agent.runtime.errors import Unavailable
from agent.tools.doctor.findings import Finding
from agent.web.inputs import input_faults

_LIBRARIES = {"http": "uvicorn", "grpc": "grpc"}


def serve_findings(loaded: LoadedConfig) -> Iterator[Finding]:
    """What a start would refuse of ``serve``; nothing where no program is served."""
    for key, fault in input_faults(loaded):
        yield Finding(key, "failed", fault, is_needed=True)
    for key, address in loaded.config.serve.addresses.items():
        try:
            importlib.import_module(_LIBRARIES[key])
            from agent.web.http.listener import bind
        except (ImportError, OSError) as exc:
            remedy = "add the parts [serve] and [grpc] of the agent, as docs/installation.md says"
            yield Finding(key, "failed", f"a library of {address} cannot be imported: {exc}", remedy, is_needed=True)
            continue
        try:
            bind(address, key).close()
        except Unavailable as exc:
            yield _in_use(key, address, loaded.state_dir, exc)
        else:
            yield Finding(key, "ok", f"{address} is free", is_needed=True)


def _in_use(key: str, address: str, state_dir: Path, error: Unavailable) -> Finding:
    try:
        is_running = is_held(state_dir)
    except PermissionError:
        remedy = "run this with sudo to see whether the running agent is the one"
        return Finding(key, "warning", error.message, remedy, is_needed=True)
    if is_running:
        return Finding(key, "ok", f"{address} is in use, and the agent runs with {state_dir}", is_needed=True)
    return Finding(key, "failed", error.message, is_needed=True)
