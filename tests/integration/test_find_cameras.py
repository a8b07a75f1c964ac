"""Cameras are found on real sockets, asked with the login that they want, and nothing that they send can do harm."""

from __future__ import annotations

import json
import socket
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agent.cli.doctor import doctor
from agent.config.sections.sources import RtspSource
from agent.runtime.errors import ConfigError, Unavailable, UsageError
from agent.runtime.secrets import Secret
from agent.tools.find_cameras.device import Login
from agent.tools.find_cameras.discovery import GROUPS, find
from agent.tools.find_cameras.report import FoundCamera, as_text, ask_all
from tests.fixtures.onvif_device import OnvifDevice, onvif_device
from tests.unit.test_find_cameras_soap import HOSTILE

LOGIN = Login("viewer", Secret("s3cr&t<"), "camera.password")


def _asked(device: OnvifDevice, login: Login | None = None, wait_s: float = 10.0) -> FoundCamera:
    (found,) = find(wait_s, at=[(device.host, device.udp_port)])
    return ask_all([found], login)[0]


def test_a_camera_is_found_once_with_a_section_for_each_stream() -> None:
    with onvif_device(profiles=("main", "sub")) as device:
        camera = _asked(device)
    assert (camera.found.name, camera.found.hardware, camera.found.sender) == ("Yard Cam", "M3045", "127.0.0.1")
    assert camera.error is None
    assert [(one.token, one.codec, one.width, one.height, one.fps) for one in camera.profiles] == [
        ("main", "H264", 1920, 1080, 25),
        ("sub", "H264", 1920, 1080, 25),
    ]
    text = as_text([camera])
    pasted = yaml.safe_load(text)
    assert list(pasted) == ["yard-cam-1", "yard-cam-2"]
    source = RtspSource.model_validate(pasted["yard-cam-2"]["source"])
    assert source.url == "rtsp://127.0.0.1:554/live/sub"
    assert "# Profile main: H264 1920x1080 at 25 fps" in text


@pytest.mark.parametrize("login", ["token", "digest"])
@pytest.mark.parametrize("ahead", [timedelta(), timedelta(days=-300)])
def test_the_login_that_the_camera_wants_is_given_by_its_own_clock(login: str, ahead: timedelta) -> None:
    with onvif_device(login=login, ahead=ahead) as device:
        assert _asked(device, LOGIN).profiles[0].source == {
            "type": "rtsp",
            "url": "rtsp://127.0.0.1:554/live/main",
            "username": "viewer",
            "password_file": "camera.password",
        }
        without = _asked(device).error
        assert without is not None
        assert "--username" in without
        before = len(device.requests)
        wrong = _asked(device, Login("viewer", Secret("wrong"), "f"))
        assert wrong.error is not None
        assert "refused the user 'viewer'" in wrong.error
        assert device.requests[before:].count("GetCapabilities") <= 2, "cameras lock out who tries too often"


def test_a_camera_on_ipv6_is_found() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with onvif_device(host="::1", stream="rtsp://[{host}]:554/{token}") as device:
        assert _asked(device).profiles[0].source == {"type": "rtsp", "url": "rtsp://[::1]:554/main"}


def test_a_question_to_everyone_reaches_a_camera_in_the_group() -> None:
    with onvif_device(group=GROUPS[0]) as device:
        found = find(0.5, interfaces=["lo"], port=device.udp_port)
        assert device.probes == 2, "a lost datagram is no lost camera"
    assert [one.addresses for one in found] == [(device.address,)]


def test_a_login_goes_only_to_the_host_that_answered() -> None:
    with onvif_device(host="127.0.0.2", login="token") as other, onvif_device(login="token") as device:
        device.addresses = [other.address, device.address, "http://[fe80::1]/onvif"]
        assert _asked(device, LOGIN).profiles[0].source is not None
        device.addresses = [other.address]
        camera = _asked(device, LOGIN)
        assert camera.error is not None
        assert "127.0.0.2" in camera.error
        device.addresses, device.media = None, other.address
        camera = _asked(device, LOGIN)
        assert camera.error is not None
        assert "media service" in camera.error
        assert other.requests == []


@pytest.mark.parametrize(
    ("stream", "host"),
    [("rtsp://10.9.8.7:554/live/{token}", "10.9.8.7"), ("rtsps://elsewhere.example/{token}", "elsewhere.example")],
)
@pytest.mark.parametrize("login", [LOGIN, None])
def test_a_stream_on_another_host_becomes_no_section(stream: str, host: str, login: Login | None) -> None:
    with onvif_device(stream=stream) as device:
        camera = _asked(device, login)
    assert yaml.safe_load(as_text([camera])) is None, "comments alone"
    error = camera.profiles[0].error
    assert error is not None
    assert f"it answers at 127.0.0.1, but names {host} for the stream" in error


