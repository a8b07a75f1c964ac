"""Network cameras: RTSP by GStreamer's server and by that of the tests, JPEG over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent.config.sections.sources import HttpSource, RtspSource
from scripts.camera_kinds.files import write_clip
from scripts.camera_kinds.kinds import Kind, Stage
from scripts.camera_kinds.servers import InProcess, gst_rtsp, secret_file
from tests.fixtures.certificates import Authority
from tests.fixtures.http_camera import http_camera, jpeg
from tests.fixtures.mosquitto import free_port
from tests.fixtures.rtsp_server import RtspServer

_SCENE = (
    "videotestsrc is-live=true pattern=red ! video/x-raw,format=I420,width=160,height=240,framerate=25/1 ! "
    "videobox right=-160 fill=blue ! {encoder}"
)
_H264 = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 config-interval={sets}"
_ENCODERS = {
    "H.264": _H264.format(sets=-1),
    "H.264, parameter sets only in the SDP": _H264.format(sets=0),
    "H.265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph265pay name=pay0",
    "MJPEG": "jpegenc ! rtpjpegpay name=pay0",
    "VP8": "vp8enc deadline=1 keyframe-max-dist=25 ! rtpvp8pay name=pay0",
    "VP9": "vp9enc deadline=1 keyframe-max-dist=25 ! rtpvp9pay name=pay0",
}
_CLIPS = {
    # From files: GStreamer 1.22 has no encoder of these whose time stamps its server can use. Without a `max-ptime`
    # its payloader collects small frames until a packet is full.
    "MPEG-4 part 2": ("clip.mp4", "-c:v mpeg4 -q:v 3 -g 25",
                      "qtdemux ! mpeg4videoparse ! rtpmp4vpay name=pay0 config-interval=1 max-ptime=1"),
    "MPEG-2": ("clip.mkv", "-c:v mpeg2video -q:v 3 -g 25", "matroskademux ! mpegvideoparse ! rtpmpvpay name=pay0"),
}  # fmt: skip
_CLIP_S = 20.0
_PASSWORDS = {
    "plain": "secret",
    "with @:/#%?&": "p@s:/#%?&",
    "with blanks and quotes": " a \"b' ",
    "Unicode": "pässwörd€",
}


def camera_kinds() -> Iterator[Kind]:
    """All of them."""
    yield from _rtsp_kinds()
    yield from _login_kinds()
    yield from _http_kinds()


def _rtsp_kinds() -> Iterator[Kind]:
    for name, encoder in _ENCODERS.items():
        yield Kind("rtsp", name, _gst(encoder))
    for name, (file, options, payloader) in _CLIPS.items():
        yield Kind("rtsp", name, _gst_clip(file, options, payloader))
    yield Kind("rtsp", "H.264 over UDP", _gst(_ENCODERS["H.264"], "--udp", transport="udp"))
    yield Kind("rtsp", "only UDP, configured for TCP", _gst(_ENCODERS["H.264"], "--udp"))
    yield Kind("rtsp", "H.264, IPv6", _gst(_ENCODERS["H.264"], "--host", "::1"))
    yield Kind("rtsp", "H.264 over TLS (rtsps)", _gst_tls())
    yield Kind("rtsp", "H.264 over TLS (rtsps), wrong password", _gst_tls("hunter3"), "credentials")
    yield Kind("rtsp", "H.264, `reader: gstreamer`", _gst(_ENCODERS["H.264"], reader="gstreamer"))
    yield Kind("rtsp", "H.265, `reader: gstreamer`", _gst(_ENCODERS["H.265"], reader="gstreamer", codec="h265"))
    yield Kind("rtsp", "MJPEG, `reader: gstreamer`", _gst(_ENCODERS["MJPEG"], reader="gstreamer", codec="mjpeg"))
    for fps in (1.0, 5.0, 100.0):
        yield Kind("rtsp", f"{fps:g} frames a second", _own(fps=fps))
    yield Kind("rtsp", "a size that changes", _own(size_change=(5, (160, 120))))
    yield Kind("rtsp", "hangs up after 5 frames", _own(close_after=5), "ended")
    yield Kind("rtsp", "UDP with 2 % lost", _own(transports=("udp",), loss=0.02, fps=50.0, its={"transport": "udp"}))
    yield Kind("rtsp", "ends a session without requests after 2 s", _own(session_s=2, fps=10.0))


def _login_kinds() -> Iterator[Kind]:
    for method in ("basic", "digest"):
        for name, password in _PASSWORDS.items():
            yield Kind("rtsp", f"{method.capitalize()}, password {name}", _login(method, password, password))
        yield Kind(
            "rtsp", f"{method.capitalize()}, wrong password", _login(method, "secret", "hunter3"), "credentials"
        )
    yield Kind("rtsp", "Digest with SHA-256 alone", _own(
        its=_USER, credentials=("admin", "p@ss:/#w"), digest=True, algorithm="SHA-256"), "credentials")  # fmt: skip
    yield Kind("rtsp", "login, none configured", _login("digest", "secret", None), "credentials")


def _http_kinds() -> Iterator[Kind]:
    yield Kind("http", "MJPEG", _http("/mjpeg"), scene="")
    yield Kind("http", "MJPEG without Content-Length", _http("/mjpeg", has_length=False), scene="")
    damaged = [jpeg(9), b"\xff\xd8no", jpeg(99)]
    yield Kind("http", "MJPEG, a damaged image among good ones", _http("/mjpeg", parts=damaged), scene="")
    yield Kind("http", "snapshots", _http("/snapshot.jpg", etag=""), scene="")
    for login in ("basic", "digest", "sha256"):
        yield Kind("http", f"MJPEG, login {login}", _http("/mjpeg", login=login, its=_USER), scene="")
    yield Kind(
        "http", "wrong password", _http("/mjpeg", login="digest", user=("admin", "else"), its=_USER), "credentials"
    )
    yield Kind("http", "redirected", _http("/to//mjpeg"), scene="")
    yield Kind("http", "redirected for ever", _http("/forever"), "no_stream")
    yield Kind("http", "404", _http("/elsewhere"), "no_such_stream")
    yield Kind("http", "503", _http("/mjpeg", status=503), "refused_by_camera")
    yield Kind("http", "https with `ca_file`", _https(knows=True), scene="")
    yield Kind("http", "https, signed by nobody known", _https(knows=False), "certificate")


_USER = {"username": "admin", "password_file": "password"}


def _gst(encoder: str, *options: str, **settings: Any) -> Callable[[Path, ExitStack], Stage]:
    def make(_: Path, __: ExitStack) -> Stage:
        port = free_port()
        host = "[::1]" if "::1" in options else "127.0.0.1"
        config = RtspSource(type="rtsp", url=f"rtsp://{host}:{port}/camera", **settings)
        return Stage(config, gst_rtsp(port, _SCENE.format(encoder=encoder), *options))

    return make


def _gst_clip(file: str, options: str, payloader: str) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        clip, port = write_clip(folder / file, options, seconds=_CLIP_S), free_port()
        config = RtspSource(type="rtsp", url=f"rtsp://127.0.0.1:{port}/camera")
        return Stage(config, gst_rtsp(port, f"filesrc location={clip} ! {payloader}"))

    return make


def _gst_tls(given: str | None = None) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        made = Authority(folder / "ca").server("camera")
        port = free_port()
        options, settings = ["--tls", str(made.certificate), str(made.key)], dict[str, Any]()
        if given is not None:
            options += ["--login", "digest", "viewer", "secret"]
            settings = {"username": "viewer", "password_file": secret_file(folder, given)}
        config = RtspSource(type="rtsp", url=f"rtsps://127.0.0.1:{port}/camera", **settings)
        return Stage(config, gst_rtsp(port, _SCENE.format(encoder=_ENCODERS["H.264"]), *options))

    return make


def _login(method: str, password: str, given: str | None) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        port = free_port()
        settings: dict[str, Any] = {}
        if given is not None:
            settings = {"username": "viewer", "password_file": secret_file(folder, given)}
        config = RtspSource(type="rtsp", url=f"rtsp://127.0.0.1:{port}/camera", **settings)
        launch = _SCENE.format(encoder=_ENCODERS["H.264"])
        return Stage(config, gst_rtsp(port, launch, "--login", method, "viewer", password))

    return make


def _own(its: dict[str, Any] | None = None, **settings: Any) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        port = free_port()
        if its is _USER:
            secret_file(folder, "p@ss:/#w")
        config = RtspSource(type="rtsp", url=f"rtsp://127.0.0.1:{port}/camera", **(its or {}))
        return Stage(config, InProcess(lambda: RtspServer(folder, port=port, **settings)))

    return make


def _http(path: str, its: dict[str, str] | None = None, **settings: Any) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, stack: ExitStack) -> Stage:
        if its:
            secret_file(folder, "p@ss:/#w")
        port = free_port()
        config = HttpSource.model_validate(
            {"type": "http", "url": f"http://localhost:{port}{path}", "interval_s": 0.1, **(its or {})}
        )
        settings.setdefault("period_s", 0.04)
        if path.startswith("/snapshot"):
            # The server of the tests ends with its clients, and this one asks again and again.
            settings["port"] = port
            server = http_camera(**settings)
            stack.callback(stack.enter_context(server).stopping.set)
            return Stage(config)
        return Stage(config, InProcess(lambda: http_camera(port=port, **settings)))

    return make


def _https(*, knows: bool) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        import ssl

        made = Authority(folder / "ca").server("localhost")
        port = free_port()

        def serve() -> Any:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(made.certificate, made.key)
            return http_camera(context, port=port, period_s=0.04)

        ca_file = "ca/ca.pem" if knows else None
        return Stage(HttpSource(type="http", url=f"https://localhost:{port}/mjpeg", ca_file=ca_file), InProcess(serve))

    return make
