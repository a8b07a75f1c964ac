"""What is measured: servers of one model, each a process, and the session that they have in common."""

from __future__ import annotations

import http.client
import json
import mmap
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx.helper
import psutil

from agent.tools.benchmark.measure.bare import BareSession
from engines import EngineOptions, Images, ModelPackage, load_package
from engines.backends.triton.engine import connect
from engines.backends.triton.options import remote_options
from engines.backends.triton.server import Server
from scripts.performance.agent_rows import config_of, pattern
from scripts.performance.environment import child_environment
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.colour_packages import colour_model, write_colour_package
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import free_port
from tests.fixtures.triton_server import SESSION_NS, triton_server, write_repository

SIDE = 224
"""Of an image: 150,528 bytes as uint8 BGR."""
MODEL = "m"
PROTOCOLS = ("http", "grpc")
_STRIDE = 7
"""Of the first convolution: the model computes a fraction of a millisecond, so a server's own time shows."""
_READY_WITHIN_S = 120.0
_DEADLINE_S = 30.0

Json = Mapping[str, object]


def image() -> Images:
    """One image, ``(1, 224, 224, 3)`` uint8 BGR."""
    return np.random.default_rng(5).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)


def package_in(folder: Path) -> ModelPackage:
    """A package whose model takes 224x224 and computes little."""
    model = colour_model(side=SIDE)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("strides", [_STRIDE, _STRIDE]))
    return load_package(write_colour_package(folder, model=model, side=SIDE))


@dataclass(frozen=True, slots=True)
class Contender:
    """One server. ``infers``: by protocol, one infer of one image; ``compute_ns``: by its statistics, since its start.

    ``session_ns``: how long ``session.run`` took in the newest infer, where that is not ``compute_ns``.
    """

    infers: Mapping[str, Callable[[], object]]
    compute_ns: Callable[[], int]
    cpu_s: Callable[[], float]
    session_ns: Callable[[], int] | None = None


def session_of(package: ModelPackage, cache: Path) -> Callable[[], object]:
    """``session.run`` alone, as the agent's engine runs it."""
    options = EngineOptions(cache_dir=cache, engine="ort-cpu", options={"threads": 1})
    session, given = BareSession(package, options), image()
    return lambda: session.infer(given)


@contextmanager
def contender(
    addresses: Mapping[str, str],
    pid: int,
    model: str = MODEL,
    *,
    classes: int = 4,
    given: Images | None = None,
    has_model: bool = True,
    session_ns: Callable[[], int] | None = None,
) -> Iterator[Contender]:
    """The server of process ``pid``, once its model is ready; ``addresses`` by protocol, ``given`` it infers.

    Without ``has_model`` it answers without computing anything, and has no statistics.
    """
    with ExitStack() as stack:
        infers = {}
        for protocol, address in addresses.items():
            remote = remote_options({"url": address, "model": model, "protocol": protocol, "timeout_ms": 30_000})
            client = stack.enter_context(closing(connect(remote, classes=classes)))
            infers[protocol] = _infer(client, image() if given is None else given)
        asked = stack.enter_context(closing(http.client.HTTPConnection(addresses["http"], timeout=_DEADLINE_S)))
        for infer in infers.values():
            infer()
        compute_ns = (lambda: _compute_ns(asked, model)) if has_model else lambda: 0
        yield Contender(infers, compute_ns, lambda: cpu_s(pid), session_ns)


def _infer(client: Server, given: Images) -> Callable[[], object]:
    return lambda: client.infer(given, deadline_s=time.monotonic() + _DEADLINE_S)


def _compute_ns(connection: http.client.HTTPConnection, model: str) -> int:
    connection.request("GET", f"/v2/models/{model}/stats")
    (one,) = json.loads(connection.getresponse().read())["model_stats"]
    return int(one["inference_stats"]["compute_infer"]["ns"])


def cpu_s(pid: int) -> float:
    """CPU time of a process and its children, all threads. Source: sched-stats in the kernel's documentation."""
    process = psutil.Process(pid)
    tasks = [
        task for one in (process, *process.children()) for task in Path(f"/proc/{one.pid}/task").glob("*/schedstat")
    ]
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def agent_config(
    package: Path, broker: int, *, serve: Json, cameras: int = 0, batched: Json | None = None
) -> dict[str, object]:
    """An agent with the model ``m``, ``cameras`` at 30 frames a second, and ``serve``.

    ``batched``: how a second model, of that name and of the same package, makes batches.
    """
    config = config_of(package, [pattern(30)] * cameras, broker, options={"threads": 1}, serve=True)
    models = config["models"]
    if batched is not None and isinstance(models, dict):
        models["batched"] = {**deepcopy(models["m"]), "batching": dict(batched)}
    return {**config, "serve": dict(serve)}


def free_addresses() -> dict[str, str]:
    """An address for each protocol."""
    return {protocol: f"127.0.0.1:{free_port()}" for protocol in PROTOCOLS}


@contextmanager
def running_agent(folder: Path, config: Json, env: Mapping[str, str] | None = None) -> Iterator[AgentProcess]:
    """An agent whose engines are loaded; killed at the end, which is not measured."""
    path = write_config(folder, config)
    with AgentProcess(folder, "--log-format", "json", "run", "-c", str(path), env=env) as agent:
        agent.wait_for_log("agent.ready", _READY_WITHIN_S)
        yield agent


@contextmanager
def libraries_contender() -> Iterator[Contender]:
    """What the agent's server is made of, alone: see ``libraries``."""
    addresses = free_addresses()
    ports = [address.rpartition(":")[2] for address in addresses.values()]
    command = [sys.executable, "-m", "scripts.performance.serving.libraries", *ports]
    with subprocess.Popen(command, env=child_environment()) as process:
        try:
            for address in addresses.values():
                wait_until(partial(_listens, address), within_s=_READY_WITHIN_S)
            with contender(addresses, process.pid, has_model=False) as found:
                yield found
        finally:
            process.kill()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except OSError:
        return False
    return True


@contextmanager
def triton_contender(folder: Path, package: ModelPackage, *, packages: Path, python: Path) -> Iterator[Contender]:
    """A real Triton with the same model."""
    write_repository(folder / "repository", MODEL, package)
    with triton_server(folder, folder / "repository", packages=packages, python=python) as triton:
        with (folder / "repository" / MODEL / SESSION_NS).open("rb") as file:
            spent = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
        with (
            closing(spent),
            contender(
                {"http": triton.http, "grpc": triton.grpc},
                triton.process.pid,
                session_ns=lambda: int.from_bytes(spent[:8], "little"),
            ) as found,
        ):
            yield found
