"""USB cameras are found by their descriptors; a swapped camera is reported and not read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.cameras.sources.lifecycle import Lifecycle
from agent.cameras.sources.v4l2.camera import V4l2Camera
from agent.cameras.sources.v4l2.usb_identity import CameraIdentity, UsbIdentity, devices_with_serial, identity_of
from agent.config.sections.sources import V4l2Source
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceUnavailable
from tests.fixtures.video_device import FakeVideoDevice


def _plug(sys: Path, node: str, port: str, *, serial: str | None, index: int = 0, name: str = "HD Webcam") -> None:
    """What the kernel shows of a USB camera at ``port`` with the device file ``node``."""
    device = sys / "devices/usb1" / port
    interface = device / f"{port}:1.{index}"
    (interface / "video4linux" / node).mkdir(parents=True, exist_ok=True)
    for file, text in {"idVendor": "046d", "idProduct": "0825", "product": name}.items():
        (device / file).write_text(f"{text}\n")
    if serial is not None:
        (device / "serial").write_text(f"{serial}\n")
    (sys / "class/video4linux" / node).mkdir(parents=True)
    (sys / "class/video4linux" / node / "index").write_text(f"{index}\n")
    (sys / "class/video4linux" / node / "device").symlink_to(interface)


def _unplug(sys: Path) -> None:
    shutil.rmtree(sys / "class")
    shutil.rmtree(sys / "devices")


def test_a_camera_is_identified_by_its_usb_descriptors(tmp_path: Path) -> None:
    _plug(tmp_path, "video0", "1-2", serial="3A7F")
    assert identity_of(Path("/dev/video0"), sys=tmp_path) == UsbIdentity("046d", "0825", "HD Webcam", "3A7F")
    assert identity_of(Path("/dev/video1"), sys=tmp_path) is None


def test_a_serial_number_finds_the_camera_and_not_its_metadata_device(tmp_path: Path) -> None:
    _plug(tmp_path, "video0", "1-1", serial="OTHER")
    _plug(tmp_path, "video3", "1-2", serial="3A7F", index=1)
    _plug(tmp_path, "video4", "1-2", serial="3A7F")
    assert list(devices_with_serial("3A7F", sys=tmp_path)) == [Path("/dev/video4")]


def _identity(sys: Path, **settings: Any) -> CameraIdentity:
    return CameraIdentity(V4l2Source(type="v4l2", **settings), Lifecycle("camera"), sys=sys)


def test_an_absent_serial_number_is_reported_with_those_present(tmp_path: Path) -> None:
    _plug(tmp_path, "video0", "1-1", serial="OTHER")
    with pytest.raises(SourceUnavailable, match=r"no USB camera has the serial number 3A7F.*serial OTHER") as refused:
        _identity(tmp_path, serial="3A7F").locate()
    assert refused.value.fields["reason"] == "missing"


def test_two_cameras_with_the_same_serial_number_are_refused(tmp_path: Path) -> None:
    _plug(tmp_path, "video0", "1-1", serial="0001")
    _plug(tmp_path, "video2", "1-2", serial="0001")
    with pytest.raises(SourceUnavailable, match="2 USB cameras have the serial number 0001"):
        _identity(tmp_path, serial="0001").locate()


def test_a_swapped_cable_is_reported_and_the_camera_not_read(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    device = tmp_path / "dev/video0"
    device.touch()
    sys = tmp_path / "sys"
    opened: list[str] = []

    def open_capture(name: str, backend: int, parameters: list[int]) -> FakeVideoDevice:
        opened.append(name)
        return FakeVideoDevice(name, backend, parameters)

    config = V4l2Source(type="v4l2", device=str(device))
    camera = V4l2Camera(config, clock=SystemClock(), open_capture=open_capture, is_video=lambda _: True, sys=sys)
    _plug(sys, "video0", "1-1", serial="FRONT")
    camera.open()
    camera.close()
    camera.open()
    camera.close()
    _unplug(sys)
    _plug(sys, "video0", "1-1", serial="REAR")
    with pytest.raises(SourceUnavailable, match=r"serial REAR.*serial FRONT") as refused:
        camera.open()
    assert refused.value.fields["reason"] == "swapped"
    assert len(opened) == 2
    _unplug(sys)
    _plug(sys, "video0", "1-1", serial="FRONT")
    camera.open()
    camera.close()
    assert len(opened) == 3
