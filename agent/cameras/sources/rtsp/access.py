"""Opening a network camera, for both readers: password, first request, error messages."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from agent.cameras.sources.lifecycle import Lifecycle
from agent.cameras.sources.rtsp.digest import Login
from agent.cameras.sources.rtsp.handshake import Answer, HandshakeFailed, describe_stream
from agent.config.source_address import SourceAccess, open_access
from agent.config.sources import GStreamerSource, RtspSource
from agent.runtime.errors import ConfigError, SourceUnavailable


def read_access(config: RtspSource | GStreamerSource, base_dir: Path, lifecycle: Lifecycle) -> SourceAccess:
    """The camera's address with its credentials; the file is read each time, so a new password needs no restart.

    Raises:
        SourceUnavailable: the file cannot be used.
    """
    try:
        return open_access(config, base_dir)
    except ConfigError as exc:
        raise lifecycle.unavailable("credentials", f"{lifecycle.description}: {exc.message}") from exc


def ask_camera(config: RtspSource, lifecycle: Lifecycle, access: SourceAccess) -> Answer | None:
    """Ask the camera for the stream, with user and password if it requires them; None over TLS.

    A refusal ends the attempt here, before FFmpeg or GStreamer retry the password: many cameras lock an address out
    after a few failures.

    Raises:
        SourceUnavailable: the camera does not answer, has no such stream, or refuses the user.
    """
    password = access.password
    login = None if config.username is None or password is None else Login(config.username, password)
    try:
        answer = describe_stream(
            urlsplit(access.request_url.reveal()),
            timeout_s=config.open_timeout_s,
            interrupted=lifecycle.interrupted,
            login=login,
        )
    except HandshakeFailed as exc:
        lifecycle.check_open()
        why = access.cleaned(str(exc))
        raise lifecycle.unavailable(exc.reason, f"{lifecycle.description} cannot be opened: {why}") from exc
    if answer is None:
        return None
    if answer.status == 401 and config.username is None:
        raise lifecycle.unavailable(
            "credentials",
            f"{lifecycle.description} requires a login (401), but no user is configured. Set `username` and "
            "`password_file`",
        )
    if answer.status in (401, 403) and answer.with_credentials:
        why = "the password is wrong" if answer.status == 401 else "the user may not view this stream"
        raise lifecycle.unavailable(
            "credentials",
            f"{lifecycle.description} refused the user {config.username!r} ({answer.status}): {why}, or the camera "
            "has locked out this device for a while. Check `username` and the first line of `password_file`",
            status=answer.status,
        )
    if answer.status == 404:
        raise lifecycle.unavailable(
            "no_such_stream",
            f"{lifecycle.description}: the camera answers but has no such stream (404). "
            "Correct the path in `url`; the camera's manual lists it",
        )
    return answer


def not_opened(config: RtspSource, lifecycle: Lifecycle, answer: Answer | None, detail: str = "") -> SourceUnavailable:
    """The error of a camera that gave ``answer`` and then no video; ``detail`` is the library's message."""
    status = None if answer is None else answer.status
    if status in (401, 403):
        return lifecycle.unavailable(
            "credentials",
            f"{lifecycle.description} refused the user {config.username!r}, or has no video for it (status {status} "
            "without credentials). Check `username` and the first line of `password_file`",
            status=status,
        )
    answered = "accepted the connection" if status is None else f"answered with status {status}"
    why = f" ({detail})" if detail else ""
    remedy = "set `codec` to what the camera sends" if config.reader == "gstreamer" else "set the camera to H.264"
    return lifecycle.unavailable(
        "no_stream",
        f"{lifecycle.description} {answered}, but no video came over {config.transport} within "
        f"{config.open_timeout_s:g} s{why}. Raise `open_timeout_s`, try the other `transport`, or {remedy}",
        status=status,
    )
