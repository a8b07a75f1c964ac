"""Image files of every usual kind are read as BGR; damaged, too large and other files are refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.errors import ImageRejected
from engines.package.image_headers import read_header
from engines.package.images import decode_image, has_16_bits, read_image

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def image() -> Image:
    """40 rows, 60 columns, a different gradient in each channel."""
    rows, columns = np.mgrid[0:40, 0:60]
    return np.dstack([rows * 6, columns * 4, 255 - rows * 3 - columns]).astype(np.uint8)


def encoded(kind: str, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    return bytes(cv2.imencode(kind, image)[1].tobytes())


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + struct.pack(">HHI", orientation, 0, 0)
    segment = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def refusal(data: bytes) -> str:
    with pytest.raises(ImageRejected) as caught:
        decode_image(data, name="photo")
    assert caught.value.message.startswith("photo")
    return caught.value.message


@pytest.mark.parametrize("kind", [".png", ".bmp", ".tiff"])
def test_a_lossless_image_is_read_exactly(image: Image, kind: str) -> None:
    decoded = decode_image(encoded(kind, image), name="photo")
    assert decoded.flags.c_contiguous
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, image)


@pytest.mark.parametrize("kind", [".jpg", ".webp"])
def test_a_lossy_image_is_read_approximately(image: Image, kind: str) -> None:
    decoded = decode_image(encoded(kind, image), name="photo")
    assert np.abs(decoded.astype(int) - image).mean() < 4


@pytest.mark.parametrize("kind", [".png", ".jpg", ".bmp", ".tiff"])
def test_gray_becomes_three_equal_channels(image: Image, kind: str) -> None:
    decoded = decode_image(encoded(kind, image[:, :, 0]), name="photo")
    assert decoded.shape == (40, 60, 3)
    assert np.array_equal(decoded[:, :, 0], decoded[:, :, 1])
    assert np.array_equal(decoded[:, :, 0], decoded[:, :, 2])


def test_alpha_is_dropped_and_the_colours_kept(image: Image) -> None:
    transparent = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    assert np.array_equal(decode_image(encoded(".png", transparent), name="photo"), image)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_to_eight(image: Image, kind: str) -> None:
    assert np.array_equal(decode_image(encoded(kind, image.astype(np.uint16) * 257), name="photo"), image)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("gray", [False, True])
def test_significant_bits_are_scaled_to_eight_where_they_are_known(image: Image, kind: str, gray: bool) -> None:
    deep = (image[:, :, 0] if gray else image).astype(np.uint16) * 16
    data = encoded(kind, deep)
    assert has_16_bits(data)
    assert decode_image(data, name="photo").max() <= 16, "16 bits: nearly black"
    decoded = decode_image(data, name="photo", bits=12)
    assert np.array_equal(decoded[:, :, 0], image[:, :, 0])
    assert np.array_equal(decode_image(data, name="photo", bits=16), decode_image(data, name="photo"))
    with pytest.raises(ImageRejected, match=r"holds the value \d+, but `bits` says 10, whose highest is 1023"):
        decode_image(data, name="photo", bits=10)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp", ".gif", ".tiff"])
def test_significant_bits_leave_images_of_eight_bits_alone(image: Image, kind: str) -> None:
    data = encoded(kind, image)
    assert not has_16_bits(data)
    assert np.array_equal(decode_image(data, name="photo", bits=12), decode_image(data, name="photo"))


@pytest.mark.parametrize(
    ("orientation", "rotation"),
    [(3, cv2.ROTATE_180), (6, cv2.ROTATE_90_CLOCKWISE), (8, cv2.ROTATE_90_COUNTERCLOCKWISE)],
)
def test_exif_orientation_is_applied(image: Image, orientation: int, rotation: int) -> None:
    jpeg = encoded(".jpg", image)
    upright = decode_image(jpeg, name="photo")
    assert np.array_equal(
        decode_image(with_orientation(jpeg, orientation), name="photo"), cv2.rotate(upright, rotation)
    )


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_a_truncated_image_is_refused(image: Image, kind: str, part: float) -> None:
    data = encoded(kind, image)
    message = refusal(data[: int(len(data) * part)])
    assert "truncated" in message or "cut off" in message or "does not decode" in message or "missing" in message


def test_a_jpeg_without_its_end_marker_is_refused_by_name(image: Image) -> None:
    data = encoded(".jpg", image)
    assert data.endswith(b"\xff\xd9")
    message = refusal(data[:-2])
    assert "truncated JPEG" in message
    assert "EOI" in message
    assert str(len(data) - 2) in message


def test_the_remedy_is_that_of_where_the_image_comes_from(image: Image) -> None:
    for data in (b"", encoded(".jpg", image)[:-2]):
        assert refusal(data).endswith(". Copy it again")
        with pytest.raises(ImageRejected) as caught:
            decode_image(data, name="the body", remedy=". Send it again")
        assert caught.value.message.endswith(". Send it again")


def test_a_thumbnails_end_marker_does_not_count(image: Image) -> None:
    data = encoded(".jpg", image)
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    assert "EOI" in refusal(data[:2] + thumbnail + data[2:-2])


def test_bytes_after_the_end_marker_are_ignored(image: Image) -> None:
    data = encoded(".jpg", image)
    assert np.array_equal(decode_image(data + bytes(100), name="photo"), decode_image(data, name="photo"))


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"\x00\x00\x00\x00IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + end


BOMBS = {
    "PNG": _png_header(100_000, 100_000),
    "JPEG": b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 60_000, 60_000) + bytes(12) + b"\xff\xd9",
    "BMP": b"BM" + bytes(8) + struct.pack("<IIii", 54, 40, 100_000, -100_000) + bytes(40),
    "GIF": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + bytes(3) + b";",
    "WebP": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\x00" * 2,
    "TIFF": b"II*\x00" + struct.pack("<IH", 8, 2) + struct.pack("<HHIIHHII", 256, 4, 1, 99_999, 257, 4, 1, 99_999),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_an_image_above_the_pixel_limit_is_refused_before_decoding(kind: str) -> None:
    message = refusal(BOMBS[kind])
    assert kind in message
    assert "50000000" in message
    assert "x" in message


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"", "0 bytes"),
        (b"hello world", "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
        (b"\xff\xd8\xff\xd9", "without a frame header"),
        (_png_header(0, 5), "0x5"),
        (_png_header(5, 5), "does not decode"),
        (b"RIFF\x10\x00\x00\x00WEBPJUNK" + bytes(20), "JUNK"),
        (b"GIF89a" + bytes(20), "0x0"),
        (b"MM\x00*" + struct.pack(">I", 4_000_000), "cut off"),
    ],
)
def test_other_data_is_refused_with_the_reason(data: bytes, fact: str) -> None:
    assert fact in refusal(data)


def test_random_damage_gives_an_image_or_an_error(image: Image) -> None:
    rng = np.random.default_rng(11)
    outcomes = {"image": 0, "refusal": 0}
    for kind in (".jpg", ".png", ".bmp", ".webp", ".tiff"):
        data = np.frombuffer(encoded(kind, image), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            places = rng.integers(0, len(data), 3)
            damaged[places] = rng.integers(0, 256, 3)
            try:
                decoded = decode_image(damaged.tobytes(), name="photo")
            except ImageRejected:
                outcomes["refusal"] += 1
            else:
                assert decoded.ndim == 3
                outcomes["image"] += 1
    assert min(outcomes.values()) > 0


def test_files_are_read_and_missing_files_named(tmp_path: Path, image: Image) -> None:
    (tmp_path / "a.png").write_bytes(encoded(".png", image))
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    with pytest.raises(ImageRejected, match=r"b\.png cannot be read"):
        read_image(tmp_path / "b.png")
    with pytest.raises(ImageRejected, match="cannot be read"):
        read_image(tmp_path)


def test_a_file_above_the_limit_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.truncate((256 << 20) + 1)
    with pytest.raises(ImageRejected, match=f"{(256 << 20) + 1} bytes.*{256 << 20}"):
        read_image(tmp_path / "a.jpg")


def progressive(width: int, height: int, scans: int) -> bytes:
    """A gray JPEG of one colour whose scans are nearly empty: each takes a few bytes and the time of all pixels."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    def packed(bits: str) -> bytes:
        whole = bits.ljust(-len(bits) % 8 + len(bits), "1")
        return int(whole, 2).to_bytes(len(whole) // 8, "big").replace(b"\xff", b"\xff\x00")

    blocks = -(-width // 8) * -(-height // 8)
    tables = b"".join(
        (
            segment(0xDB, b"\0" + bytes([16] * 64)),
            segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"),
            segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00"),
            segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0"),  # one code: 16384 and more empty blocks
        )
    )
    first = segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + packed("0" * blocks)
    full, rest = divmod(blocks, 32767)
    empty = packed(("0" + "1" * 14) * full + ("0" + f"{max(0, rest - 16384):014b}" if rest else ""))
    others = [segment(0xDA, b"\x01\x01\x00" + bytes([1 + k % 63, 1 + k % 63, 0])) + empty for k in range(scans - 1)]
    return b"\xff\xd8" + tables + first + b"".join(others) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("width", "height", "scans", "words"),
    [
        (7000, 7000, 5000, "7000x7000 with 5000 scans, but the limit is 100 scans"),
        (1600, 1600, 101, "1600x1600 with 101 scans, but the limit is 100 scans"),
        (7000, 7000, 21, "with 21 scans, but the limit is 100 scans, and 1000000000 pixels in all of them"),
    ],
)
def test_more_scans_than_a_decoder_gets_through_are_refused_before_it_starts(
    width: int, height: int, scans: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = progressive(width, height, scans)
    assert len(data) < 600_000
    monkeypatch.setattr(cv2, "imdecode", None)
    assert words in refusal(data)


def test_a_progressive_image_of_the_usual_scans_is_decoded(image: Image) -> None:
    photo = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert read_header(photo).scans == 10
    assert read_header(encoded(".jpg", image)).scans == 1
    assert decode_image(photo, name="photo").shape == image.shape
    assert decode_image(progressive(1600, 1600, 100), name="photo").shape == (1600, 1600, 3)


@pytest.mark.parametrize("kind", [0xC3, 0xC5, 0xC9, 0xCA, 0xCF])
def test_a_jpeg_with_codes_that_take_long_is_refused(image: Image, kind: int) -> None:
    photo = encoded(".jpg", image).replace(b"\xff\xc0", bytes([0xFF, kind]), 1)
    assert f"a JPEG of kind SOF{kind - 0xC0}, but only kinds 0 to 2 are read" in refusal(photo)


def test_a_tiff_of_jpegs_is_counted_by_its_scans(image: Image) -> None:
    tiff = cv2.imencode(".tiff", image, [cv2.IMWRITE_TIFF_COMPRESSION, 7])[1].tobytes()
    header = read_header(tiff)
    assert (header.kind, header.width, header.height, header.scans) == ("TIFF", 60, 40, 1)
    assert decode_image(tiff, name="photo").shape == image.shape
    assert "60x40 with 151 scans, but the limit is 100" in refusal(tiff + b"\xff\xda" * 150)
    lossless = encoded(".tiff", image) + b"\xff\xda" * 150
    assert decode_image(lossless, name="photo").shape == image.shape


def test_a_png_chunk_that_announces_more_than_there_is_is_refused_before_it_is_decoded(image: Image) -> None:
    """OpenCV would reserve and clear the announced gigabyte: seconds for a file of some bytes."""
    data = encoded(".png", image)
    at = data.index(b"IDAT") - 4
    huge = data[:at] + struct.pack(">I", 0x3A000000) + data[at + 4 :]
    assert "a chunk announces 973078528 bytes, but" in refusal(huge)
    assert "the last chunk (IEND) is missing" in refusal(data[:-12])
    empty = struct.pack(">I", 0) + b"teSt" + struct.pack(">I", zlib.crc32(b"teSt"))
    assert "more than 100000 chunks" in refusal(data[:at] + empty * 100_001 + data[at:])
    assert np.array_equal(decode_image(data[:at] + empty * 1000 + data[at:] + b"behind the end", name="photo"), image)
