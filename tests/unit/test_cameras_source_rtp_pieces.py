"""The pieces of RTP become whole units at once, and a unit that was taken for whole too early is told."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
import pytest
from av.codec.context import Flags2

from agent.cameras.sources.rtp_pieces import MAX_UNIT_BYTES, NalPieces, ParsedPieces, Unit

START = b"\0\0\0\1"
Piece = tuple[bytes, int | None]


def _cut(unit: bytes, largest: int) -> list[bytes]:
    """``unit`` with its start code and header as FFmpeg gives it, in pieces of at most ``largest`` bytes."""
    head, rest = START + unit[:1], unit[1:]
    pieces = [rest[at : at + largest] for at in range(0, len(rest), largest)] or [b""]
    return [head + pieces[0], *pieces[1:]]


def _fed(pieces: NalPieces, given: list[Piece]) -> list[list[Unit]]:
    return [pieces.add(data, pts) for data, pts in given]


def _learned(largest: int = 100, units: int = 60) -> NalPieces:
    """One that has seen ``units`` units; the first one of 2.5 pieces."""
    pieces = NalPieces()
    for number in range(units):
        for piece in _cut(bytes([65]) + bytes(250 if not number else 20), largest):
            pieces.add(piece, number)
    return pieces


@pytest.mark.parametrize("codec", ["mpeg2video", "mpeg4"])
@pytest.mark.parametrize("largest", [100, 900, 5000])
def test_frames_of_other_codecs_are_those_of_the_parser(codec: str, largest: int) -> None:
    frames = [b"".join(units) for units in _encoded(20, "", codec=codec, side=64)]
    pieces, units = ParsedPieces(av.CodecContext.create(codec, "r").parse), []
    stream = b"".join(frames)
    for at in range(0, len(stream), largest):
        units += pieces.add(stream[at : at + largest], at)
    units += pieces.flush()
    assert [unit.data for unit in units] == frames
    begins = [sum(len(frame) for frame in frames[:number]) for number in range(len(frames))]
    assert [unit.pts for unit in units] == [at // largest * largest for at in begins]


def test_a_nal_unit_waits_for_the_next_one_until_the_sizes_are_known() -> None:
    pieces = NalPieces()
    first, second = START + b"A" * 20, START + b"B" * 20
    assert _fed(pieces, [(first, 0), (second, 40)]) == [[], [Unit(first, 0)]]
    assert pieces.flush() == [Unit(second, 40)]


def test_a_nal_unit_is_whole_with_its_last_piece_once_the_sizes_are_known() -> None:
    pieces = _learned()
    whole = START + b"A" + bytes(20)
    assert pieces.add(whole, 1000) == [Unit(whole, 1000)]
    cut = _cut(b"B" + bytes(range(250)), 100)
    assert _fed(pieces, [(piece, 1040) for piece in cut]) == [[], [], [Unit(b"".join(cut), 1040)]]


def test_a_last_piece_of_full_size_waits_for_the_next_unit() -> None:
    pieces = _learned()
    cut = _cut(b"B" + bytes(200), 100)
    following = START + b"C"
    given: list[Piece] = [*((piece, 1000) for piece in cut), (following, 1040)]
    assert _fed(pieces, given) == [[], [], [Unit(b"".join(cut), 1000), Unit(following, 1040)]]


def test_sizes_that_lie_are_told_once_and_believed_later() -> None:
    pieces = _learned()
    short, rest, more = _cut(b"B" + bytes(150), 60)
    assert pieces.add(short, 1000) == [Unit(short, 1000)], "taken for whole"
    assert pieces.add(rest, 1000) == [Unit(b"", 1000, is_broken=True)]
    assert pieces.add(more, 1000) == []
    following = START + b"C" + bytes(10)
    assert pieces.add(following, 1040) == [], "no size is believed now"
    for number in range(600):
        answer = pieces.add(following, 2000 + number)
    assert answer == [Unit(following, 2599)], "but later again"
    middle = START + b"C" + bytes(70)
    assert pieces.add(middle, 5000) == [], "pieces of 60 bytes were continued once"


@pytest.mark.parametrize("pts", [7, None])
def test_a_stream_may_begin_in_the_middle_of_a_unit(pts: int | None) -> None:
    pieces = NalPieces()
    assert pieces.add(b"the rest of a unit", pts) == []
    pieces.add(START + b"A", 1)
    assert pieces.add(START + b"B", 2) == [Unit(START + b"A", 1)]


def test_time_stamps_that_never_change_do_not_end_the_stream() -> None:
    frames = [unit for units in _encoded(400, "threads=1:keyint=10", side=64) for unit in units]
    pieces, units = NalPieces(), []
    for number, nal in enumerate(frames):
        for piece in _cut(nal[len(START) :], 1200 if number < 100 else 400):
            units += pieces.add(piece, 7)
    broken = [number for number, unit in enumerate(units) if unit.is_broken]
    assert len(broken) == 1
    assert len(units) > 390


def test_a_unit_that_never_ends_is_dropped() -> None:
    pieces, piece = NalPieces(), bytes(1 << 20)
    pieces.add(START + b"A", 1)
    came = [unit for _ in range(2 * (MAX_UNIT_BYTES >> 20)) for unit in pieces.add(piece, 1)]
    assert came == [Unit(b"", 1, is_broken=True)]
    assert pieces.flush() == [], "nothing is kept"


def test_a_piece_whose_start_was_lost_is_left_out() -> None:
    pieces = _learned()
    assert pieces.add(b"orphan", 1000) == []
    assert pieces.add(START + b"A", 1040) == [Unit(START + b"A", 1040)]


@pytest.mark.parametrize("slices", [1, 4])
@pytest.mark.parametrize("cabac", [0, 1])
def test_the_decoder_returns_a_frame_with_its_last_unit_alone(slices: int, cabac: int) -> None:
    decoder = _decoder()

    def frames(data: bytes) -> int:
        try:
            return len(decoder.decode(av.Packet(data)))
        except av.error.InvalidDataError:
            return 0

    *encoded, last = _encoded(3, f"slices={slices}:threads=1:cabac={cabac}")
    for units in encoded:
        assert [frames(unit) for unit in units] == [0] * (len(units) - 1) + [1]
    for end in (10, len(last[-1]) // 2, len(last[-1]) - 20):
        assert [frames(unit) for unit in [*last[:-1], last[-1][:end]]] == [0] * len(last), "a piece is missing"
        decoder.flush_buffers()
        assert frames(encoded[1][-1]) == 0, "only a key frame is a beginning"
        assert [frames(unit) for unit in encoded[0]][-1] == 1


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("scenecut", [0, 40], ids=["few key frames", "key frames"])
def test_frames_of_a_sender_that_cuts_ever_smaller_are_whole_or_absent(slices: int, scenecut: int) -> None:
    frames = _encoded(160, f"threads=1:keyint=10:scenecut={scenecut}:slices={slices}", side=64)
    reference = _decoded([Unit(b"".join(units), number) for number, units in enumerate(frames)], is_in_units=False)
    pieces, units = NalPieces(), []
    for number, nals in enumerate(frames):
        for nal in nals:
            for piece in _cut(nal[len(START) :], 1200 - 5 * number):
                units += pieces.add(piece, number)
    came = _decoded(units + pieces.flush())
    assert 1 <= [unit.is_broken for unit in units].count(True) <= 2, "each time ten times as many units are awaited"
    assert 120 < len(came) < 160
    for number, image in came.items():
        assert np.array_equal(image, reference[number]), number


def _decoder() -> Any:
    """As ffmpeg.Video sets it."""
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count, decoder.flags2 = 1, decoder.flags2 | Flags2.chunks
    decoder.options = {"ec": "0"}
    return decoder


def _decoded(units: list[Unit], *, is_in_units: bool = True) -> dict[int, Any]:
    decoder: Any = _decoder() if is_in_units else av.CodecContext.create("h264", "r")
    came = {}
    for unit in units:
        if unit.is_broken:
            decoder.flush_buffers()
            continue
        packet = av.Packet(unit.data)
        packet.pts = unit.pts
        with contextlib.suppress(av.error.InvalidDataError):
            came.update({frame.pts: frame.to_ndarray() for frame in decoder.decode(packet)})
    came.update({frame.pts: frame.to_ndarray() for frame in ([] if is_in_units else decoder.decode(None))})
    return came


def _encoded(count: int, parameters: str, *, codec: str = "libx264", side: int = 240) -> list[list[bytes]]:
    """Frames of noise: of H.264 as NAL units, each with its start code; the first one is a key frame."""
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = side, side, "yuv420p", Fraction(1, 25)
    encoder.framerate = 25
    encoder.options = {"tune": "zerolatency", "x264-params": parameters} if codec == "libx264" else {}
    noise, packets = np.random.default_rng(1), []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (side * 3 // 2, side), np.uint8), format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    frames = [bytes(packet) for packet in [*packets, *encoder.encode(None)] if packet.size]
    if codec != "libx264":
        return [[frame] for frame in frames]
    return [[START + part for part in frame.replace(START, START[1:]).split(START[1:])[1:]] for frame in frames]
