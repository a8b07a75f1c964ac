"""Error messages of network cameras and streams, for both readers: what happened, and what to do."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from agent.cameras.sources.failures import StreamFailed
from agent.cameras.sources.lifecycle import Lifecycle
from agent.config.sections.sources import AddressedSource, GStreamerSource, RtspSource, StreamSource
from agent.config.source_address import SourceAccess, open_access
from agent.runtime.errors import ConfigError, SourceLost, SourceUnavailable

_REACH = "Check the address, the camera's power and the network"
_GATEWAY = "Let a gateway such as ffmpeg or MediaMTX send MPEG-TS over UDP, RTSP or RTMP instead"
_OVER_TLS = ("rtsps", "https", "rtmps")
_STATUS_REMEDY = {
    400: "it does not understand the request: correct the path and the parameters in `url`",
    453: "it has no bandwidth left, often because too many viewers are connected: close other viewers, or take its "
    "second stream",
    454: "it has forgotten the session: it is restarting, or too many viewers are connected",
    500: "it failed inside: restart the camera, and update its firmware",
    503: "it is busy or starting: close other viewers, or wait",
}


def read_access(config: AddressedSource | GStreamerSource, base_dir: Path, lifecycle: Lifecycle) -> SourceAccess:
    """The camera's address with its credentials; the file is read each time, so a new password needs no restart.

    Raises:
        SourceUnavailable: the file cannot be used.
    """
    try:
        return open_access(config, base_dir)
    except ConfigError as exc:
        raise lifecycle.unavailable("credentials", f"{lifecycle.description}: {exc.message}") from exc


def not_opened_because(failure: StreamFailed, config: AddressedSource, lifecycle: Lifecycle) -> SourceUnavailable:
    """The error of a camera that cannot be opened."""
    reason, why = _why_not_opened(failure, config)
    return lifecycle.unavailable(
        reason, f"{lifecycle.description} cannot be opened: {why}", status=failure.status, detail=failure.detail
    )


def lost_because(failure: StreamFailed, lifecycle: Lifecycle, read_timeout_s: float) -> SourceLost:
    """The error of a camera that stopped delivering."""
    name = lifecycle.description
    if failure.kind == "timeout":
        return lifecycle.lost(
            "stalled",
            f"{name} is connected but sent no frame for {read_timeout_s:g} s, which is its `read_timeout_s`. Raise it "
            "for cameras slower than that",
        )
    if failure.kind == "undecodable":
        return lifecycle.lost(
            "damaged",
            f"{name} sends data, but no frame could be decoded for 30 s ({failure.detail}). Set the camera to H.264 "
            "with a key frame every few seconds",
        )
    if failure.kind == "colours":
        return lifecycle.lost(
            "colours",
            f"{name} codes its colours by {failure.detail}, but FFmpeg does not convert those. Set it to BT.709",
        )
    return lifecycle.lost("ended", f"{name} broke off: {failure.detail}. It is connected again", detail=failure.detail)


def _why_not_opened(failure: StreamFailed, config: AddressedSource) -> tuple[str, str]:
    """The reason as one word, and the text."""
    if failure.kind in ("unauthorized", "forbidden"):
        return "credentials", _refused(config, may_not=failure.kind == "forbidden")
    if failure.kind == "login":
        text = f"it asks for a login by {failure.detail}, but FFmpeg has only Basic and Digest with MD5"
        return "credentials", f"{text}. Set the authentication of RTSP on the camera to Digest with MD5, or to Basic"
    parts = urlsplit(config.url)
    if failure.kind == "failed" and parts.scheme.lower() in _OVER_TLS:
        text = f"no TLS connection to {parts.netloc} came about ({failure.detail})"
        return "not_understood", f"{text}. Check that this port is the one for {parts.scheme.upper()}"
    texts = {**_no_connection(failure, config), **_no_stream(failure, config)}
    return texts.get(failure.kind, ("no_stream", f"{failure.detail}. {_REACH}"))


def _no_connection(failure: StreamFailed, config: AddressedSource) -> dict[str, tuple[str, str]]:
    """By kind of failure: the server was not reached."""
    parts = urlsplit(config.url)
    unknown = f"the name {parts.hostname!r} cannot be resolved. Check the url and the device's DNS"
    refused = f"nothing listens at {parts.netloc}. Check the port, and enable the stream on the camera"
    unreachable = f"{parts.netloc} cannot be reached ({failure.detail}). {_REACH}"
    timeout = (
        f"{parts.netloc} gave no answer, or no video, within {config.open_timeout_s:g} s, which is `open_timeout_s`. "
        f"{_REACH}, and that this is the camera's port"
    )
    return {
        "unknown_host": ("unknown_host", unknown),
        "refused": ("refused", refused),
        "unreachable": ("unreachable", unreachable),
        "timeout": ("no_answer", timeout),
    }


def _no_stream(failure: StreamFailed, config: AddressedSource) -> dict[str, tuple[str, str]]:
    """By kind of failure: the server answered, but there is no video."""
    parts = urlsplit(config.url)
    not_found = (
        "the camera answers but has no such stream (404). Correct the path in `url`; the camera's manual lists it"
    )
    expected = "a stream" if isinstance(config, StreamSource) else parts.scheme.upper()
    not_understood = (
        f"{parts.netloc} closed the connection, or gave an answer that is not {expected} "
        f"({failure.detail}). Check the port; some cameras do so with too many viewers or after wrong passwords: "
        "close other viewers, and wait"
    )
    no_image = (
        f"{parts.netloc} answers, but with no image ({failure.detail}). Set `url` to the address of the image or the "
        "MJPEG stream itself, as the camera's manual lists it: a page, often the one for the login, is for browsers"
    )
    redirect = (
        f"{parts.netloc} redirects the agent, but to no image ({failure.detail}). Set `url` to the address of the "
        "images itself, or correct the redirection on the server"
    )
    return {
        "not_found": ("no_such_stream", not_found),
        "transport": ("no_stream", f"it does not send over this transport ({failure.detail}). {_transport(config)}"),
        "certificate": ("certificate", f"{failure.detail}. Name the authority that signed it in `ca_file`"),
        "protocol": ("not_supported", f"the FFmpeg of this installation does not speak {parts.scheme}. {_GATEWAY}"),
        "redirect": ("no_stream", redirect),
        "not_understood": ("not_understood", not_understood),
        "no_image": ("not_understood", no_image),
        "no_video": ("no_stream", f"{failure.detail}. Correct the path in `url`"),
        "codec": ("codec", f"{failure.detail}. Set the camera to H.264"),
        "status": ("refused_by_camera", _status(failure)),
    }


def _transport(config: AddressedSource) -> str:
    return f"It is {config.transport}: set the other `transport`" if isinstance(config, RtspSource) else _REACH


def _refused(config: AddressedSource, *, may_not: bool) -> str:
    if config.username is None:
        demand = "does not show this stream without a login (403)" if may_not else "requires a login (401)"
        return f"it {demand}, but no user is configured. Set `username` and `password_file`"
    why = "the user may not view this stream (403)" if may_not else "the password is wrong (401)"
    return (
        f"it refused the user {config.username!r}: {why}, or the camera has locked out this device for a while. Check "
        "`username` and the first line of `password_file`"
    )


def _status(failure: StreamFailed) -> str:
    known = _STATUS_REMEDY.get(failure.status or 0)
    if known is None:
        return f"the camera refused the stream ({failure.detail}). Correct the path in `url`"
    return f"the camera refused the stream ({failure.status}): {known}"
