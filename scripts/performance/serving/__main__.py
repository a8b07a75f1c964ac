"""Every bar of serving in one run, as a table.

    python -m scripts.performance.serving [--rounds 10] [--infers 200] [--seconds 3] [--only infers,starts,cameras]

Servers, the session and windows alternate, and the figures are medians. A real Triton is one of the servers where
`scripts/test --with triton` has made its environments, or TRITON_PACKAGES and TRITON_CLIENT_PYTHON name them; else the
rows beside it are left out, and the last line says so. Exits with 1 if a bar is missed or cannot be judged.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from agent.mqtt.embedded.broker import EmbeddedBroker
from agent.runtime import logs
from agent.runtime.errors import AgentError
from agent.tools.benchmark.pipeline.subscriber import listening
from engines import EngineError, ModelPackage
from engines.backends.triton.server import ServerFault
from scripts.performance.make_models import mobilenet, write_package
from scripts.performance.page import Origin, bar_lines, head, machine, versions
from scripts.performance.serving import cameras, rounds, starts
from scripts.performance.serving.contenders import (
    agent_config,
    contender,
    free_addresses,
    libraries_contender,
    package_in,
    running_agent,
    session_of,
    triton_contender,
)
from scripts.performance.serving.rows import Found, rows_of
from scripts.performance.verdict import LoadWatch, verdict_of

_ROOT = Path(__file__).parents[3]
_PARTS = ("infers", "starts", "cameras")
_BATCHED = {"max_size": 8, "max_delay_ms": 20}
_COMMAND = "python -m scripts.performance.serving"


@dataclass(frozen=True, slots=True)
class Setting:
    """What the parts of a run share; ``triton``: folder of its wheel and interpreter of its model, or None."""

    folder: Path
    package: ModelPackage
    broker: EmbeddedBroker
    triton: tuple[Path, Path] | None
    rounds: int
    infers: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; return 1 if a bar is missed or cannot be judged."""
    given = _parser().parse_args(arguments)
    logs.configure(level="error")
    began, began_s, watch = datetime.now(timezone.utc), time.monotonic(), LoadWatch()
    found, triton, faults = Found(), _triton_environments(), list[str]()
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker() as broker:
        folder = Path(name)
        setting = Setting(folder, package_in(folder), broker, triton, given.rounds, given.infers, given.seconds)
        for part, measure in (("infers", _infers), ("starts", _starts), ("cameras", _cameras)):
            if part in given.only and (fault := _fault(measure, setting, found)) is not None:
                faults.append(f"{part} could not be measured: {fault}")
    load = watch.load()
    origin = Origin(
        command=" ".join([_COMMAND, *(sys.argv[1:] if arguments is None else arguments)]),
        machine=machine(),
        versions=versions(),
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        wall_s=time.monotonic() - began_s,
        load=load,
        is_quick=False,
    )
    rows = list(rows_of(found))
    print("\n".join([*head(origin), *bar_lines(rows, load)]))
    if triton is None:
        print("Left out: the rows beside a real Triton, which `scripts/test --with triton` installs.")
    print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
    return int(bool(faults) or any(not verdict_of(row, load).startswith(("holds", "–")) for row in rows))


def _fault(measure: Callable[[Setting, Found], None], setting: Setting, found: Found) -> str | None:
    """Run one part; why it failed, or None. The others are measured in any case."""
    try:
        measure(setting, found)
    # A fixture says by an assertion that its process did not start.
    except (
        AgentError,
        AssertionError,
        EngineError,
        OSError,
        RuntimeError,
        ServerFault,
        ValueError,
        psutil.Error,
    ) as exc:
        return f"{type(exc).__name__}: {exc}"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="turns of each server, and of each window")
    parser.add_argument("--infers", type=int, default=200, help="infers of a turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a window of a camera")
    parser.add_argument("--only", type=_parts, default=_PARTS, help=f"parts with commas, of {', '.join(_PARTS)}")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(_PARTS):
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(unknown)}; there are {', '.join(_PARTS)}")
    return names


def _triton_environments() -> tuple[Path, Path] | None:
    """Folder of Triton's wheel and the interpreter of its model, as `scripts/test --with triton` made them."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = _ROOT / ".venvs" / f"triton-server-{version}" / "lib" / f"python{version}" / "site-packages"
    packages = Path(os.environ.get("TRITON_PACKAGES", made))
    made = _ROOT / ".venvs" / f"triton-client-{version}" / "bin" / "python"
    python = Path(os.environ.get("TRITON_CLIENT_PYTHON", made))
    return (packages, python) if packages.is_dir() and python.is_file() else None


def _infers(setting: Setting, found: Found) -> None:
    """One client's infers: agent, Triton, the libraries and the session in turns."""
    addresses, package = free_addresses(), setting.package
    folder = setting.folder / "infers"
    config = agent_config(package.directory, setting.broker.port, serve=addresses, batched=_BATCHED)
    with ExitStack() as stack:
        servers = {"libraries": stack.enter_context(libraries_contender())}
        if setting.triton is not None:
            packages, python = setting.triton
            triton = triton_contender(folder / "triton", package, packages=packages, python=python)
            servers["triton"] = stack.enter_context(triton)
        pid = stack.enter_context(running_agent(folder / "agent", config)).process.pid
        servers["agent"] = stack.enter_context(contender(addresses, pid))
        batched = stack.enter_context(contender(addresses, pid, "batched"))
        session = session_of(package, setting.folder / "cache")
        found.infers, found.session_ms = rounds.measure(servers, session, rounds=setting.rounds, count=setting.infers)
        alone = servers["agent"].infers["http"]
        found.batching_ms = rounds.compare(alone, batched.infers["http"], rounds=setting.rounds, count=setting.infers)


def _starts(setting: Setting, found: Found) -> None:
    """Agents without a server, with HTTP, and with both, in turns."""
    kept: Mapping[str, list[starts.Start]] = {kind: [] for kind in starts.KINDS}
    for turn in range(3):
        for kind, seen in kept.items():
            folder = setting.folder / f"start-{kind}-{turn}"
            seen.append(starts.start(folder, setting.package.directory, setting.broker.port, kind))
    found.starts = kept


def _cameras(setting: Setting, found: Found) -> None:
    """A camera at 30 frames a second and the MobileNetV2 shape, whose infers take longer than a server's own time."""
    addresses, folder = free_addresses(), setting.folder / "cameras"
    package = write_package(mobilenet(), "mobilenet", folder)
    config = agent_config(package, setting.broker.port, serve=addresses, cameras=1)
    with (
        listening(setting.broker.address) as recorder,
        running_agent(folder, config) as agent,
        contender(addresses, agent.process.pid, classes=1000) as server,
    ):
        found.ages = cameras.measure(
            server, addresses["http"], recorder, rounds=setting.rounds, seconds=setting.seconds
        )


if __name__ == "__main__":
    sys.exit(main())
