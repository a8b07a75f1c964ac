"""The agent beside scripts for the same job: the same clip, model, RTSP stream and default mosquitto.

    python -m scripts.performance.peers --scripts-python PATH [--turns 3] [--seconds 8] [--only agent,tuned]

Run by scripts/peers, which makes the environment of the scripts. Turns alternate: every contender once, then again.
Prints medians with the range over the turns, and a row for each contender that could not be measured.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

from agent.config.broker_address import BrokerAddress
from agent.demo import demo_package
from agent.runtime.errors import Unavailable
from agent.runtime.statistics import percentiles
from agent.tools.benchmark.pipeline.agent_process import AgentProcess, running_agent
from agent.tools.benchmark.pipeline.subscriber import Recorder, arrivals_of, listening
from agent.tools.clip_camera.clip import clip_from_file
from agent.tools.clip_camera.server import ClipServer
from scripts.performance.agent_rows import config_of
from scripts.performance.decoding import draw_clip
from scripts.performance.environment import child_environment
from tests.fixtures.mosquitto import MosquittoBroker

CONTENDERS = ("agent", "naive", "tuned", "pyav", "gstreamer")
_SCRIPT = Path(__file__).with_name("peer_pipeline.py")
_SETTLE_S = 2.0
_FIRST_WITHIN_S = 30.0
_SIZE, _FRAMES = (1280, 720), 250
_MIB = 1 << 20


class NotMeasured(Exception):
    """A contender published nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all contenders share."""

    python: str
    cache: Path
    clip: Path
    stream_url: str
    seconds: float


@dataclass(slots=True)
class Seen:
    """Figures of one contender, one entry for each turn."""

    rows: dict[str, list[float]] = field(default_factory=dict)
    fault: str | None = None

    def add(self, name: str, value: float) -> None:
        """Add the figure of one turn."""
        self.rows.setdefault(name, []).append(value)


@contextmanager
def running(
    kind: str, setup: Setup, broker: MosquittoBroker, recorder: Recorder, *, is_live: bool, cameras: int = 1
) -> Iterator[int]:
    """The contender as a process; its number. Only the agent takes more than one of ``cameras``."""
    if kind == "agent":
        file: Mapping[str, object] = {"type": "file", "path": str(setup.clip), "loop": True}
        source = {"type": "rtsp", "url": setup.stream_url} if is_live else file
        config = config_of(demo_package(), [source] * cameras, broker.port)
        with running_agent(config, setup.cache, recorder.is_running.wait) as process:
            yield process.pid
        return
    source_name = setup.stream_url if is_live else str(setup.clip)
    words = [setup.python, str(_SCRIPT), kind, source_name, str(demo_package() / "model.onnx"), str(broker.port)]
    with tempfile.TemporaryFile() as said:
        script = subprocess.Popen(
            [*words, *(["--live"] if is_live else [])],
            env={**child_environment(), "PYTHONPATH": "", "ORT_DISABLE_TELEMETRY": "1"},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            yield script.pid
        except NotMeasured as exc:
            if script.poll() is None:
                raise
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["(no output)"]
            raise NotMeasured(f"{kind} ended with code {script.returncode}: {lines[-1][:200]}") from exc
        finally:
            script.kill()
            script.wait()


def first_result_s(recorder: Recorder, began_ns: int) -> float:
    """Wait for the first result; seconds since ``began_ns`` of the wall clock."""
    deadline = time.monotonic() + _FIRST_WITHIN_S
    while time.monotonic() < deadline:
        found = arrivals_of(recorder.take())
        if found:
            return (found[0].at_ns - began_ns) / 1e9
        time.sleep(0.01)
    raise NotMeasured(f"no result within {_FIRST_WITHIN_S:g} s")


def peak_bytes(pid: int) -> int:
    """Peak of the resident memory. Source: proc(5), VmHWM in status, in kB.

    Raises:
        NotMeasured: the process has ended.
    """
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    if peak is None:  # a process that has ended
        raise NotMeasured("it ended")
    return int(peak.split()[1]) * 1024


def measure(kind: str, setup: Setup, seen: Seen, folder: Path, *, is_live: bool) -> None:
    """One turn of one contender with the clip or the stream.

    Raises:
        NotMeasured: it published nothing.
    """
    name = "RTSP" if is_live else "file"
    with MosquittoBroker(folder / "broker") as broker, listening(BrokerAddress.parse(broker.url)) as recorder:
        began_ns = time.time_ns()
        with running(kind, setup, broker, recorder, is_live=is_live) as pid:
            process = AgentProcess(pid, 0.0)
            first_s = first_result_s(recorder, began_ns)
            time.sleep(_SETTLE_S)
            recorder.take()
            began_s, cpu_s = time.monotonic(), process.cpu_s()
            time.sleep(setup.seconds)
            arrivals, wall_s = arrivals_of(recorder.take()), time.monotonic() - began_s
            used_s, peak = process.cpu_s() - cpu_s, peak_bytes(pid)
    if not arrivals:
        raise NotMeasured("its results stopped")
    seen.add(f"{name}, results/s", len(arrivals) / wall_s)
    seen.add(f"{name}, CPU ms a result", used_s * 1e3 / len(arrivals))
    in_hand = [one.end_to_end_ms - one.latency_ms["capture"] for one in arrivals]
    for percent, value in zip((50, 99), percentiles(in_hand, (50, 99)), strict=True):
        seen.add(f"{name}, in hand to subscriber p{percent} ms", value)
    seen.add(f"{name}, start to first result s", first_s)
    seen.add(f"{name}, peak MiB", peak / _MIB)


def run(setup: Setup, kinds: Sequence[str], turns: int, folder: Path) -> dict[str, Seen]:
    """All contenders in alternating turns; one that fails is not tried again."""
    found = {kind: Seen() for kind in kinds}
    for _ in range(turns):
        for kind, seen in found.items():
            for is_live in (False, True):
                if seen.fault is None:
                    try:
                        measure(kind, setup, seen, folder, is_live=is_live)
                    except (NotMeasured, Unavailable) as exc:
                        seen.fault = str(exc)
    return found


def table_of(found: Mapping[str, Seen]) -> Iterator[str]:
    """Markdown: medians, and the range over the turns in brackets."""
    measured = {kind: seen for kind, seen in found.items() if seen.fault is None}
    yield f"| median (range over the turns) | {' | '.join(measured)} |"
    yield "| --- |" + " --: |" * len(measured)
    names = dict.fromkeys(name for seen in measured.values() for name in seen.rows)
    for name in names:
        cells = [_cell(seen.rows[name]) if name in seen.rows else "–" for seen in measured.values()]
        yield f"| {name} | {' | '.join(cells)} |"
    for kind, seen in found.items():
        if seen.fault is not None:
            yield f"\nNot measured: {kind}: {seen.fault}"


def _cell(values: Sequence[float]) -> str:
    digits = 0 if median(values) >= 100 else 2
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):.{digits}f}{spread}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--scripts-python", required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    options = parser.parse_args()
    kinds = [kind for kind in CONTENDERS if kind in options.only.split(",")]
    if options.turns < 1 or options.seconds <= 0 or len(kinds) != len(options.only.split(",")):
        parser.error(f"--turns from 1 on, --seconds above 0, and --only of {','.join(CONTENDERS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        draw_clip(clip, *_SIZE, _FRAMES)
        with ClipServer(clip_from_file(clip), "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve, daemon=True).start()
            setup = Setup(options.scripts_python, folder / "cache", clip, server.url, options.seconds)
            found = run(setup, kinds, options.turns, folder)
    libraries = ", ".join(f"{one} {version(one)}" for one in ("onnxruntime", "opencv-python-headless", "av", "numpy"))
    print(f"720p, 25 fps, bundled model; {options.turns} turns of {options.seconds:g} s; agent with {libraries}\n")
    print("\n".join(table_of(found)))


if __name__ == "__main__":
    main()
