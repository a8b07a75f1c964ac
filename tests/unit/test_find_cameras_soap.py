"""Answers from the network are read within limits; the token is that of the ONVIF guide."""

from __future__ import annotations

import base64
from datetime import datetime, timezone
from xml.etree import ElementTree as ET

import pytest

from agent.runtime.secrets import Secret
from agent.tools.find_cameras.device import Login, _without_login
from agent.tools.find_cameras.discovery import Found, host_of, matches
from agent.tools.find_cameras.soap import MAX_BYTES, NotSoap, SoapFault, body_of, envelope, username_token

GOOD = envelope("<x>y</x>")
LAUGHS = b"".join(
    [
        b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a0 "ha">',
        *(b'<!ENTITY a%d "%s">' % (number, b"&a%d;" % (number - 1) * 10) for number in range(1, 12)),
        b"]>" + GOOD.partition(b"?>")[2].replace(b">y<", b">&a11;<"),
    ]
)
HOSTILE = {
    "billion laughs": LAUGHS,
    "a file as an entity": b'<!DOCTYPE s [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + GOOD.partition(b"?>")[2],
    "a document type on the network": b'<!DOCTYPE s SYSTEM "http://203.0.113.9/x.dtd">' + GOOD.partition(b"?>")[2],
    "more bytes than allowed": envelope("<x/>" + " " * MAX_BYTES),
    "deep": envelope("<a>" * 5000 + "</a>" * 5000),
    "wide": envelope("<a/>" * 30_000),
    "nothing": b"",
    "no XML": b"\x00\xff\xfe GET / HTTP/1.1",
    "cut off": GOOD[:-20],
    "an unknown encoding": GOOD.replace(b"UTF-8", b"EBCDIC-XX"),
    "bytes that are no UTF-8": GOOD.replace(b">y<", b">\xc3\x28<"),
    "SOAP 1.1": GOOD.replace(b"http://www.w3.org/2003/05/soap-envelope", b"http://schemas.xmlsoap.org/soap/envelope/"),
    "no body": GOOD.replace(b"s:Body", b"s:Other"),
    "an undefined entity": GOOD.replace(b">y<", b">&nope;<"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(NotSoap) as caught:
        body_of(data)
    assert len(str(caught.value)) > 10
    assert list(matches(data, "urn:uuid:1", "127.0.0.1")) == []


def test_a_good_answer_in_other_encodings_is_read() -> None:
    assert body_of(GOOD)[0].text == "y"
    for encoding in ("utf-16", "iso-8859-1"):
        text = GOOD.decode().replace("UTF-8", encoding).replace(">y<", ">ü<")
        assert body_of(text.encode(encoding))[0].text == "ü"


def test_a_fault_has_its_reason_and_whether_the_login_is_wrong() -> None:
    fault = (
        "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>{}</s:Value></s:Subcode></s:Code>"
        "<s:Reason><s:Text>No &lt;way&gt;</s:Text></s:Reason></s:Fault>"
    )
    for code, is_login in (("ter:NotAuthorized", True), ("wsse:FailedAuthentication", True), ("ter:NoProfile", False)):
        with pytest.raises(SoapFault, match="No <way>") as caught:
            body_of(envelope(fault.format(code)))
        assert caught.value.is_login is is_login


def test_the_token_is_the_example_of_the_onvif_guide() -> None:
    """Source: ONVIF Application Programmer's Guide 1.0, section 6.1.1.3."""
    nonce = base64.b64decode("LKqI6G/AikKCQrN0zqZFlg==")
    header = username_token("user", "userpassword", datetime(2010, 9, 16, 7, 50, 45, tzinfo=timezone.utc), nonce)
    assert "tuOSpGlFlIXsozq4HFNeeGeFLEI=" in header
    assert "2010-09-16T07:50:45Z" in header
    ET.fromstring(f'<a xmlns:s="x">{username_token("<&>", "p", datetime.now(timezone.utc))}</a>')


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://10.0.0.5/onvif/device_service", "10.0.0.5"),
        ("http://[FD00:0::5]:80/onvif", "fd00::5"),
        ("http://[::ffff:10.0.0.5]/onvif", "10.0.0.5"),
        ("HTTP://Camera.Local/x", "camera.local"),
        ("https://10.0.0.5", "10.0.0.5"),
        ("ftp://10.0.0.5", None),
        ("http://", None),
        ("http://10.0.0.5:99999/", None),
        ("http://[::1", None),
        ("javascript:alert(1)", None),
    ],
)
def test_the_host_of_an_address(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_only_the_senders_own_addresses_are_asked() -> None:
    found = Found("e", "10.0.0.5", ("http://10.0.0.50/a", "http://10.0.0.5@10.0.0.9/", "http://10.0.0.5:80/a"), "", "")
    assert found.own_addresses == ("http://10.0.0.5:80/a",)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("rtsp://h/1", "rtsp://h/1"),
        ("rtsp://admin:p%40ss@h/1", "rtsp://h/1"),
        ("rtsp://h/1?user=admin&password=p%40ss&x=1", "rtsp://h/1?user={username}&password={password}&x=1"),
        ("rtsp://h/user=admin_password=p@ss_channel=1", "rtsp://h/user={username}_password={password}_channel=1"),
        ("rtsp://h/1?x=p", "rtsp://h/1?x=p"),
    ],
)
def test_the_credentials_in_a_streams_address_become_places(given: str, written: str) -> None:
    assert _without_login(given, Login("admin", Secret("p@ss"), "file")) == written
