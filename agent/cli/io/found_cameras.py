"""The part of `agent doctor` that finds cameras on the network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.runtime.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from agent.tools.find_cameras.device import Login

_MAX_WAIT_S = 60.0


def find_cameras(
    username: str | None, password_file: Path | None, at: tuple[str, ...], wait_s: float, *, as_json: bool
) -> int:
    """Print the cameras that answer; see the options of `agent doctor`.

    Raises:
        Unavailable: none answers, or a host cannot be resolved.
        UsageError, ConfigError: an option, or the password file, cannot be used.
    """
    from agent.cli.io.console import Console
    from agent.tools.find_cameras.discovery import find
    from agent.tools.find_cameras.report import as_text, ask_all

    if wait_s > _MAX_WAIT_S:
        raise UsageError(f"--wait is {wait_s:g} s, but cameras answer within seconds: give at most {_MAX_WAIT_S:g} s")
    login, places = _login(username, password_file), [_place(one) for one in at]
    with Console(stderr=True).status("asking for cameras ..."):
        try:
            found = find(wait_s, at=places)
        except socket.gaierror as exc:
            raise Unavailable(
                f"a host given with --at cannot be resolved ({exc.strerror}); write its address"
            ) from exc
        cameras = ask_all(found, login)
    if as_json:
        print(json.dumps({"cameras": [camera.as_dict() for camera in cameras]}, indent=2))
    elif cameras:
        print(as_text(cameras))
    if not cameras:
        raise Unavailable(
            f"no ONVIF camera answered within {wait_s:g} s. Enable ONVIF and discovery on the camera, run this on its "
            "network, or ask it alone with --at HOST: switches and Wi-Fi often hold back multicast"
        )
    return 0


def _login(username: str | None, password_file: Path | None) -> Login | None:
    from agent.runtime.secrets import read_secret
    from agent.tools.find_cameras.device import Login

    if username is None and password_file is None:
        return None
    if not username or password_file is None:
        raise UsageError("--username and --password-file belong together, but one of them is missing: give both")
    return Login(username, read_secret(password_file), str(password_file))


def _place(text: str) -> tuple[str, int]:
    """Host and port of HOST, HOST:PORT or [IPV6]:PORT."""
    from agent.tools.find_cameras.discovery import PORT

    is_plain_ipv6 = text.count(":") > 1 and not text.startswith("[")
    try:
        parts = urlsplit(f"//[{text}]" if is_plain_ipv6 else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or parts.path or parts.query or "@" in text or " " in text:
        raise UsageError(f"--at is {text!r}, but must be a host such as 10.0.0.21 or camera.local:3702")
    return host, port or PORT
