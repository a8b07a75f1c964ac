"""The section of a network camera: credentials are refused in `url`, and never repeated in the error."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from agent.config.sections.sources import HttpSource, RtspSource, StreamSource
from agent.config.source_address import known_addresses, open_access, public_address
from agent.runtime.secrets import redact

CANARY = "hunter2-CANARY"


@pytest.mark.parametrize(
    "url",
    [
        f"rtsp://admin:{CANARY}@camera/1",
        f"rtsp://{CANARY}@camera/1",
        f"rtsps://a:{CANARY}%40b@10.0.0.1:322/",
        *(f"rtsp://admin:{CANARY}{letter}x@camera/1" for letter in "@:/?#"),
        f"rtsp://admin:554/{CANARY}@camera/1",
    ],
)
def test_credentials_in_the_url_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="`username` and the password to") as caught:
        RtspSource(type="rtsp", url=url)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("url", ["rtsp:///camera", "rtsp://camera:0/1", "rtsp://camera:99999/1", "rtsp://[::1/x"])
def test_url_without_a_usable_host_and_port_is_refused(url: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="rtsp://host:port/path"):
        RtspSource(type="rtsp", url=url)


@pytest.mark.parametrize("url", ["http://camera/1", "camera", "rtsp://", "rtsp://cam era/1"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        RtspSource(type="rtsp", url=url)


@pytest.mark.parametrize("url", ["rtsp://camera", "rtsp://[fe80::1]:8554/x", "rtsps://10.0.0.1/a?channel=1&sub=0"])
def test_addresses_without_credentials_are_accepted(url: str) -> None:
    assert RtspSource(type="rtsp", url=url).url == url


@pytest.mark.parametrize("scheme", ["udp", "tcp", "srt"])
def test_a_stream_whose_scheme_has_no_usual_port_needs_one(scheme: str) -> None:
    for url in (f"{scheme}://239.0.0.1", f"{scheme}://239.0.0.1?fifo_size=5:5", f"{scheme}://[ff02::1]/"):
        with pytest.raises(pydantic.ValidationError, match=f"no port, but {scheme}:// has no usual one"):
            StreamSource(type="stream", url=url)
    for url in (f"{scheme}://239.0.0.1:5000", f"{scheme}://[ff02::1]:5000?fifo_size=5"):
        assert StreamSource(type="stream", url=url).url == url
        with pytest.raises(pydantic.ValidationError, match="has no login"):
            StreamSource(type="stream", url=url, username="viewer")


def test_a_passphrase_of_srt_needs_its_place_and_no_user() -> None:
    url = "srt://10.0.0.9:9000?passphrase={password}"
    assert StreamSource(type="stream", url=url, password_file="passphrase").username is None
    with pytest.raises(pydantic.ValidationError, match=r"no \{password\}: write srt://host:port\?passphrase="):
        StreamSource(type="stream", url="srt://10.0.0.9:9000", password_file="passphrase")
    with pytest.raises(pydantic.ValidationError, match="password_file is not given"):
        StreamSource(type="stream", url=url)
    with pytest.raises(pydantic.ValidationError, match="password_file is given without username"):
        StreamSource(type="stream", url="http://10.0.0.9/{password}/a.ts", password_file="passphrase")


@pytest.mark.parametrize("url", ["udp://@239.0.0.1:5000", "udp://@:5000", "udp://:5000"])
def test_other_writings_of_a_udp_address_are_refused_with_ours(url: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"udp://0\.0\.0\.0:5000 for all"):
        StreamSource(type="stream", url=url)


def test_password_without_a_user_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="password_file is given without username"):
        RtspSource(type="rtsp", url="rtsp://camera/1", password_file="password")


@pytest.mark.parametrize("url", ["http://camera/1", "udp://239.0.0.1:5000", "rtmp://camera/1"])
def test_an_authority_without_tls_is_refused(url: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="ca_file is given, but the url starts with"):
        StreamSource(type="stream", url=url, ca_file="ca.pem")
    if url.startswith("http:"):
        with pytest.raises(pydantic.ValidationError, match="has no certificates"):
            HttpSource(type="http", url=url, ca_file="ca.pem")
    assert HttpSource(type="http", url="https://camera/1", ca_file="ca.pem").ca_file == "ca.pem"
    assert StreamSource(type="stream", url="rtmps://camera/1", ca_file="ca.pem").ca_file == "ca.pem"


@pytest.mark.parametrize("url", ["rtsp://cam-17.example", "rtsp://cam-17.example:554", "rtsp://cam-17.example:8554"])
def test_an_address_without_a_path_is_shown_as_it_is_published(url: str) -> None:
    source = RtspSource(type="rtsp", url=url)
    known = known_addresses([source])
    access = open_access(source, Path())
    assert redact(f"{public_address(source)} is lost") == f"{public_address(source)} is lost"
    assert access.cleaned(public_address(source)) == public_address(source)
    assert len(known) == 1


def test_a_path_is_hidden_all_the_same() -> None:
    source = RtspSource(type="rtsp", url="rtsp://cam-18.example/token-CANARY")
    known = known_addresses([source])
    assert redact(f"at {source.url}") == f"at {public_address(source)}"
    assert "token-CANARY" not in str(known) + repr(known)
