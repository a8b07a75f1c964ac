"""Memory of an agent with and without its server, and what it imports without."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.performance.serving.contenders import Json, agent_config, contender, free_addresses, running_agent

_SETTLE_S = 3.0
_INFERS = 100
_MIB = 1 << 20
KINDS: Mapping[str, tuple[str, ...]] = {"off": (), "http": ("http",), "both": ("http", "grpc")}
"""Addresses of the server, by kind of start."""
_SERVER_ROOTS = ("uvicorn", "uvloop", "httptools", "starlette", "grpc", "prometheus_client", "h11", "anyio")


@dataclass(frozen=True, slots=True)
class Start:
    """Resident MiB of one agent with a camera, after 100 infers over each protocol, and the modules of its server."""

    resident_mib: float
    server_modules: int


def start(folder: Path, package: Path, broker: int, kind: str) -> Start:
    """Start an agent with the addresses of ``kind``, use them, and look."""
    addresses = {protocol: free_addresses()[protocol] for protocol in KINDS[kind]}
    config: Json = agent_config(package, broker, serve=addresses, cameras=1)
    with running_agent(folder, config, env={"PYTHONPROFILEIMPORTTIME": "1"}) as agent:
        if addresses:
            _use(addresses, agent.process.pid)
        time.sleep(_SETTLE_S)
        resident = psutil.Process(agent.process.pid).memory_info().rss / _MIB
        return Start(resident, sum(map(_is_of_the_server, _imported(agent.stderr))))


def _use(addresses: Mapping[str, str], pid: int) -> None:
    with contender(addresses, pid) as server:
        for infer in server.infers.values():
            for _ in range(_INFERS):
                infer()


def _imported(written: str) -> set[str]:
    """Source: Python's documentation, PYTHONPROFILEIMPORTTIME."""
    return {line.rpartition("|")[2].strip() for line in written.splitlines() if line.startswith("import time:")}


def _is_of_the_server(module: str) -> bool:
    return module.partition(".")[0] in _SERVER_ROOTS or f"{module}.".startswith("agent.web.")
