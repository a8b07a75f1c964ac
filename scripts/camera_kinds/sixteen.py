"""Sixteen cameras of 1, 5 and 25 frames a second that come, go and come back together: seconds until each has a label.

    python -m scripts.camera_kinds.sixteen [--away SECONDS]

Runs the agent with the bundled model, a broker and real RTSP servers, and subscribes as a user would. The agent is
there first. Exit code 1 if a camera has no result within 2 s of the servers' start.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.recorder import Recorded, Recorder
from tests.fixtures.rtsp_server import RtspServer

_CAMERAS = {1: 6, 5: 5, 25: 5}
_LIMIT_S = 2.0
_WAIT_S = 60.0


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--away", type=float, default=40.0, help="seconds without cameras  [default: 40]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        broker = stack.enter_context(MosquittoBroker(folder / "broker"))
        recorder = stack.enter_context(Recorder(broker.port))
        ports = {fps: free_port() for fps in _CAMERAS}
        agent = AgentProcess(folder, "run", "-c", str(_config(folder, ports, broker.url)))
        stack.enter_context(agent)
        agent.wait_for_log("camera.lost")
        print("| what | frames a second | cameras | first label, s | last label, s |\n| --- | --- | --- | --- | --- |")
        slowest = 0.0
        for what in ("start", "return"):
            time.sleep(options.away)
            with ExitStack() as servers:
                slowest = max(slowest, *_measured(what, folder, ports, recorder, servers).values())
        agent.end()
    return 0 if slowest <= _LIMIT_S else 1


def _config(folder: Path, ports: dict[int, int], broker: str) -> Path:
    cameras = {
        f"fps{fps}-{number}": {
            "source": {"type": "rtsp", "url": f"rtsp://127.0.0.1:{ports[fps]}/camera"},
            "classify": [{"model": "inspect"}],
        }
        for fps, count in _CAMERAS.items()
        for number in range(count)
    }
    models = {"inspect": {"package": "demo", "engine": "ort-cpu"}}
    return write_config(folder, {"models": models, "cameras": cameras, "mqtt": {"broker": broker}})


def _measured(
    what: str, folder: Path, ports: dict[int, int], recorder: Recorder, servers: ExitStack
) -> dict[str, float]:
    """Seconds from when each server listens to its cameras' first results; prints the rows."""
    absent_at = time.monotonic()
    began_at: dict[int, float] = {}
    for fps, port in ports.items():
        servers.enter_context(RtspServer(folder, port=port, fps=float(fps)))
        began_at[fps] = time.monotonic()
    found: dict[str, float] = {}
    for fps, count in _CAMERAS.items():
        for number in range(count):
            topic = f"edge/dut/camera/fps{fps}-{number}/inspect/result"

            def is_it(message: Recorded, topic: str = topic) -> bool:
                return message.topic == topic and message.at > absent_at

            found[topic] = max(recorder.wait_for(is_it, _WAIT_S).at - began_at[fps], 0.0)
        seconds = list(found.values())[-count:]
        print(f"| {what} | {fps} | {count} | {min(seconds):.2f} | {max(seconds):.2f} |", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
