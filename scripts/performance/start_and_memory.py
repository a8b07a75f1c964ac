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
from agent.runtime import logs
from agent.tools.benchmark.pipeline.subscriber import listening
from agent.tools.clip_camera.clip import clip_from_file
from agent.tools.clip_camera.server import ClipServer
from engines import module_command
from scripts.performance.decoding import draw_clip
from scripts.performance.environment import child_environment
from scripts.performance.peers.contenders import Scene, Setup, running
from scripts.performance.peers.measuring import first_result_s
from scripts.performance.peers.table import Seen, table_of
from scripts.performance.processes import family_cpu_s, family_peak_mib
from scripts.performance.verdict import LoadWatch
from tests.fixtures.mosquitto import MosquittoBroker

KINDS = ("agent", "tuned")
_SIZE, _FRAMES = (1280, 720), 250
_CAMERAS = 4
_COMMANDS = {
    "agent --version": module_command("agent", "--version"),
    "import agent.app": [sys.executable, "-c", "import agent.runtime.logs, agent.app"],
}


def measure(kind: str, setup: Setup, scene: Scene, seen: Seen, folder: Path) -> None:
    """From the start of the process until a subscriber has the first result; the peak ``setup.seconds`` later."""
    with MosquittoBroker(folder / "broker") as broker, listening(BrokerAddress.parse(broker.url)) as recorder:
        began_ns = time.time_ns()
        with running(kind, setup, scene, broker.port, recorder) as pids:
            first_s = first_result_s(recorder, began_ns)
            cpu_s, at_first_mib = family_cpu_s(pids), family_peak_mib(pids)
            time.sleep(setup.seconds)
            peak_mib = family_peak_mib(pids)
    seen.add(f"{scene.name}: first result, s", first_s)
    seen.add(f"{scene.name}: CPU s to it", cpu_s)
    seen.add(f"{scene.name}: peak MiB at it", at_first_mib)
    seen.add(f"{scene.name}: peak MiB {setup.seconds:g} s later", peak_mib)


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


def turn(setup: Setup, file: Scene, stream: Scene, found: Mapping[str, Seen], folder: Path) -> None:
    """Everything once."""
    for name, command in _COMMANDS.items():
        measure_command(name, command, found["agent"])
    streams = replace(stream, name=f"{_CAMERAS} RTSP streams", sources=stream.sources * _CAMERAS)
    for kind in KINDS:
        for scene in (file, stream, streams):
            measure(kind, setup, scene, found[kind], folder)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        first = replace(file, name="file, first start of all")
        measure("agent", replace(setup, cache=Path(fresh)), first, found["agent"], folder)


def further_stream_mib(seen: Seen, seconds: float) -> float:
    """Memory of each stream after the first."""
    names = ("RTSP stream", f"{_CAMERAS} RTSP streams")
    one, several = (median(seen.rows[f"{name}: peak MiB {seconds:g} s later"]) for name in names)
    return (several - one) / (_CAMERAS - 1)


def _write_bytecode_below(folder: Path) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")


def _run(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Seen], str]:
    """The figures, and the load found."""
    _write_bytecode_below(folder)
    draw_clip(clip := folder / "clip.mp4", *_SIZE, _FRAMES)
    with ClipServer(clip_from_file(clip), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve, daemon=True).start()
        setup = Setup(pythons={"tuned": options.scripts_python}, cache=folder / "cache", seconds=options.seconds)
        scenes = (
            Scene(name="file", sources=(str(clip),), is_live=False),
            Scene(name="RTSP stream", sources=(server.url,), is_live=True),
        )
        # The first turn writes bytecode and caches.
        turn(replace(setup, seconds=0.1), *scenes, {kind: Seen() for kind in KINDS}, folder)
        watch, found = LoadWatch(), {kind: Seen() for kind in KINDS}
        for _ in range(options.turns):
            turn(setup, *scenes, found, folder)
        load = watch.load()
    for seen in found.values():
        seen.add("MiB for each further RTSP stream", further_stream_mib(seen, options.seconds))
    return found, load.words


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--scripts-python", default=sys.executable, help="has onnxruntime, OpenCV, numpy and paho")
    options = parser.parse_args()
    if options.turns < 1 or options.seconds <= 0:
        parser.error(f"--turns is {options.turns} and --seconds {options.seconds:g}, but both must be above 0")
    logs.configure(level="warning")
    with tempfile.TemporaryDirectory() as name:
        found, load = _run(options, Path(name))
    libraries = ", ".join(f"{one} {version(one)}" for one in ("onnxruntime", "opencv-python-headless", "av", "numpy"))
    print(f"Python {sys.version.split()[0]}, {libraries}; bundled model; {options.turns} turns of 720p at 25 fps.")
    print(f"Load found: {load}\n")
    print("\n".join(table_of(found)))


if __name__ == "__main__":
    main()
