"""V4L2 cameras: requested settings, error messages, and time stamps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import structlog

from agent.cameras.sources.v4l2.camera import V4l2Camera
from agent.cameras.sources.v4l2.modes import Mode
from agent.config.sections.sources import V4l2Source
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from tests.fixtures.video_device import FakeVideoDevice

_ROOT = Path(__file__).resolve().parents[2]


class Bench:
    """A camera whose device is a fake; ``faults`` may change while it runs."""

    def __init__(self, *, proc: Path = Path("/nowhere"), **settings: Any) -> None:
        self.faults: dict[str, Any] = {}
        self.devices: list[FakeVideoDevice] = []
        self.modes: list[Mode] = []
        config = V4l2Source(type="v4l2", device="/dev/null", **settings)
        self.camera = V4l2Camera(
            config,
            clock=SystemClock(),
            open_capture=self._open,
            is_video=lambda _: True,
            list_modes=lambda _: self.modes,
            proc=proc,
        )

    def _open(self, name: str, backend: int, parameters: list[int]) -> FakeVideoDevice:
        self.devices.append(FakeVideoDevice(name, backend, parameters, self.faults))
        return self.devices[-1]


def test_the_pixel_format_is_set_before_size_and_rate() -> None:
    bench = Bench(width=32, height=24, fps=30.0, fourcc="MJPG")
    bench.camera.open()
    assert list(bench.devices[0].asked.items()) == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 32),
        (cv2.CAP_PROP_FRAME_HEIGHT, 24),
        (cv2.CAP_PROP_FPS, 30),
    ]
    bench.camera.close()


def test_a_camera_keeps_its_own_settings_if_none_are_configured() -> None:
    bench = Bench()
    bench.camera.open()
    assert bench.devices[0].asked == {}
    bench.camera.close()


def test_an_unsupported_size_is_refused_and_the_device_released() -> None:
    bench = Bench(width=1920, height=1080)
    with pytest.raises(SourceUnavailable, match=r"gives 32x24, but the configuration asks for 1920x1080"):
        bench.camera.open()
    assert bench.devices[0].released == 1


def test_a_frame_carries_the_time_stamp_of_the_driver() -> None:
    bench = Bench()
    stamp_ns = time.monotonic_ns() - 40_000_000
    bench.faults["stamp_ms"] = stamp_ns / 1e6
    bench.camera.open()
    capture = bench.camera.read()
    assert capture is not None
    assert capture.captured_at_ns == pytest.approx(stamp_ns, abs=1000)
    assert capture.capture_ms >= 40.0
    bench.camera.close()


@pytest.mark.parametrize("stamp_ms", [0.0, 1e3 * 1_700_000_000, -5.0], ids=["none", "wall-clock", "negative"])
def test_a_time_stamp_of_a_different_clock_is_ignored(stamp_ms: float) -> None:
    bench = Bench()
    bench.faults["stamp_ms"] = stamp_ms
    bench.camera.open()
    before_ns = time.monotonic_ns()
    capture = bench.camera.read()
    assert capture is not None
    assert before_ns <= capture.captured_at_ns <= time.monotonic_ns()
    bench.camera.close()


def test_an_unplugged_camera_is_lost_at_once_and_comes_back() -> None:
    bench = Bench()
    bench.camera.open()
    assert bench.camera.read() is not None
    bench.faults["gone"] = True
    with pytest.raises(SourceLost) as caught:
        bench.camera.read()
    assert caught.value.fields["reason"] == "ended"
    bench.camera.close()
    bench.faults.clear()
    bench.camera.open()
    assert bench.camera.read() is not None
    bench.camera.close()
    assert [device.released for device in bench.devices] == [1, 1]


def test_a_camera_without_frames_is_stalled_after_its_timeout() -> None:
    bench = Bench(read_timeout_s=0.5)
    bench.camera.open()
    bench.faults["stalled"] = True
    with pytest.raises(SourceLost, match=r"no frame within 0\.5 s") as caught:
        bench.camera.read()
    assert caught.value.fields["reason"] == "stalled"
    bench.camera.close()


def test_a_busy_camera_is_reported_with_the_requested_settings() -> None:
    bench = Bench(fourcc="YUYV")
    bench.faults["busy"] = True
    with pytest.raises(SourceUnavailable, match=r"with YUYV: another program holds it"):
        bench.camera.open()
    assert bench.devices[0].released == 1


def test_a_busy_camera_is_reported_with_the_program_that_holds_it(tmp_path: Path) -> None:
    (tmp_path / "812" / "fd").mkdir(parents=True)
    (tmp_path / "812" / "comm").write_text("cheese\n")
    (tmp_path / "812" / "fd" / "7").symlink_to("/dev/null")
    (tmp_path / "813").mkdir()
    bench = Bench(proc=tmp_path)
    bench.faults["busy"] = True
    with pytest.raises(SourceUnavailable, match=r"cheese \(process 812\) holds it\. Stop that program"):
        bench.camera.open()


def test_an_unsupported_mode_is_refused_with_the_supported_modes() -> None:
    bench = Bench(width=1280, height=720, fourcc="H264")
    bench.modes = [Mode("MJPG", 1280, 720, 30.0), Mode("YUYV", 640, 480, 30.0), Mode("YUYV", 1280, 720, 5.0)]
    bench.faults["busy"] = True
    with pytest.raises(SourceUnavailable, match=r"it has MJPG 1280x720 at 30 fps, YUYV 1280x720 at 5 fps\."):
        bench.camera.open()
    bench.faults.clear()
    with pytest.raises(SourceUnavailable, match=r"a size that it supports: MJPG 1280x720 at 30 fps, .*YUYV 640x480"):
        bench.camera.open()


@pytest.mark.parametrize(
    ("faults", "is_logged"),
    [
        ({"fourcc": "YUYV", "fps": 5.0}, True),
        ({"fps": 5.0}, True),
        ({"fourcc": "YUYV", "fps": 30.0}, True),
        ({}, False),
    ],
    ids=["other-format-and-slower", "slower", "other-format", "as-asked"],
)
def test_settings_adjusted_by_the_driver_are_logged_with_the_supported_modes(
    faults: dict[str, Any], is_logged: bool
) -> None:
    bench = Bench(width=32, height=24, fps=30.0, fourcc="MJPG")
    bench.modes = [Mode("MJPG", 32, 24, 30.0), Mode("YUYV", 32, 24, 5.0)]
    bench.faults.update(faults)
    with structlog.testing.capture_logs() as lines:
        bench.camera.open()
    bench.camera.close()
    text = str(lines)
    assert ("camera.settings_adjusted" in text) is is_logged
    assert ("MJPG 32x24 at 30 fps, YUYV 32x24 at 5 fps" in text) is is_logged


_AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from agent.runtime.errors import SourceUnavailable
from agent.cameras.sources.lifecycle import Lifecycle
from agent.cameras.sources.v4l2.device import check_device
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    check_device(Path(sys.argv[1]), Lifecycle("camera"), is_video=lambda _: True)
except SourceUnavailable as exc:
    print(exc.fields["reason"], exc.message)
"""


