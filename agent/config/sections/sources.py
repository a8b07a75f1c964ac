"""Where frames come from: one section per `type`."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from agent.config.credentials import PASSWORD, USERNAME, check_placeholders, placeholders, without_user_info
from agent.config.sections.base import FOURCC, HTTP_URL, RTSP_URL, STREAM_URL, Section

DecodeMode = Literal["all", "keyframes", "auto"]


class FileSource(Section):
    """A video file; the reader waits for the classifiers, so no frame is dropped."""

    type: Literal["file"]
    path: str = Field(min_length=1)
    """The file, relative to the configuration file, or `demo` for the bundled clip."""
    loop: bool = False
    """Start again at the end."""


class ImagesSource(Section):
    """A folder of images in the order of their names, or one image; none is dropped."""

    type: Literal["images"]
    path: str = Field(min_length=1)
    """The folder or file, relative to the configuration file."""
    loop: bool = False
    """Start again at the end."""
    bits: int | None = Field(default=None, ge=9, le=16)
    """Significant bits of the values in files of 16 bits per channel: 12 for a 12-bit camera; null takes all 16."""


class FolderSource(Section):
    """A folder that is watched: each image that others put there is taken once, and none is dropped."""

    type: Literal["folder"]
    path: str = Field(min_length=1)
    """The folder, relative to the configuration file; subfolders and hidden files are ignored."""
    order: Literal["arrival", "name"] = "arrival"
    """Order of the images that wait: by the time of their last change, or by name."""
    existing: Literal["process", "skip"] = "process"
    """What to do with the images that are there when the folder is watched for the first time."""
    after: Literal["keep", "delete", "move"] = "keep"
    """What to do with an image that was read."""
    move_to: str | None = Field(default=None, min_length=1)
    """The folder for `after: move`, relative to the configuration file."""
    settle_s: float = Field(default=1.0, ge=0.0, le=60.0)
    """A file is complete once its size and time have not changed for this long."""
    poll_s: float = Field(default=0.5, ge=0.01, le=5.0)
    """Time between two checks of the folder."""
    bits: int | None = Field(default=None, ge=9, le=16)
    """Significant bits of the values in files of 16 bits per channel: 12 for a 12-bit camera; null takes all 16."""

    @model_validator(mode="after")
    def _move_has_a_target(self) -> FolderSource:
        if (self.after == "move") != (self.move_to is not None):
            raise ValueError("move_to and `after: move` belong together: give both or neither")
        return self


class ImageSource(Section):
    """One image file that another program writes again and again."""

    type: Literal["image"]
    path: str = Field(min_length=1)
    """The file, relative to the configuration file."""
    poll_s: float = Field(default=0.2, ge=0.01, le=5.0)
    """Time between two checks of the file."""
    settle_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """Longest time for which the file may be half written."""
    read_timeout_s: float = Field(default=60.0, gt=0.0, le=80.0)
    """Longest time without new content before the image counts as lost."""
    bits: int | None = Field(default=None, ge=9, le=16)
    """Significant bits of the values in files of 16 bits per channel: 12 for a 12-bit camera; null takes all 16."""


class RtspSource(Section):
    """A network camera, decoded by FFmpeg."""

    type: Literal["rtsp"]
    url: str = Field(pattern=RTSP_URL, repr=False)
    """Address without credentials; `{username}` and `{password}` in its path stand for them."""
    username: str | None = None
    """User name on the camera."""
    password_file: str | None = None
    """File with the password on its first line."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Transport of the video; tcp loses no frames."""
    open_timeout_s: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the stream to open."""
    read_timeout_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """Longest wait for a frame before the stream counts as lost."""
    fps: float | None = Field(default=None, gt=0.0, le=240.0)
    """Frame rate that the camera is set to; null takes the rate that the stream announces, if any."""
    decode_threads: int = Field(default=1, ge=1, le=16)
    """Decoder threads of FFmpeg; each one beyond the first delays every frame by one frame."""
    decode: DecodeMode = "all"
    """Which frames FFmpeg decodes: `auto` decodes only key frames while they come as often as `rate_hz`."""
    reader: Literal["ffmpeg", "gstreamer"] = "ffmpeg"
    """`gstreamer` decodes in the hardware of a Jetson."""
    codec: Literal["h264", "h265", "mjpeg"] = "h264"
    """Codec of the stream; used by GStreamer only, FFmpeg detects it."""

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, url: str) -> str:
        return _checked_url(url, "rtsp://host:port/path")

    @model_validator(mode="after")
    def _password_has_its_user(self) -> RtspSource:
        _check_credentials(self.url, self.username, self.password_file)
        return self


class StreamSource(Section):
    """A live stream from another address: HLS, RTMP, or MPEG-TS over HTTP, UDP, TCP and SRT."""

    type: Literal["stream"]
    url: str = Field(pattern=STREAM_URL, repr=False)
    """Address without credentials; `{username}` and `{password}` in its path stand for them."""
    username: str | None = None
    """User name on the server."""
    password_file: str | None = None
    """File with the password on its first line."""
    ca_file: str | None = None
    """Certificate of the authority that signed the server's, for https; null takes those of the system."""
    open_timeout_s: float = Field(default=10.0, gt=0.0, le=60.0)
    """Longest wait for the stream to open."""
    read_timeout_s: float = Field(default=10.0, gt=0.0, le=60.0)
    """Longest wait for data before the stream counts as lost; longer than a segment of HLS."""
    fps: float | None = Field(default=None, gt=0.0, le=240.0)
    """Frame rate of the stream; null takes the rate that it announces, if any."""
    decode_threads: int = Field(default=1, ge=1, le=16)
    """Decoder threads of FFmpeg; each one beyond the first delays every frame by one frame."""
    decode: DecodeMode = "all"
    """Which frames are decoded: `auto` decodes only key frames while they come as often as `rate_hz`."""

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, url: str) -> str:
        return _checked_url(_checked_port(url), "https://host/path/stream.m3u8, rtmp://host/path or udp://group:port")

    @model_validator(mode="after")
    def _password_has_its_user(self) -> StreamSource:
        scheme = self.url.partition("://")[0]
        if scheme == "srt" and self.username is None and self.password_file is not None:
            _check_passphrase(self.url)
        else:
            _check_credentials(self.url, self.username, self.password_file)
        if self.username is not None and scheme in _WITHOUT_PORT:
            raise ValueError(
                f"username is given, but the url starts with {scheme}://, which has no login: remove username and "
                "password_file"
            )
        _check_ca_file(self.url, self.ca_file)
        return self


