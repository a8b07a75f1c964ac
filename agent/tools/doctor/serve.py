"""The checks of `serve`: its library, tokens, certificate, and whether its addresses can be listened on."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from agent.config.loader import LoadedConfig
from agent.daemon.state_directory import is_held
from agent.runtime.errors import BROKEN_IMPORT, Unavailable, install_command
from agent.tools.doctor.findings import Finding
from agent.web.inputs import input_faults


def serve_findings(loaded: LoadedConfig) -> Iterator[Finding]:
    """What a start would refuse of ``serve``; nothing where no program is served."""
    for key, fault in input_faults(loaded):
        yield Finding(key, "failed", fault, is_needed=True)
    for key, address in loaded.config.serve.addresses.items():
        missing = _missing_library(key, address)
        if missing is not None:
            yield missing
            continue
        from agent.web.http.listener import bind

        try:
            bind(address, key).close()
        except Unavailable as exc:
            yield _in_use(key, address, loaded.state_dir, exc)
        else:
            yield Finding(key, "ok", f"{address} is free", is_needed=True)


def _missing_library(key: str, address: str) -> Finding | None:
    """Of the first part that cannot be used."""
    part = "serve"
    try:
        importlib.import_module("agent.web.service")
        if key == "grpc":
            part = "grpc"
            importlib.import_module("agent.web.grpc.listener")
    except BROKEN_IMPORT as exc:
        fault = f"a library of {address} cannot be imported: {exc}"
        return Finding(key, "failed", fault, f"run: {install_command(part)}", is_needed=True)
    return None


def _in_use(key: str, address: str, state_dir: Path, error: Unavailable) -> Finding:
    try:
        is_running = is_held(state_dir)
    except PermissionError:
        remedy = "run this with sudo to see whether the running agent is the one"
        return Finding(key, "warning", error.message, remedy, is_needed=True)
    if is_running:
        return Finding(key, "ok", f"{address} is in use, and the agent runs with {state_dir}", is_needed=True)
    return Finding(key, "failed", error.message, is_needed=True)
