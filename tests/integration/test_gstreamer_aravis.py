"""A GigE Vision camera through Aravis: its own fake camera, read by the recipe of the documentation."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.deadlines import wait_until
from tests.fixtures.gstreamer import require_gstreamer

_ROOT = Path(__file__).resolve().parents[2]
_PR_CAPBSET_DROP, _CAP_NET_RAW = 24, 13
_READ = """
import json, sys
from pathlib import Path
from agent.cameras.sources.choose import make_source
from agent.config.sections.sources import GStreamerSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceUnavailable
config = GStreamerSource(type="gstreamer", pipeline=sys.argv[1])
source = make_source(config, base_dir=Path(), clock=SystemClock())
try:
    source.open()
    captures = [source.read() for _ in range(int(sys.argv[2]))]
    print(json.dumps({"fps": source.fps, "shapes": [one.image.shape for one in captures],
                      "means": [float(one.image.mean()) for one in captures],
                      "at": [one.captured_at_ns for one in captures]}))
except SourceUnavailable as exc:
    print(json.dumps({"error": exc.message}))
finally:
    source.close()
"""


@pytest.fixture(scope="module")
def fake_camera() -> Iterator[None]:
    gst = require_gstreamer()
    program = shutil.which("arv-fake-gv-camera-0.8")
    if program is None or gst.ElementFactory.find("aravissrc") is None:
        pytest.skip("Aravis is not here: install libaravis-0.8-0 and aravis-tools")
    with subprocess.Popen(
        [program, "-i", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as camera:
        try:
            wait_until(lambda: "error" not in _read(_recipe(), 1), within_s=20)
            yield
        finally:
            camera.terminate()


def _recipe() -> str:
    page = (_ROOT / "docs/cameras.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```yaml\n(source:\n  type: gstreamer\n  pipeline: aravissrc.*?)```", page, re.DOTALL)
    return str(yaml.safe_load(snippet)["source"]["pipeline"])


def _without_raw_sockets() -> None:
    """With that right, Aravis reads packets past the sockets, which fails on the loopback interface."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_NET_RAW, 0, 0, 0)


def _read(pipeline: str, count: int) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _READ, pipeline, str(count)],
        cwd=_ROOT,
        preexec_fn=_without_raw_sockets,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_recipe_gives_frames_at_the_cameras_rate(fake_camera: None) -> None:
    read = _read(_recipe(), 10)
    assert read["shapes"] == [[128, 128, 3]] * 10
    assert read["fps"] == 25.0
    assert read["at"] == sorted(set(read["at"]))
    assert min(read["means"]) > 0, "its gradient, and not an empty image"


def test_a_grey_camera_needs_no_conversion(fake_camera: None) -> None:
    read = _read("aravissrc ! video/x-raw,format=GRAY8,width=64,height=64", 3)
    assert read["shapes"] == [[64, 64, 3]] * 3


def test_a_camera_that_is_not_there_is_named(fake_camera: None) -> None:
    pipeline = 'aravissrc camera-name="Maker-Nowhere-1" ! video/x-raw,format=GRAY8'
    assert "Could not find camera" in _read(pipeline, 1)["error"]
