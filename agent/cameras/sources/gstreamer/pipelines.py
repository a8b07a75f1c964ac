"""Builds the GStreamer pipeline description of a camera.

The description contains only constants and numbers. Text from the configuration (addresses, passwords, device files)
is set as a property of a named element, so it cannot inject elements. The one exception is a custom pipeline, whose
credentials are escaped where they stand.

Source: NVIDIA Jetson Linux Developer Guide, Multimedia, Accelerated GStreamer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from agent.config.sections.sources import CsiSource, GStreamerSource, RtspSource, StreamSource, V4l2Source
from agent.config.source_address import SourceAccess

PipelineSource = CsiSource | RtspSource | StreamSource | V4l2Source | GStreamerSource
"""Sources that GStreamer can read; of the streams, those over SRT."""

Has = Callable[[str], bool]
"""Whether an element of that name is installed."""

SINK = "sink"
_JETSON = "nvidia-l4t-gstreamer"
_PACKAGES: Mapping[str, str] = {
    "appsink": "gstreamer1.0-plugins-base",
    "videoconvert": "gstreamer1.0-plugins-base",
    "decodebin": "gstreamer1.0-plugins-base",
    "rtspsrc": "gstreamer1.0-plugins-good",
    "rtph264depay": "gstreamer1.0-plugins-good",
    "rtph265depay": "gstreamer1.0-plugins-good",
    "rtpjpegdepay": "gstreamer1.0-plugins-good",
    "v4l2src": "gstreamer1.0-plugins-good",
    "jpegdec": "gstreamer1.0-plugins-good",
    "jpegparse": "gstreamer1.0-plugins-bad",
    "h264parse": "gstreamer1.0-plugins-bad",
    "h265parse": "gstreamer1.0-plugins-bad",
    "avdec_h264": "gstreamer1.0-libav",
    "avdec_h265": "gstreamer1.0-libav",
    "nvarguscamerasrc": _JETSON,
    "nvvidconv": _JETSON,
    "nvv4l2decoder": _JETSON,
}
_RAW_FORMATS: Mapping[str, str] = {
    "YUYV": "YUY2",
    "UYVY": "UYVY",
    "NV12": "NV12",
    "YU12": "I420",
    "GREY": "GRAY8",
    "BGR3": "BGR",
    "RGB3": "RGB",
}
_KEEP_ALIVE_S = 15.0
"""Over TCP, rtspsrc asks nothing while frames come, and some cameras end a session without requests: after 60 s if
they announce no other time. Source: RFC 2326, 12.37."""
_PACKED = ("MJPG", "JPEG")
_DEPAY: Mapping[str, tuple[str, ...]] = {
    "h264": ("rtph264depay", "h264parse"),
    "h265": ("rtph265depay", "h265parse"),
    "mjpeg": ("rtpjpegdepay", "jpegparse"),
}


class UnsupportedFormat(Exception):
    """The configured pixel format has no GStreamer counterpart; the text lists those that have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A pipeline description, the elements it needs, and the properties of its named elements.

    ``properties`` maps ``element.property`` to a value. It may hold a password, and so may the text of a custom
    pipeline: both are excluded from repr.
    ``optional`` are properties that older versions of the element lack; they are set if they exist. Every
    ``keep_alive_s`` the server behind the element ``source`` is asked something.
    """

    text: str = field(repr=False)
    needs: tuple[str, ...]
    properties: Mapping[str, str | int] = field(default_factory=dict, repr=False)
    optional: Mapping[str, str | int] = field(default_factory=dict)
    keep_alive_s: float | None = None

    def missing(self, has: Has) -> dict[str, str]:
        """Elements that are not installed, each with the apt package that holds it."""
        return {name: _PACKAGES.get(name, "gstreamer1.0-plugins-bad") for name in self.needs if not has(name)}


def plan_for(config: PipelineSource, *, has: Has, access: SourceAccess | None = None) -> Plan:
    """The pipeline of one source; it uses hardware decoders if their elements are installed.

    ``access`` is that of a network camera or a custom pipeline.

    Raises:
        UnsupportedFormat: a pixel format that has no counterpart.
    """
    if isinstance(config, CsiSource):
        return _csi(config)
    if isinstance(config, V4l2Source):
        return _v4l2(config, has)
    if access is None:
        raise TypeError(f"a source of type {config.type} needs its access")
    if isinstance(config, RtspSource):
        return _rtsp(config, has, access)
    if isinstance(config, StreamSource):
        return _srt(has, access)
    return Plan(text=f"{access.private.reveal()} ! {_tail('videoconvert')}", needs=("videoconvert", "appsink"))


def _tail(converter: str) -> str:
    """Convert to BGRx, whose rows need no padding, and keep only the newest frame."""
    return f"{converter} ! video/x-raw,format=BGRx ! appsink name={SINK} drop=true max-buffers=1 sync=false"


def _rate(fps: float) -> str:
    fraction = Fraction(fps).limit_denominator(1001)  # 29.97 is 30000/1001
    return f"{fraction.numerator}/{fraction.denominator}"


def _is_jetson(has: Has) -> bool:
    return has("nvv4l2decoder") and has("nvvidconv")


def _csi(config: CsiSource) -> Plan:
    caps = (
        f"video/x-raw(memory:NVMM),width={config.width},height={config.height},"
        f"framerate={_rate(config.fps)},format=NV12"
    )
    text = f"nvarguscamerasrc sensor-id={config.sensor_id} ! {caps} ! "
    text += _tail(f"nvvidconv flip-method={config.flip}")
    return Plan(text=text, needs=("nvarguscamerasrc", "nvvidconv", "appsink"))


def _rtsp(config: RtspSource, has: Has, access: SourceAccess) -> Plan:
    depay = _DEPAY[config.codec]
    if _is_jetson(has):
        hint = "mjpeg=1" if config.codec == "mjpeg" else "enable-max-performance=1"
        decoder, converter, needs = f"nvv4l2decoder {hint}", "nvvidconv", ("nvv4l2decoder", "nvvidconv")
    else:
        element = "jpegdec" if config.codec == "mjpeg" else f"avdec_{config.codec}"
        threads = "" if config.codec == "mjpeg" else f" max-threads={config.decode_threads}"
        decoder, converter, needs = element + threads, "videoconvert", (element, "videoconvert")
    source = f"rtspsrc name=source protocols={config.transport} latency=100 drop-on-latency=true"
    chain = " ! ".join((source, f"{depay[0]} name=depay", *depay[1:], decoder, _tail(converter)))
    # In the middle of a group of pictures and after a lost datagram, frames are grey or damaged until the next key
    # frame: drop them.
    optional = {"depay.wait-for-keyframe": True}
    properties: dict[str, str | int] = {
        "source.location": access.request_url.reveal(),
        "source.tcp-timeout": round(config.open_timeout_s * 1e6),
    }
    if config.username is not None:
        properties["source.user-id"] = config.username
    if access.password is not None:
        properties["source.user-pw"] = access.password.reveal()
    return Plan(
        text=chain,
        needs=("rtspsrc", *depay, *needs, "appsink"),
        properties=properties,
        optional=optional,
        keep_alive_s=_KEEP_ALIVE_S if config.transport == "tcp" else None,
    )


def _srt(has: Has, access: SourceAccess) -> Plan:
    """MPEG-TS of any codec that a decoder is installed for; decodebin prefers those of the hardware."""
    converter = "nvvidconv" if _is_jetson(has) else "videoconvert"
    return Plan(
        text=f"srtsrc name=source ! decodebin ! {_tail(converter)}",
        needs=("srtsrc", "tsdemux", "decodebin", converter, "appsink"),
        properties={"source.uri": access.private.reveal()},
        # From 1.22 on it would try again on its own, sixty times a second after a wrong passphrase.
        optional={"source.auto-reconnect": False},
    )


def _v4l2(config: V4l2Source, has: Has) -> Plan:
    fourcc = None if config.fourcc is None else config.fourcc.upper()
    size = "" if config.width is None else f",width={config.width}"
    size += "" if config.height is None else f",height={config.height}"
    size += "" if config.fps is None else f",framerate={_rate(config.fps)}"
    needs: tuple[str, ...]
    if fourcc in _PACKED and _is_jetson(has):
        middle, needs = f"image/jpeg{size} ! nvv4l2decoder mjpeg=1", ("nvv4l2decoder", "nvvidconv")
        converter = "nvvidconv"
    elif fourcc in _PACKED:
        middle, needs, converter = f"image/jpeg{size} ! jpegdec", ("jpegdec", "videoconvert"), "videoconvert"
    elif fourcc is None or fourcc in _RAW_FORMATS:
        form = "" if fourcc is None else f",format={_RAW_FORMATS[fourcc]}"
        middle, needs, converter = f"video/x-raw{form}{size}", ("videoconvert",), "videoconvert"
    else:
        known = " ".join((*_PACKED, *_RAW_FORMATS))
        raise UnsupportedFormat(f"the GStreamer reader does not support `fourcc` {fourcc!r}; it supports {known}")
    return Plan(
        text=f"v4l2src name=source ! {middle} ! {_tail(converter)}",
        needs=("v4l2src", *needs, "appsink"),
        properties={"source.device": config.device},
    )