def test_a_late_camera_is_found_while_there_is_time_and_spoils_nothing_after_it() -> None:
    with onvif_device(delay_s=0.4) as device:
        assert len(find(1.5, at=[("127.0.0.1", device.udp_port)])) == 1
        assert find(0.2, at=[("127.0.0.1", device.udp_port)]) == []
    assert find(0.2, at=[("127.0.0.1", device.udp_port)]) == [], "a closed port is nobody"


def test_an_answer_to_another_question_is_none() -> None:
    with onvif_device() as device:
        assert len(find(0.3, at=[("127.0.0.1", device.udp_port)])) == 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        old: list[bytes] = []

        def replay() -> None:
            question, sender = mute.recvfrom(65_535)
            old.append(question)
            mute.sendto(_answer_to("urn:uuid:00000000-0000-0000-0000-000000000000"), sender)

        thread = threading.Thread(target=replay)
        thread.start()
        assert find(0.3, at=[mute.getsockname()]) == []
        thread.join(10)
        assert old


def _answer_to(key: str) -> bytes:
    with onvif_device() as device, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        probe = (
            '<e xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/'
            f'discovery"><a:MessageID>{key}</a:MessageID><a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe'
            "</a:Action><d:Types>n:NetworkVideoTransmitter</d:Types></e>"
        )
        client.sendto(probe.encode(), ("127.0.0.1", device.udp_port))
        return client.recv(65_535)


def test_hostile_answers_to_the_question_are_left_out() -> None:
    with onvif_device() as device:
        for data in HOSTILE.values():
            device.datagram = data[:60_000]
            assert find(0.05, at=[("127.0.0.1", device.udp_port)]) == []


def test_hostile_answers_of_a_service_are_an_error_of_that_camera() -> None:
    with onvif_device() as device:
        (found,) = find(0.3, at=[("127.0.0.1", device.udp_port)])
        for data in HOSTILE.values():
            device.answer = data
            camera = ask_all([found], LOGIN)[0]
            assert camera.error is not None
            assert "cannot be read" in camera.error


def test_what_a_camera_says_cannot_write_into_the_configuration() -> None:
    evil = "onvif://www.onvif.org/name/x%0Aevil:%20true%1b[2J"
    with onvif_device(scopes=evil, stream="rtsp://h/1&#10;evil: true", profiles=("a&quot;: b&#10;c: d",)) as device:
        camera = _asked(device)
    assert yaml.safe_load(as_text([camera])) is None, "comments alone"
    assert camera.profiles[0].error is not None
    assert "cannot be used" in camera.profiles[0].error


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(doctor, ["--find-cameras", "--wait", "500ms", *arguments], standalone_mode=False)


def test_the_command_prints_sources_or_json(tmp_path: Path) -> None:
    password = tmp_path / "camera.password"
    password.write_text("s3cr&t<\n")
    password.chmod(0o600)
    with onvif_device(login="token") as device:
        at = f"127.0.0.1:{device.udp_port}"
        shown = _run("--at", at, "--username", "viewer", "--password-file", str(password))
        printed = _run("--at", at, "--username", "viewer", "--password-file", str(password), "--json")
    assert shown.return_value == printed.return_value == 0
    assert yaml.safe_load(shown.stdout)["yard-cam-1"]["source"]["password_file"] == str(password)
    (camera,) = json.loads(printed.stdout)["cameras"]
    assert camera["profiles"][0]["source"]["url"] == "rtsp://127.0.0.1:554/live/main"
    assert "s3cr" not in shown.stdout + printed.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("--at", "127.0.0.1:1"), Unavailable, "no ONVIF camera answered"),
        (("--wait", "99h"), UsageError, "at most 60 s"),
        (("--at", "127.0.0.1:0"), UsageError, "--at"),
        (("--at", "http://camera"), UsageError, "--at"),
        (("--at", "no-such-host.invalid"), Unavailable, "cannot be resolved"),
        (("--username", "a"), UsageError, "belong together"),
        (("--username", "a", "--password-file", "/nowhere"), ConfigError, "/nowhere"),
        (("--thermals",), UsageError, "--thermals"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], error: type[Exception], text: str) -> None:
    found = _run(*arguments)
    assert isinstance(found.exception, error)
    assert text in str(found.exception)
