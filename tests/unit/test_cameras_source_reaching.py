"""Openings that can be left behind, and whether a server is there."""

from __future__ import annotations

import socket
import threading

import pytest

from agent.cameras.sources.failures import Interrupted, StreamFailed
from agent.cameras.sources.reaching import Opening, is_server_there, unknown_login
from agent.config.sections.sources import HttpSource, RtspSource, StreamSource
from scripts.camera_kinds.servers import answering
from tests.fixtures.deadlines import wait_until
from tests.fixtures.rtsp_server import silent_listener

_NEVER = threading.Event()


def test_an_opening_gives_what_it_opened_or_the_error() -> None:
    discarded: list[str] = []
    assert Opening(lambda: "stream", discarded.append).wait(_NEVER) == "stream"
    assert discarded == []

    def fail() -> str:
        raise StreamFailed("refused", "nothing listens")

    with pytest.raises(StreamFailed, match="nothing listens"):
        Opening(fail, discarded.append).wait(_NEVER)


def test_an_interrupted_opening_is_left_behind_and_what_it_opens_is_closed() -> None:
    interrupted, go_on, discarded = threading.Event(), threading.Event(), list[str]()

    def open_slowly() -> str:
        interrupted.set()
        assert go_on.wait(30.0)
        return "stream"

    with pytest.raises(Interrupted):
        Opening(open_slowly, discarded.append).wait(interrupted)
    assert discarded == []
    go_on.set()
    wait_until(lambda: discarded == ["stream"], within_s=20)


def test_a_server_is_there_if_it_accepts_a_connection_on_which_nothing_is_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20.0)
        port = listener.getsockname()[1]
        assert is_server_there(RtspSource(type="rtsp", url=f"rtsp://127.0.0.1:{port}/1"), _NEVER)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20.0)
            assert connection.recv(16) == b""
    assert is_server_there(RtspSource(type="rtsp", url=f"rtsp://127.0.0.1:{port}/1"), _NEVER) is False
    assert is_server_there(HttpSource(type="http", url=f"http://127.0.0.1:{port}/1"), _NEVER) is False


_SHA = 'Digest realm="a", nonce="b", algorithm=SHA-256'


@pytest.mark.parametrize(
    ("challenges", "login"),
    [
        ([_SHA], "Digest with SHA-256"),
        ([_SHA, _SHA.replace("SHA-256", '"SHA-512-256"')], "Digest with SHA-256 or Digest with SHA-512-256"),
        (["Negotiate"], "Negotiate"),
        ([_SHA, 'Digest realm="a", nonce="b"'], None),
        ([_SHA, 'digest realm="a", algorithm=md5'], None),
        (['Basic realm="a"', _SHA], None),
        ([], None),
    ],
)  # fmt: skip
def test_a_login_that_ffmpeg_lacks_is_known_by_what_the_camera_offers(
    challenges: list[str], login: str | None
) -> None:
    lines = "".join(f"WWW-Authenticate: {one}\r\n" for one in challenges)
    answer = f"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n{lines}\r\n".encode()
    with answering(lambda _: answer) as port:
        assert unknown_login(f"rtsp://127.0.0.1:{port}/1", 20.0) == login


def test_no_login_is_known_of_a_camera_that_says_nothing() -> None:
    with answering(lambda _: b"") as port:
        assert unknown_login(f"rtsp://127.0.0.1:{port}/1", 20.0) is None
        assert unknown_login(f"rtsps://127.0.0.1:{port}/1", 20.0) is None
    with silent_listener() as port:
        assert unknown_login(f"rtsp://127.0.0.1:{port}/1", 0.1) is None
    assert unknown_login(f"rtsp://127.0.0.1:{port}/1", 1.0) is None


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 80], ids=["unknown", "empty-part", "long"])
def test_no_server_is_there_under_a_name_that_does_not_exist(host: str) -> None:
    assert is_server_there(RtspSource(type="rtsp", url=f"rtsp://{host}/1"), _NEVER) is False


@pytest.mark.parametrize("url", ["udp://239.0.0.1:5000", "srt://127.0.0.1:9000", "tcp://127.0.0.1:9000"])
def test_nobody_is_asked_about_datagrams_and_bare_tcp(url: str) -> None:
    assert is_server_there(StreamSource(type="stream", url=url), _NEVER) is None


def test_an_interruption_ends_the_question() -> None:
    interrupted = threading.Event()
    interrupted.set()
    # 192.0.2.0/24 is for documentation: nobody answers (RFC 5737).
    assert is_server_there(RtspSource(type="rtsp", url="rtsp://192.0.2.1/1"), interrupted) is False
