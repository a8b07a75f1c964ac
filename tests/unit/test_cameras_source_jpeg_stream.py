"""The parts of an MJPEG answer, however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cameras.sources.http.jpeg_stream import NotMultipart, Parts, boundary_of


def _stream(bodies: list[bytes], *, has_length: bool) -> bytes:
    parts = []
    for body in bodies:
        length = f"Content-Length: {len(body)}\r\n" if has_length else ""
        parts.append(f"--edge\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + body + b"\r\n")
    return b"".join(parts) + b"--edge--\r\n"


@given(
    bodies=st.lists(st.binary(max_size=50).filter(lambda body: b"--edge" not in body), max_size=5),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    has_length=st.booleans(),
)
def test_every_part_comes_once_whatever_the_cuts(bodies: list[bytes], cuts: list[int], has_length: bool) -> None:
    if not has_length:
        # Without a length, line ends before the boundary belong to it.
        bodies = [body.rstrip(b"\r\n") for body in bodies]
    data, parts, place = _stream(bodies, has_length=has_length), Parts(b"edge"), 0
    found: list[bytes] = []
    while place < len(data):
        step = cuts[place % len(cuts)]
        found += parts.feed(data[place : place + step])
        place += step
    assert found == bodies


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/x-mixed-replace; boundary=frame", b"frame"),
        ('multipart/x-mixed-replace;boundary="my frame"', b"my frame"),
        ("multipart/x-mixed-replace; boundary=--frame", b"frame"),
        ("multipart/x-mixed-replace; BOUNDARY = frame; charset=x", b"frame"),
    ],
)
def test_the_boundary_is_read_as_cameras_write_it(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("content_type", ["multipart/x-mixed-replace", "multipart/mixed; boundary=", ""])
def test_an_answer_without_a_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(NotMultipart, match="no boundary"):
        boundary_of(content_type)


def test_an_endless_part_is_refused() -> None:
    with pytest.raises(NotMultipart, match="no end of a part"):
        list(Parts(b"edge", max_part_bytes=1000).feed(b"--edge\r\n\r\n" + bytes(2000)))


def test_bytes_without_a_boundary_are_refused() -> None:
    with pytest.raises(NotMultipart, match="no boundary in the first"):
        list(Parts(b"edge").feed(bytes(20_000)))
