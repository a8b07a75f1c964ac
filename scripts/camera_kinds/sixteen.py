"""Sixteen cameras of 1 to 30 frames a second that come, go and come back together: seconds until each has a label.

    python -m scripts.camera_kinds.sixteen [--away SECONDS]

Runs the agent with the bundled model, a broker and real RTSP servers, and subscribes as a user would. The agent is
there first. Two dead cameras are there all the time: one accepts connections and never answers, the other plays and
sends nothing. Exit code 1 if a camera has no result within 2 s of the first frame that it sent.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.recorder import Recorded, Recorder
from tests.fixtures.rtsp_server import RtspServer, silent_listener

_CAMERAS = {1: 3, 2: 3, 5: 2, 10: 2, 15: 2, 25: 2, 30: 2}
"""How many by frames a second."""
_LIMIT_S = 2.0
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Labelled:
    """Seconds until the first label at the subscriber: from the server's start, and from the first frame sent."""

    from_start_s: float
    from_frame_s: float


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--away", type=float, default=40.0, help="seconds without cameras  [default: 40]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        broker = stack.enter_context(MosquittoBroker(folder / "broker"))
        recorder = stack.enter_context(Recorder(broker.port))
        silent = stack.enter_context(silent_listener())
        mute = stack.enter_context(RtspServer(folder, transports=("udp",), silent_after=0))
        dead = {"silent": _rtsp(f"rtsp://127.0.0.1:{silent}/camera"), "mute": _rtsp(mute.url, transport="udp")}
        ports = {fps: free_port() for fps in _CAMERAS}
        agent = AgentProcess(folder, "run", "-c", str(_config(folder, ports, dead, broker.url)))
        stack.enter_context(agent)
        agent.wait_for_log("camera.lost")
        print("| what | frames a second | cameras | from the start, s | from the first frame, s |")
        print("| --- | --- | --- | --- | --- |")
        slowest = 0.0
        for what in ("start", "return"):
            time.sleep(options.away)
            with ExitStack() as servers:
                found = _measured(what, folder, ports, recorder, servers)
            slowest = max(slowest, *(one.from_frame_s for one in found))
        agent.end()
    print(f"the slowest label came {slowest:.2f} s after its camera's first frame; the limit is {_LIMIT_S:g} s")
    return 0 if slowest <= _LIMIT_S else 1


def _rtsp(url: str, **settings: str) -> dict[str, str]:
    return {"type": "rtsp", "url": url, **settings}


def _config(folder: Path, ports: dict[int, int], dead: dict[str, dict[str, str]], broker: str) -> Path:
    sources = {**dead}
    for fps, count in _CAMERAS.items():
        for number in range(count):
            sources[f"fps{fps}-{number}"] = _rtsp(f"rtsp://127.0.0.1:{ports[fps]}/camera-{number}")
    cameras = {name: {"source": source, "classify": [{"model": "inspect"}]} for name, source in sources.items()}
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    return write_config(folder, {"models": models, "cameras": cameras, "mqtt": {"broker": broker}})


def _measured(
    what: str, folder: Path, ports: dict[int, int], recorder: Recorder, servers: ExitStack
) -> list[Labelled]:
    """One for each camera; prints the rows."""
    absent_at = time.monotonic()
    running = {fps: servers.enter_context(RtspServer(folder, port=port, fps=fps)) for fps, port in ports.items()}
    found: list[Labelled] = []
    for fps, count in _CAMERAS.items():
        rows = []
        for number in range(count):
            topic = f"edge/dut/camera/fps{fps}-{number}/inspect/result"

            def is_it(message: Recorded, topic: str = topic) -> bool:
                return message.topic == topic and message.at > absent_at

            at = recorder.wait_for(is_it, _WAIT_S).at
            sent_at = running[fps].first_frames()[f"/camera-{number}"]
            rows.append(Labelled(max(at - running[fps].began_at, 0.0), at - sent_at))
        start, frame = [one.from_start_s for one in rows], [one.from_frame_s for one in rows]
        cells = f"{min(start):.2f} to {max(start):.2f} | {min(frame):.2f} to {max(frame):.2f}"
        print(f"| {what} | {fps} | {count} | {cells} |", flush=True)
        found += rows
    return found


if __name__ == "__main__":
    sys.exit(main())