class HttpSource(Section):
    """A camera that sends JPEG images over HTTP: a stream of them (MJPEG), or one for each request."""

    type: Literal["http"]
    url: str = Field(pattern=HTTP_URL, repr=False)
    """Address without credentials; `{username}` and `{password}` in its path stand for them."""
    username: str | None = None
    """User name on the camera."""
    password_file: str | None = None
    """File with the password on its first line."""
    ca_file: str | None = None
    """Certificate of the authority that signed the camera's, for https; null takes those of the system."""
    interval_s: float = Field(default=1.0, ge=0.01, le=60.0)
    """Time between two requests, for a camera that answers with one image."""
    open_timeout_s: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the connection and the first answer: the head of a stream, or a whole image."""
    read_timeout_s: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for a whole image before the camera counts as lost."""
    fps: float | None = Field(default=None, gt=0.0, le=240.0)
    """Frame rate that the camera is set to; null learns it."""

    @field_validator("url")
    @classmethod
    def _url_is_an_address(cls, url: str) -> str:
        return _checked_url(url, "http://host:port/path")

    @model_validator(mode="after")
    def _password_has_its_user(self) -> HttpSource:
        _check_credentials(self.url, self.username, self.password_file)
        _check_ca_file(self.url, self.ca_file)
        return self


def _checked_url(url: str, example: str) -> str:
    # No message repeats the url: it may hold a password.
    try:
        parts = urlsplit(without_user_info(url))
        host, has_port = parts.hostname, parts.port != 0
    except ValueError:
        parts, host, has_port = None, None, False
    # Any @ counts, not only one in the host part: a password with / # or ? ends that part early for urlsplit.
    if "@" in without_user_info(url):
        raise ValueError(
            "the url holds credentials, which belong into a file of their own: move the user to `username` and "
            "the password to a file named by `password_file`. Write an @ that belongs to the path as %40"
        )
    if parts is None:
        raise ValueError(f"the url's host or port is malformed: write {example}")
    if not host or not has_port:
        raise ValueError(f"the URL has no host, or its port is 0: write {example}")
    return url


_WITHOUT_PORT = ("udp", "tcp", "srt")
"""Schemes that have neither a usual port nor a login."""


def _checked_port(url: str) -> str:
    """``url``, unless it needs a port and has none."""
    scheme, _, rest = url.partition("://")
    if scheme not in _WITHOUT_PORT:
        return url
    if scheme == "udp" and rest.startswith(("@", ":")):
        raise ValueError(
            "a udp:// url names a group, or an address of this machine, but this one begins with @ or a colon: "
            "write udp://239.0.0.1:5000, or udp://0.0.0.0:5000 for all addresses of this machine"
        )
    if not re.match(r"[^/?#]+:[0-9]+([/?#]|\Z)", rest):
        raise ValueError(f"the url has no port, but {scheme}:// has no usual one: write {scheme}://host:port")
    return url


def _check_ca_file(url: str, ca_file: str | None) -> None:
    if ca_file is not None and not url.startswith(("https://", "rtmps://")):
        scheme = url.partition("://")[0]
        raise ValueError(
            f"ca_file is given, but the url starts with {scheme}://, which has no certificates: remove ca_file, or "
            "use https:// or rtmps://"
        )


def _check_passphrase(url: str) -> None:
    if PASSWORD not in placeholders(url):
        raise ValueError(
            f"password_file is given, but the url has no {PASSWORD}: write srt://host:port?passphrase={PASSWORD}"
        )


