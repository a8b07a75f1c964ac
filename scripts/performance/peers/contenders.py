"""Who is compared, and how each is started."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.demo import demo_package
from agent.tools.benchmark.pipeline.agent_process import running_agent
from agent.tools.benchmark.pipeline.subscriber import Recorder
from engines.package.load import load_package
from scripts.performance.agent_rows import config_of
from scripts.performance.environment import child_environment
from tests.fixtures.triton_server import triton_server, write_repository

SCRIPTS = ("naive", "tuned", "pyav", "gstreamer")
CONTENDERS = ("agent", *SCRIPTS, "roboflow", "triton")
_MODEL = "peer"


class NotMeasured(Exception):
    """A contender published nothing; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all contenders share. ``pythons`` are the interpreters of their environments, by contender.

    ``triton_packages`` is the folder with the content of Triton's wheel.
    """

    pythons: Mapping[str, str]
    cache: Path
    seconds: float
    triton_packages: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the contenders read: clips, or with ``is_live`` RTSP addresses, one for each camera.

    ``long_clips`` are the same clips many times over, for a reader that cannot begin a file again. ``package`` is the
    model; ``size`` its width and height.
    """

    name: str
    sources: tuple[str, ...]
    is_live: bool
    long_clips: tuple[str, ...] = ()
    package: Path = field(default_factory=demo_package)
    size: tuple[int, int] = (160, 120)


@contextmanager
def running(kind: str, setup: Setup, scene: Scene, port: int, recorder: Recorder) -> Iterator[tuple[int, ...]]:
    """The contender behind the broker on ``port``; the numbers of its processes.

    Raises:
        NotMeasured: its environment is not there, or it ended while it was measured.
    """
    if kind == "agent":
        config = config_of(scene.package, [_source(one, scene) for one in scene.sources], port)
        with running_agent(config, setup.cache, recorder.is_running.wait) as process:
            yield (process.pid,)
        return
    if kind not in setup.pythons:
        raise NotMeasured("it has no environment here")
    with ExitStack() as resources:
        model = str(scene.package / "model.onnx")
        servers: tuple[int, ...] = ()
        if kind == "triton":
            model, servers = resources.enter_context(_triton(setup, scene.package))
        command = _command(kind, setup.pythons[kind], model, port, scene)
        yield (*servers, resources.enter_context(_process(kind, command)))


def _source(text: str, scene: Scene) -> dict[str, object]:
    return {"type": "rtsp", "url": text} if scene.is_live else {"type": "file", "path": text, "loop": True}


def _command(kind: str, python: str, model: str, port: int, scene: Scene) -> Sequence[str]:
    sources = scene.long_clips or scene.sources if kind == "roboflow" else scene.sources
    script = "roboflow.py" if kind == "roboflow" else "pipeline.py"
    kinds = [] if kind == "roboflow" else [kind]
    options = ["--size", f"{scene.size[0]}x{scene.size[1]}", *(["--live"] if scene.is_live else [])]
    return [python, str(Path(__file__).with_name(script)), *kinds, model, str(port), *sources, *options]


@contextmanager
def _process(kind: str, command: Sequence[str]) -> Iterator[int]:
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:
        script = subprocess.Popen(
            command,
            # Roboflow's library keeps a cache, and counts its use over the network unless told not to.
            env={
                **child_environment(), "PYTHONPATH": "", "ORT_DISABLE_TELEMETRY": "1", "MODEL_CACHE_DIR": folder,
                "TELEMETRY_OPT_OUT": "True", "METRICS_ENABLED": "False", "OPENCV_FFMPEG_CAPTURE_OPTIONS": _OVER_TCP,
            },
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )  # fmt: skip
        try:
            yield script.pid
        except (NotMeasured, ProcessLookupError) as exc:
            if script.poll() is None:
                raise
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["(no output)"]
            raise NotMeasured(f"{kind} ended with code {script.returncode}: {lines[-1][:200]}") from exc
        finally:
            script.kill()
            script.wait()


_OVER_TCP = "rtsp_transport;tcp"
"""OpenCV tries UDP first in some releases; the server of this measurement sends over TCP alone."""


@contextmanager
def _triton(setup: Setup, package: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A server with the model: its address with the model's name, and its process."""
    if setup.triton_packages is None:
        raise NotMeasured("there is no server here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "repository"
        write_repository(repository, _MODEL, load_package(package), max_batch=1)
        python = Path(setup.pythons["triton"])
        with triton_server(folder, repository, packages=setup.triton_packages, python=python) as server:
            yield f"{server.grpc}/{_MODEL}", (server.process.pid,)
