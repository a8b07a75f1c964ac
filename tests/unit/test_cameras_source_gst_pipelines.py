"""The elements of a pipeline: hardware decoders if present, and no text from the configuration among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.cameras.sources.gstreamer.pipelines import Plan, UnsupportedFormat, plan_for
from agent.config.sections.sources import CsiSource, GStreamerSource, RtspSource, StreamSource, V4l2Source
from agent.config.source_address import open_access


def _jetson(_: str) -> bool:
    return True


def _laptop(element: str) -> bool:
    return not element.startswith("nv")


def _rtsp(has: Any = _laptop, **settings: Any) -> Plan:
    config = RtspSource(type="rtsp", url=settings.pop("url", "rtsp://camera/1"), reader="gstreamer", **settings)
    return plan_for(config, has=has, access=open_access(config, Path("/")))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_before_the_first_key_frame_are_dropped(transport: str) -> None:
    assert _rtsp(transport=transport).optional == {"depay.wait-for-keyframe": True}


def _srt(directory: Path, has: Any) -> Plan:
    (directory / "passphrase").write_text("p@ss:phrase/17\n", encoding="utf-8")
    (directory / "passphrase").chmod(0o600)
    url = "srt://10.0.0.9:9000?passphrase={password}"
    config = StreamSource(type="stream", url=url, password_file="passphrase")
    return plan_for(config, has=has, access=open_access(config, directory))


def test_srt_takes_any_codec_and_hides_its_passphrase(tmp_path: Path) -> None:
    plan = _srt(tmp_path, _laptop)
    assert plan.text.startswith("srtsrc name=source ! decodebin ! videoconvert ! video/x-raw,format=BGRx ! appsink ")
    assert plan.properties == {"source.uri": "srt://10.0.0.9:9000?passphrase=p%40ss%3Aphrase%2F17"}
    assert "phrase" not in repr(plan)
    # Of its own it would try a wrong passphrase sixty times a second.
    assert plan.optional == {"source.auto-reconnect": False}
    assert plan.missing(lambda name: name != "srtsrc") == {"srtsrc": "gstreamer1.0-plugins-bad"}
    assert "decodebin ! nvvidconv ! " in _srt(tmp_path, _jetson).text


def _v4l2(has: Any = _laptop, **settings: Any) -> Plan:
    return plan_for(V4l2Source(type="v4l2", reader="gstreamer", **settings), has=has)


def test_a_csi_camera_uses_the_isp_and_the_hardware_converter() -> None:
    plan = plan_for(CsiSource(type="csi", sensor_id=1, width=1280, height=720, fps=59.94, flip=2), has=_jetson)
    assert plan.text == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM),width=1280,height=720,framerate=2997/50,format=NV12 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! appsink name=sink drop=true max-buffers=1 sync=false"
    )


@pytest.mark.parametrize(
    ("codec", "hardware", "software"),
    [
        ("h264", "h264parse ! nvv4l2decoder enable-max-performance=1 ! nvvidconv", "h264parse ! avdec_h264 max-th"),
        ("h265", "h265parse ! nvv4l2decoder enable-max-performance=1 ! nvvidconv", "h265parse ! avdec_h265 max-th"),
        ("mjpeg", "jpegparse ! nvv4l2decoder mjpeg=1 ! nvvidconv", "jpegparse ! jpegdec ! videoconvert"),
    ],
)
def test_a_stream_is_decoded_in_hardware_if_present(codec: str, hardware: str, software: str) -> None:
    assert hardware in _rtsp(_jetson, codec=codec).text
    assert software in _rtsp(_laptop, codec=codec).text
    assert not [name for name in _rtsp(_laptop, codec=codec).needs if name.startswith("nv")]


def test_every_element_of_a_pipeline_is_checked_before_it_starts() -> None:
    for plan in (_rtsp(), _rtsp(_jetson), _v4l2(fourcc="MJPG"), _v4l2(_jetson, fourcc="MJPG"), _v4l2()):
        parts = [part.split()[0] for part in plan.text.split(" ! ")]
        assert {part for part in parts if "/" not in part} == set(plan.needs)


def test_addresses_and_credentials_are_properties_never_pipeline_text(tmp_path: Path) -> None:
    hostile = "rtsp://camera/1!filesink=location=/x"
    secret = tmp_path / "password"
    secret.write_text("hunter2-CANARY")
    secret.chmod(0o600)
    plan = _rtsp(url=hostile, username="admin ! fakesink", password_file=str(secret))
    assert "filesink" not in plan.text
    assert "fakesink" not in plan.text
    assert plan.properties["source.location"] == hostile
    assert plan.properties["source.user-pw"] == "hunter2-CANARY"
    assert "CANARY" not in plan.text + repr(plan)
    assert "/dev/x!y" not in _v4l2(device="/dev/x!y").text


def test_a_usb_camera_gets_the_configured_format_and_size() -> None:
    text = _v4l2(fourcc="YUYV", width=640, height=480, fps=15.0).text
    assert "v4l2src name=source ! video/x-raw,format=YUY2,width=640,height=480,framerate=15/1 ! videoconvert" in text
    assert "image/jpeg ! jpegdec ! videoconvert" in _v4l2(fourcc="MJPG").text
    assert "image/jpeg,width=640 ! nvv4l2decoder mjpeg=1 ! nvvidconv" in _v4l2(_jetson, fourcc="MJPG", width=640).text


def test_an_unsupported_pixel_format_is_refused_with_the_supported_ones() -> None:
    with pytest.raises(UnsupportedFormat, match=r"does not support `fourcc` 'ABCD'; .* MJPG JPEG YUYV"):
        _v4l2(fourcc="ABCD")


def test_missing_elements_are_named_with_their_packages() -> None:
    plan = _rtsp()
    assert plan.missing(lambda _: True) == {}
    assert plan.missing(lambda element: element not in {"avdec_h264", "rtspsrc"}) == {
        "rtspsrc": "gstreamer1.0-plugins-good",
        "avdec_h264": "gstreamer1.0-libav",
    }
    csi = plan_for(CsiSource(type="csi"), has=_laptop)
    assert csi.missing(_laptop) == {"nvarguscamerasrc": "nvidia-l4t-gstreamer", "nvvidconv": "nvidia-l4t-gstreamer"}


def test_a_custom_pipeline_gets_conversion_and_sink() -> None:
    config = GStreamerSource(type="gstreamer", pipeline="mysrc ! mydec")
    plan = plan_for(config, has=_laptop, access=open_access(config, Path("/")))
    assert plan.text.startswith("mysrc ! mydec ! videoconvert ! video/x-raw,format=BGRx ! appsink name=sink drop=true")
