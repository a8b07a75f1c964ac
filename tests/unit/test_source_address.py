"""What is published of a source's address, and how credentials get into it."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from typing import get_args
from urllib.parse import unquote, urlsplit

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.credentials import filled_pipeline, filled_url
from agent.config.dump import public_config, public_yaml
from agent.config.loader import load_config
from agent.config.sections.sources import GStreamerSource, RtspSource, SourceConfig
from agent.config.source_address import PUBLIC_KEYS, open_access, public_address, public_value
from agent.runtime.errors import ConfigError
from agent.runtime.secrets import Secret, redact

CANARY = "Qx7CANARYzz"


def _rtsp(url: str, **keys: object) -> RtspSource:
    return RtspSource.model_validate({"type": "rtsp", "url": url, **keys})


def _gstreamer(pipeline: str, **keys: object) -> GStreamerSource:
    return GStreamerSource.model_validate({"type": "gstreamer", "pipeline": pipeline, **keys})


def _password(directory: Path, text: str) -> str:
    file = directory / "password"
    file.write_text(text + "\n", encoding="utf-8")
    file.chmod(0o600)
    return str(file)


@pytest.mark.parametrize(
    ("url", "start", "has_hash"),
    [
        ("rtsp://10.0.0.5", "rtsp://10.0.0.5:554/", False),
        ("RTSP://10.0.0.5/", "rtsp://10.0.0.5:554/", False),
        ("rtsps://[fe80::1]:8554/a", "rtsps://[fe80::1]:8554/", True),
        ("rtsp://cam:1/a?b=c", "rtsp://cam:1/", True),
        ("rtsp://cam/?b=c", "rtsp://cam:554/", True),
        ("rtsp://cam/#b", "rtsp://cam:554/", True),
    ],
)
def test_an_address_is_scheme_host_port_and_a_hash(url: str, start: str, has_hash: bool) -> None:
    # Built without validation: this page takes the addresses of every later kind of source, too.
    address = public_address(RtspSource.model_construct(type="rtsp", url=url))
    assert address.startswith(start)
    left = address.removeprefix(start)
    assert (len(left) == 9 and left[0] == "#" and int(left[1:], 16) >= 0) if has_hash else left == ""


def test_the_hash_tells_addresses_apart_and_stays_the_same() -> None:
    one, two = public_address(_rtsp("rtsp://cam/1")), public_address(_rtsp("rtsp://cam/2"))
    assert one != two
    assert one == public_address(_rtsp("rtsp://cam/1")) == "rtsp://cam:554/#0de31d22"
    assert public_address(_rtsp("rtsp://mac/1")).partition("#")[2] != one.partition("#")[2]


PLACES = [
    {"type": "rtsp", "url": f"rtsp://cam/live/{CANARY}/1"},
    {"type": "rtsp", "url": f"rtsp://cam/{CANARY}.sdp"},
    {"type": "rtsp", "url": f"rtsp://cam/user=admin_password={CANARY}_channel=1_stream=0.sdp"},
    *(
        {"type": "rtsp", "url": f"rtsp://cam/live?user=a&{name}={CANARY}&x=1"}
        for name in ("pass", "psw", "access_token", "authbasic", "k")
    ),
    {"type": "rtsp", "url": f"rtsp://cam/live#{CANARY}"},
    {"type": "rtsp", "url": f"rtsp://cam/live?{CANARY}", "reader": "gstreamer"},
    {"type": "gstreamer", "pipeline": f"rtspsrc location=rtsp://cam/1 user-id=me user-pw={CANARY} ! decodebin"},
    {"type": "gstreamer", "pipeline": f'rtspsrc location="rtsp://me:{CANARY}@cam/1" ! decodebin'},
    {"type": "gstreamer", "pipeline": f"souphttpsrc location=http://c/ extra-headers=x,Cookie={CANARY} ! jpegdec"},
    {"type": "gstreamer", "pipeline": f"souphttpsrc location=http://c/ proxy=http://u:{CANARY}@proxy ! jpegdec"},
]


def _piece(address: str) -> str:
    """The part with the canary that a library may repeat on its own: a segment, a parameter's value, a property's."""
    return next(
        piece
        for piece in re.split(r"[ /?&#\"@]|user-pw=|extra-headers=|[a-z_]+=(?=Qx.*&)|me:|u:", address)
        if CANARY in piece
    )


@pytest.mark.parametrize("source", PLACES, ids=lambda source: next(k for k in source if k != "type"))
def test_a_token_anywhere_in_an_address_is_in_no_published_text(tmp_path: Path, source: dict[str, str]) -> None:
    file = tmp_path / "agent.yaml"
    camera = {"source": source, "classify": [{"model": "inspect"}]}
    file.write_text(json.dumps({"version": 1, "models": {"inspect": {"package": "demo"}}, "cameras": {"a": camera}}))
    loaded = load_config(file)
    config = loaded.config.cameras["a"].source
    assert isinstance(config, RtspSource | GStreamerSource)
    address = next(text for key, text in source.items() if key in {"url", "pipeline"})
    seen = {
        "address": public_address(config),
        "check": public_yaml(loaded.config),
        "json": json.dumps(public_config(loaded.config)),
        "repr": repr(loaded),
        "warnings": " ".join(loaded.warnings),
        "redacted": redact(f"[Errno 111] {address}: refused; {json.dumps(address)}; {address!r}"),
        "library": open_access(config, tmp_path).cleaned(f"cannot open {address}, {_piece(address)}"),
    }
    assert [name for name, text in seen.items() if CANARY in text] == []
    assert seen["address"] in seen["check"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("url", f"rtsp://me:{CANARY}@cam/1"),
        ("url", f"htp://me:{CANARY}@cam/1"),
        ("url", f"rtsp://cam:{CANARY}/1"),
        ("url", f"rtsp://cam/{CANARY} x"),
        ("username", [CANARY]),
        ("password_file", {CANARY: 1}),
        ("transport", 1),
        ("fps", CANARY),
        ("priority", CANARY),
    ],
)
def test_a_refused_configuration_does_not_repeat_its_values(tmp_path: Path, key: str, value: object) -> None:
    source = {"type": "rtsp", "url": f"rtsp://cam/{CANARY}", key: value}
    camera = {"source": source, "classify": [{"model": "inspect"}]}
    document = {"version": 1, "models": {"inspect": {"package": "demo"}}, "cameras": {"a": camera}}
    file = tmp_path / "agent.yaml"
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert CANARY not in caught.value.message + repr(caught.value.fields)
    assert f"cameras.a.source.{key}" in caught.value.message


def test_a_broker_address_with_more_than_host_and_port_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
    document = {"version": 1, "models": {"inspect": {"package": "demo"}}, "cameras": {"a": camera}}
    file.write_text(json.dumps({**document, "mqtt": {"broker": f"mqtt://host/{CANARY}"}}))
    with pytest.raises(ConfigError, match=r"broker .*must look like") as caught:
        load_config(file)
    assert CANARY not in caught.value.message


def test_credentials_go_in_front_of_the_host_unless_the_url_has_places_for_them(tmp_path: Path) -> None:
    keys = {"username": "ad min", "password_file": _password(tmp_path, "p@/ß%41")}
    word = "p%40%2F%C3%9F%2541"
    for url, whole, request in (
        ("rtsp://cam/1", f"rtsp://ad%20min:{word}@cam/1", "rtsp://cam/1"),
        ("rtsp://{username}:{password}@cam/1", f"rtsp://ad%20min:{word}@cam/1", "rtsp://cam/1"),
        ("rtsp://cam/u={username}_p={password}.sdp", f"rtsp://cam/u=ad%20min_p={word}.sdp", None),
        ("rtsp://cam/1?p={password}", f"rtsp://cam/1?p={word}", None),
    ):
        access = open_access(_rtsp(url, **keys), tmp_path)
        assert access.private.reveal() == whole
        assert access.request_url.reveal() == (whole if request is None else request)
        assert access.public == public_address(_rtsp(url, **keys))
        text = f"{whole}: 401; {access.request_url.reveal()}; password p@/ß%41 or {word}"
        assert "p@" not in access.cleaned(text)
        assert word not in access.cleaned(text)
        assert "41" not in repr(access)


def test_a_short_password_is_cleaned_too(tmp_path: Path) -> None:
    access = open_access(_rtsp("rtsp://cam/1", username="me", password_file=_password(tmp_path, "a&b")), tmp_path)
    assert "a&b" not in access.cleaned("could not log in with a&b at rtsp://me:a%26b@cam/1")
    assert "a%26b" not in access.cleaned("could not log in with a&b at rtsp://me:a%26b@cam/1")


@given(st.text(min_size=1).filter(lambda text: "\x00" not in text), st.text(min_size=1))
def test_a_url_gives_back_the_exact_credentials(username: str, password: str) -> None:
    username, password = (text.encode("utf-8", "ignore").decode() or "x" for text in (username, password))
    whole, request = filled_url("rtsp://cam:554/1", username, password)
    parts = urlsplit(whole)
    assert (parts.hostname, parts.port, parts.path, request) == ("cam", 554, "/1", "rtsp://cam:554/1")
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == (username, password)


def test_credentials_in_a_pipeline_are_escaped_for_where_they_stand() -> None:
    pipeline = 'rtspsrc location="rtsp://{username}:{password}@cam/1" user-id={username} user-pw="{password}" ! x'
    assert filled_pipeline(pipeline, "me", "a ! b/{username}") == (
        'rtspsrc location="rtsp://me:a%20%21%20b%2F%7Busername%7D@cam/1" user-id=me '
        'user-pw=\\"a\\ \\!\\ b\\/\\{username\\}\\" ! x'
    )


@pytest.mark.parametrize(
    ("pipeline", "keys", "words"),
    [
        ("x user-pw={password} ! y", {}, "has {password}, but password_file is not given"),
        ("x user-id={username} ! y", {}, "has {username}, but username is not given"),
        ("x ! y", {"username": "me"}, "username is given, but the pipeline has no {username}"),
        ("x u={username} ! y", {"username": "me", "password_file": "f"}, "password_file is given, but the pipeline"),
        ("{password} ! y", {"password_file": "f"}, "neither inside a URL nor the whole value"),
        ("x h=a{password} ! y", {"password_file": "f"}, "neither inside a URL nor the whole value"),
        ("x h='a {password}://' ! y", {"password_file": "f"}, "neither inside a URL nor the whole value"),
        ("x p={password} ! {password}", {"password_file": "f"}, "neither inside a URL nor the whole value"),
    ],
)
def test_a_placeholder_without_value_or_place_is_refused(pipeline: str, keys: dict[str, str], words: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        _gstreamer(pipeline, **keys)
    assert words in str(caught.value)


def test_a_url_with_a_placeholder_needs_the_value() -> None:
    with pytest.raises(pydantic.ValidationError, match="password_file is not given"):
        _rtsp("rtsp://cam/p={password}", username="me")


@pytest.mark.parametrize("pipeline", ["a user-pw=word ! b", "a location=rtsp://me:word@cam/1 ! b"])
def test_a_password_in_a_pipeline_is_a_warning_that_says_where_it_belongs(tmp_path: Path, pipeline: str) -> None:
    file = tmp_path / "agent.yaml"
    camera = {"source": {"type": "gstreamer", "pipeline": pipeline}, "classify": [{"model": "inspect"}]}
    document = {"version": 1, "models": {"inspect": {"package": "demo"}}, "cameras": {"a": camera}}
    file.write_text(json.dumps(document))
    kept = load_config(file)  # as at a reload: the addresses of the old configuration are known secrets
    for loaded in (kept, load_config(file)):
        assert [line for line in loaded.warnings if "seems to hold a password" in line and "password_file" in line]


def test_a_text_of_a_source_is_hidden_unless_it_is_named_as_public() -> None:
    """A key that a later kind of source brings is hidden, at any depth."""
    headers = {"Authorization": CANARY, "X": [CANARY, 5]}
    shown = {key: public_value(key, value) for key, value in {"headers": headers, "token": CANARY, "n": 3}.items()}
    assert CANARY not in json.dumps(shown)
    assert (shown["n"], re.fullmatch("#[0-9a-f]{8}", str(shown["token"])) is not None) == (3, True)


def test_every_key_of_every_kind_of_source_is_public_or_an_address() -> None:
    texts = {
        name
        for kind in get_args(SourceConfig)
        for name, field in kind.model_fields.items()
        if "str" in str(field.annotation) or "Literal" in str(field.annotation)
    }
    assert texts - PUBLIC_KEYS == {"url", "pipeline"}


def test_secrets_that_come_while_another_thread_logs_do_not_disturb_it() -> None:
    """A camera that connects makes secrets and forgets them, on its own thread."""
    stop = threading.Event()
    kept = [Secret(f"secret-{number}") for number in range(1000)]  # long to go through, so that others come meanwhile

    def make() -> None:
        while not stop.is_set():
            Secret("forgotten at once")

    threads = [threading.Thread(target=make) for _ in range(2)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            assert redact("nothing to hide") == "nothing to hide"
    finally:
        sys.setswitchinterval(usual)
        stop.set()
        for thread in threads:
            thread.join()
    assert len(kept) == 1000