def _check_credentials(url: str, username: str | None, password_file: str | None) -> None:
    if password_file is not None and not username:
        raise ValueError("password_file is given without username: give both")
    _check_keys(url, "url", username, password_file)


def _check_keys(text: str, name: str, username: str | None, password_file: str | None) -> None:
    """Refuse a placeholder whose value is not given."""
    for key, value, place in (("username", username, USERNAME), ("password_file", password_file, PASSWORD)):
        if value is None and place in placeholders(text):
            raise ValueError(f"the {name} has {place}, but {key} is not given: give it")


class V4l2Source(Section):
    """A USB camera or another V4L2 device."""

    type: Literal["v4l2"]
    device: str = Field(default="/dev/video0", min_length=1)
    """Device file; a link below /dev/v4l/by-id names the same camera on any port."""
    serial: str | None = Field(default=None, min_length=1, max_length=128)
    """Serial number of a USB camera, which finds it on any port; replaces `device`."""
    width: int | None = Field(default=None, ge=16, le=16384)
    """Width in pixels; null leaves it to the camera."""
    height: int | None = Field(default=None, ge=16, le=16384)
    """Height in pixels; null leaves it to the camera."""
    fps: float | None = Field(default=None, gt=0.0, le=1000.0)
    """Frame rate to request; null leaves it to the camera."""
    fourcc: str | None = Field(default=None, pattern=FOURCC)
    """Pixel format such as MJPG or YUYV; null leaves it to the camera."""
    read_timeout_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """Longest wait for a frame before the camera counts as lost."""
    reader: Literal["opencv", "gstreamer"] = "opencv"
    """`gstreamer` decodes MJPG in the hardware of a Jetson."""


class CsiSource(Section):
    """A camera on the CSI connector of a Jetson, through its image signal processor (ISP)."""

    type: Literal["csi"]
    sensor_id: int = Field(default=0, ge=0, le=15)
    """Number of the camera on the board."""
    width: int = Field(default=1920, ge=16, le=16384)
    """Width in pixels; width, height and fps together choose the sensor's mode."""
    height: int = Field(default=1080, ge=16, le=16384)
    """Height in pixels."""
    fps: float = Field(default=30.0, gt=0.0, le=1000.0)
    """Frames per second."""
    flip: int = Field(default=0, ge=0, le=7)
    """Rotate or mirror the frame, as `flip-method` of nvvidconv: 0 none, 2 by 180 degrees."""
    open_timeout_s: float = Field(default=10.0, gt=0.0, le=60.0)
    """Longest wait for the first frame."""
    read_timeout_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """Longest wait for a frame before the camera counts as lost."""


class GStreamerSource(Section):
    """A GStreamer pipeline of your own, for cameras that the other types do not support."""

    type: Literal["gstreamer"]
    pipeline: str = Field(min_length=1, max_length=4096, repr=False)
    """Elements joined by `!`, without a sink, which the agent adds; `{username}` and `{password}` are filled in."""
    username: str | None = None
    """User name on the camera."""
    password_file: str | None = None
    """File with the password on its first line."""
    fps: float | None = Field(default=None, gt=0.0, le=240.0)
    """Expected frame rate; null takes the rate that the pipeline announces, if any."""
    open_timeout_s: float = Field(default=10.0, gt=0.0, le=60.0)
    """Longest wait for the first frame."""
    read_timeout_s: float = Field(default=2.0, gt=0.0, le=60.0)
    """Longest wait for a frame before the pipeline counts as lost."""

    @model_validator(mode="after")
    def _credentials_have_their_places(self) -> GStreamerSource:
        check_placeholders(self.pipeline)
        _check_keys(self.pipeline, "pipeline", self.username, self.password_file)
        used = placeholders(self.pipeline)
        for key, value, place in (
            ("username", self.username, USERNAME),
            ("password_file", self.password_file, PASSWORD),
        ):
            if value is not None and place not in used:
                raise ValueError(f"{key} is given, but the pipeline has no {place}: write it where the value belongs")
        return self


class PatternSource(Section):
    """A moving test pattern: a live camera without hardware."""

    type: Literal["pattern"]
    width: int = Field(default=640, ge=16, le=8192)
    """Width in pixels."""
    height: int = Field(default=480, ge=16, le=8192)
    """Height in pixels."""
    fps: float = Field(default=30.0, gt=0.0, le=1000.0)
    """Frames per second."""
    seed: int = Field(default=0, ge=0)
    """Seed of the pattern: colour, motion and speed follow from it."""


AddressedSource = RtspSource | StreamSource | HttpSource
"""Sources with a URL and credentials."""

SourceConfig = (
    FileSource
    | ImagesSource
    | FolderSource
    | ImageSource
    | RtspSource
    | HttpSource
    | StreamSource
    | V4l2Source
    | CsiSource
    | GStreamerSource
    | PatternSource
)
