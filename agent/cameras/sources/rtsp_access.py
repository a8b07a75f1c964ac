"""What both readers of network cameras do before and after the opening: password, first question, refusal."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from agent.cameras.sources.lifecycle import Lifecycle
from agent.cameras.sources.rtsp_digest import Login
from agent.cameras.sources.rtsp_handshake import Answer, HandshakeFailed, describe_stream
from agent.config.sources import RtspSource
from agent.runtime.errors import ConfigError, SourceUnavailable
from agent.runtime.secrets import Secret, read_secret


def read_password(config: RtspSource, base_dir: Path, lifecycle: Lifecycle) -> Secret | None:
    """The camera's password, read anew at each opening so that it can be changed.

    Raises:
        SourceUnavailable: its file cannot be used.
    """
    if config.password_file is None:
        return None
    try:
        return read_secret(base_dir / config.password_file)
    except ConfigError as exc:
        raise lifecycle.unavailable("credentials", f"{lifecycle.description}: {exc.message}") from exc


def ask_camera(config: RtspSource, lifecycle: Lifecycle, password: Secret | None) -> Answer | None:
    """Ask for the stream, with user and password where the camera wants them; None where it cannot be asked (TLS).

    So a wrong password is tried once for each opening, and by nobody else.

    Raises:
        SourceUnavailable: the camera is not there, has no such stream, or refuses us.
    """
    login = None if config.username is None or password is None else Login(config.username, password)
    try:
        answer = describe_stream(
            urlsplit(config.url), timeout_s=config.open_timeout_s, interrupted=lifecycle.interrupted, login=login
        )
    except HandshakeFailed as exc:
        lifecycle.check_open()
        raise lifecycle.unavailable(exc.reason, f"{lifecycle.description} cannot be opened: {exc}") from exc
    if answer is None:
        return None
    if answer.status == 401 and config.username is None:
        raise lifecycle.unavailable(
            "credentials",
            f"{lifecycle.description} asks for a user (401) and none is configured. Set `username` and "
            "`password_file`",
        )
    if answer.status in (401, 403) and answer.was_logged_in:
        why = "its password is wrong" if answer.status == 401 else "it may not see this stream"
        raise lifecycle.unavailable(
            "credentials",
            f"{lifecycle.description} refused the user {config.username!r} ({answer.status}): {why}, or the camera "
            "has locked us out for a while. Check `username` and the first line of `password_file`",
            status=answer.status,
        )
    if answer.status == 404:
        raise lifecycle.unavailable(
            "no_such_stream",
            f"{lifecycle.description}: the camera is there and knows no such stream (404). "
            "Correct the path of the url: the camera's manual names it",
        )
    return answer


def not_opened(config: RtspSource, lifecycle: Lifecycle, answer: Answer | None, detail: str = "") -> SourceUnavailable:
    """The error of a camera that gave ``answer`` and then no video; ``detail`` is the library's word."""
    status = None if answer is None else answer.status
    if status in (401, 403):
        return lifecycle.unavailable(
            "credentials",
            f"{lifecycle.description} refused the user {config.username!r} or has no video for it (status {status} "
            "without credentials). Check `username` and the first line of `password_file`",
            status=status,
        )
    answered = "took the connection" if status is None else f"answered with status {status}"
    why = f" ({detail})" if detail else ""
    remedy = "set `codec` to what the camera sends" if config.reader == "gstreamer" else "set the camera to H.264"
    return lifecycle.unavailable(
        "no_stream",
        f"{lifecycle.description} {answered}, and no video came over {config.transport} within "
        f"{config.open_timeout_s:g} s{why}. Raise `open_timeout_s`, try the other `transport`, or {remedy}",
        status=status,
    )
