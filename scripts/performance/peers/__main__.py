"""The agent beside scripts for the same job: the same clips, model, RTSP streams and default mosquitto.

    python -m scripts.performance.peers --scripts-python PATH [--roboflow-python PATH]
        [--triton-python PATH --triton-packages FOLDER] [--turns 3] [--seconds 8] [--only agent,tuned]

Run by scripts/peers, which makes the environments. Turns alternate: every contender once, then again. Prints medians
with the range over the turns, and a line for each that could not be measured.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from agent.runtime import logs
from agent.runtime.errors import Unavailable
from agent.tools.clip_camera.clip import clip_from_file
from agent.tools.clip_camera.server import ClipServer
from scripts.performance.clips import draw_turns, repeat_clip
from scripts.performance.decoding import draw_clip
from scripts.performance.make_models import mobilenet, write_package
from scripts.performance.peers.age import FPS, TURN_FRAMES, Pushes
from scripts.performance.peers.contenders import CONTENDERS, SCRIPTS, NotMeasured, Scene, Setup
from scripts.performance.peers.measuring import measure
from scripts.performance.peers.table import Seen, table_of

_SIZE, _FRAMES = (1280, 720), 250
_LONG = 24
"""So often is the clip in the file for a reader that cannot begin it again: 6,000 frames."""
_LIGHT_SIZE, _LIGHT_FPS, _LIGHT_CAMERAS = (320, 240), 10, 4
_LIBRARIES = ("onnxruntime", "opencv-python-headless", "av", "numpy", "paho-mqtt", "inference", "tritonclient")
_LIVE, _TURNS = "RTSP", 10

_SAY = """\
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(f"{name} {version(name)}")
    except PackageNotFoundError:
        pass
"""


def run(
    setup: Setup, kinds: Sequence[str], scenes: Sequence[Scene], turns: int, folder: Path, pushes: Pushes
) -> dict[str, Seen]:
    """All contenders in alternating turns; a scene in which one failed is not tried again."""
    found = {kind: Seen() for kind in kinds}
    for _ in range(turns):
        for kind, seen in found.items():
            for scene in scenes:
                if scene.name in seen.faults:
                    continue
                try:
                    measure(kind, setup, scene, seen, folder, pushes if scene.name == _LIVE else None)
                except (NotMeasured, Unavailable, ProcessLookupError, AssertionError) as exc:
                    seen.faults[scene.name] = str(exc)
    return found


def _served(clip: Path, resources: ExitStack, pushes: Pushes | None) -> str:
    """The address of an RTSP server with ``clip``."""
    server = resources.enter_context(ClipServer(clip_from_file(clip), "127.0.0.1", 0, on_frame=pushes))
    threading.Thread(target=server.serve, daemon=True).start()
    return server.url


def _scenes(folder: Path, resources: ExitStack, pushes: Pushes) -> tuple[Scene, ...]:
    clip, long_clip = folder / "clip.mp4", folder / "long.mp4"
    live, light = folder / "live.mp4", folder / "light.mp4"
    draw_clip(clip, *_SIZE, _FRAMES)
    repeat_clip(clip, long_clip, _LONG)
    draw_turns(live, *_SIZE, turns=_TURNS, turn_frames=TURN_FRAMES, fps=FPS)
    draw_turns(light, *_LIGHT_SIZE, turns=_TURNS, turn_frames=TURN_FRAMES, fps=_LIGHT_FPS)
    url, light_url = _served(live, resources, pushes), _served(light, resources, None)
    file = Scene(name="file", sources=(str(clip),), is_live=False, long_clips=(str(long_clip),))
    larger = write_package(mobilenet(), "mobilenet", folder)
    return (
        file,
        replace(file, name="MobileNetV2 shape, file", package=larger, size=(224, 224)),
        Scene(name=_LIVE, sources=(url,), is_live=True),
        Scene(name="four light cameras", sources=(light_url,) * _LIGHT_CAMERAS, is_live=True),
    )


def _versions(pythons: Mapping[str, str]) -> Iterator[str]:
    """The libraries of each environment."""
    for python in dict.fromkeys(pythons.values()):
        kinds = ", ".join(kind for kind, one in pythons.items() if one == python)
        done = subprocess.run([python, "-c", _SAY, *_LIBRARIES], capture_output=True, text=True, check=False)
        yield f"- {kinds}: {', '.join(done.stdout.split(chr(10))[:-1]) or 'unknown'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--scripts-python", required=True)
    parser.add_argument("--roboflow-python")
    parser.add_argument("--triton-python")
    parser.add_argument("--triton-packages", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    return parser


def main() -> None:
    """Measure, and print the table."""
    parser = _parser()
    options = parser.parse_args()
    wanted = options.only.split(",")
    kinds = [kind for kind in CONTENDERS if kind in wanted]
    if options.turns < 1 or options.seconds <= 0 or len(kinds) != len(wanted):
        parser.error(f"--turns from 1 on, --seconds above 0, and --only of {','.join(CONTENDERS)}")
    pythons = dict.fromkeys(SCRIPTS, options.scripts_python)
    pythons |= {"roboflow": options.roboflow_python} if options.roboflow_python else {}
    pythons |= {"triton": options.triton_python} if options.triton_python else {}
    logs.configure(level="error")
    pushes = Pushes()
    with tempfile.TemporaryDirectory() as name, ExitStack() as resources:
        folder = Path(name)
        scenes = _scenes(folder, resources, pushes)
        setup = Setup(
            pythons=pythons,
            cache=folder / "cache",
            seconds=options.seconds,
            triton_packages=options.triton_packages,
        )
        found = run(setup, kinds, scenes, options.turns, folder, pushes)
    width, height = _SIZE
    light = f"{_LIGHT_CAMERAS} light cameras of {_LIGHT_SIZE[0]}x{_LIGHT_SIZE[1]} at {_LIGHT_FPS} fps"
    turns = f"{options.turns} turns of {options.seconds:g} s"
    print(f"{width}x{height}, 25 fps, {light}, bundled model unless named; {turns}\n")
    print("\n".join(table_of(found)))
    print("\nLibraries:\n\n" + "\n".join(_versions(pythons)))


if __name__ == "__main__":
    main()