def test_a_device_without_permission_is_reported_with_group_and_command() -> None:
    with tempfile.TemporaryDirectory() as folder:
        device = Path(folder) / "video0"
        device.touch()
        device.chmod(0o060)
        Path(folder).chmod(0o711)
        command = [sys.executable, "-c", _AS_ANOTHER_USER, str(device)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=_ROOT)
        group = device.group()
    assert done.stdout.startswith("permission ")
    assert f"belongs to the group {group} (mode 60)" in done.stdout
    assert f"sudo usermod -aG {group} " in done.stdout


def test_grey_camera_gives_three_channels() -> None:
    bench = Bench()
    bench.faults["image"] = np.full((24, 32), 9, np.uint8)
    bench.camera.open()
    capture = bench.camera.read()
    assert capture is not None
    assert capture.image.shape == (24, 32, 3)
    assert np.all(capture.image == 9)
    bench.camera.close()


@pytest.mark.parametrize(
    ("image", "reason"),
    [(np.zeros((24, 32), np.uint16), "format"), (None, "damaged")],
    ids=["16-bit", "undecodable"],
)
def test_an_unusable_frame_is_a_loss_with_advice(image: object, reason: str) -> None:
    bench = Bench()
    bench.faults["image"] = image
    bench.camera.open()
    with pytest.raises(SourceLost, match="Set `fourcc` to MJPG or YUYV") as caught:
        bench.camera.read()
    assert caught.value.fields["reason"] == reason
    bench.camera.close()


def test_an_empty_frame_is_a_loss_and_the_camera_comes_back() -> None:
    bench = Bench()
    bench.faults["empty"] = True
    bench.camera.open()
    with pytest.raises(SourceLost) as caught:
        bench.camera.read()
    assert caught.value.fields["reason"] == "damaged"
    bench.camera.close()
    bench.faults.clear()
    bench.camera.open()
    assert bench.camera.read() is not None
    bench.camera.close()


def test_missing_device_lists_those_present(tmp_path: Path) -> None:
    config = V4l2Source(type="v4l2", device=str(tmp_path / "video7"))
    with pytest.raises(SourceUnavailable, match=r"video7 cannot be found .* video devices present: ") as caught:
        V4l2Camera(config, clock=SystemClock()).open()
    assert caught.value.fields["reason"] == "missing"


def test_a_symlink_loop_is_a_missing_device(tmp_path: Path) -> None:
    (tmp_path / "video0").symlink_to("video1")
    (tmp_path / "video1").symlink_to("video0")
    config = V4l2Source(type="v4l2", device=str(tmp_path / "video0"))
    with pytest.raises(SourceUnavailable, match="video0 cannot be found") as caught:
        V4l2Camera(config, clock=SystemClock()).open()
    assert caught.value.fields["reason"] == "missing"


@pytest.mark.parametrize("device", ["/dev/null", "file"])
def test_a_device_that_is_not_a_camera_is_refused(tmp_path: Path, device: str) -> None:
    (tmp_path / "file").write_text("no camera")
    config = V4l2Source(type="v4l2", device=str(tmp_path / device))
    with pytest.raises(SourceUnavailable, match="is not a video device"):
        V4l2Camera(config, clock=SystemClock()).open()
