"""Start and memory of the agent beside the tuned script, in one run with a default mosquitto and the bundled model.

    python -m scripts.performance.start_and_memory [--turns 5] [--seconds 4] [--scripts-python PATH]

Prints a table for docs/performance.md, with the load found. Turns alternate. Children write and find bytecode as an
installed program does: without it every start compiles the agent's modules. CPU time is the row to compare on a busy
machine, the clock only on a quiet one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

from agent.config.broker_address import BrokerAddress
from agent.tools.benchmark.pipeline.agent_process import AgentProcess
from agent.tools.benchmark.pipeline.subscriber import listening
from agent.tools.clip_camera.clip import clip_from_file
from agent.tools.clip_camera.server import ClipServer
from engines import module_command
from scripts.performance.decoding import draw_clip
from scripts.performance.environment import child_environment
from scripts.performance.peers import Seen, Setup, first_result_s, peak_bytes, running, table_of
from scripts.performance.verdict import LoadWatch
from tests.fixtures.mosquitto import MosquittoBroker

AGENT, FIRST_START, TUNED = "agent", "agent, no caches", "tuned script"
_SIZE, _FRAMES = (1280, 720), 250
_CAMERAS = 4
_MIB = 1 << 20
_COMMANDS = {
    "agent --version": module_command("agent", "--version"),
    "import agent.app": [sys.executable, "-c", "import agent.runtime.logs, agent.app"],
}


def measure_start(kind: str, setup: Setup, seen: Seen, folder: Path) -> None:
    """From the start of the process until a subscriber has the first result of a file."""
    with MosquittoBroker(folder / "broker") as broker, listening(BrokerAddress.parse(broker.url)) as recorder:
        began_ns = time.time_ns()
        with running(kind, setup, broker, recorder, is_live=False) as pid:
            first_s = first_result_s(recorder, began_ns)
            cpu_s, peak = AgentProcess(pid, 0.0).cpu_s(), peak_bytes(pid)
    seen.add("first result of a file, s", first_s)
    seen.add("the same, CPU s", cpu_s)
    seen.add("peak MiB at the first result", peak / _MIB)


def measure_memory(kind: str, setup: Setup, seen: Seen, folder: Path, *, cameras: int = 1) -> None:
    """Peak after some seconds of live 720p streams."""
    with MosquittoBroker(folder / "broker") as broker, listening(BrokerAddress.parse(broker.url)) as recorder:
        began_ns = time.time_ns()
        with running(kind, setup, broker, recorder, is_live=True, cameras=cameras) as pid:
            first_s = first_result_s(recorder, began_ns)
            time.sleep(setup.seconds)
            peak = peak_bytes(pid)
    if cameras == 1:
        seen.add("first result of an RTSP stream, s", first_s)
    seen.add(f"peak MiB, {cameras} RTSP stream{'s' * (cameras > 1)} of 720p", peak / _MIB)


def measure_command(name: str, command: Sequence[str], seen: Seen) -> None:
    """Clock and CPU of a command that ends."""
    began_s = time.monotonic()
    process = subprocess.Popen(command, env=child_environment(), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{name} ended with code {process.returncode}")
    seen.add(f"{name}, s", time.monotonic() - began_s)
    seen.add(f"{name}, CPU s", used.ru_utime + used.ru_stime)


def turn(setup: Setup, found: Mapping[str, Seen], folder: Path) -> None:
    """Everything once."""
    for name, command in _COMMANDS.items():
        measure_command(name, command, found[AGENT])
    for kind, seen in (("agent", found[AGENT]), ("tuned", found[TUNED])):
        measure_start(kind, setup, seen, folder)
        measure_memory(kind, setup, seen, folder)
    measure_memory("agent", setup, found[AGENT], folder, cameras=_CAMERAS)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        measure_start("agent", replace(setup, cache=Path(fresh)), found[FIRST_START], folder)


def further_camera_mib(seen: Seen) -> float:
    """Memory of each camera after the first."""
    one, several = (median(values) for name, values in seen.rows.items() if " of 720p" in name)
    return (several - one) / (_CAMERAS - 1)


def _write_bytecode_below(folder: Path) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--scripts-python", default=sys.executable, help="has onnxruntime, OpenCV, numpy and paho")
    options = parser.parse_args()
    if options.turns < 1 or options.seconds <= 0:
        parser.error(f"--turns is {options.turns} and --seconds {options.seconds:g}, but both must be above 0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_bytecode_below(folder)
        draw_clip(clip := folder / "clip.mp4", *_SIZE, _FRAMES)
        with ClipServer(clip_from_file(clip), "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve, daemon=True).start()
            setup = Setup(options.scripts_python, folder / "cache", clip, server.url, options.seconds)
            found = {kind: Seen() for kind in (AGENT, FIRST_START, TUNED)}
            turn(replace(setup, seconds=0.1), {kind: Seen() for kind in found}, folder)  # writes bytecode and caches
            watch = LoadWatch()
            for _ in range(options.turns):
                turn(setup, found, folder)
            load = watch.load()
    found[AGENT].add("MiB for each further stream", further_camera_mib(found[AGENT]))
    libraries = ", ".join(f"{one} {version(one)}" for one in ("onnxruntime", "opencv-python-headless", "av", "numpy"))
    print(f"Python {sys.version.split()[0]}, {libraries}; bundled model; {options.turns} turns.")
    print(f"Load found: {load.words}\n")
    print("\n".join(table_of(found)))


if __name__ == "__main__":
    main()
