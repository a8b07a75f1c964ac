"""Video files, made by the program ffmpeg: containers, codecs, pixel formats, rotation, HDR, odd sizes, damage."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from agent.config.sections.sources import FileSource
from scripts.camera_kinds.kinds import Kind, Stage

FRAMES = 25
_H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
_H265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none"
_VIDEOS: dict[str, tuple[str, str]] = {
    "MP4, H.264": ("clip.mp4", _H264),
    "MP4, H.264, B frames and one key frame": ("clip.mp4", f"{_H264} -preset medium -bf 3 -g 250"),
    "MP4, fragmented": ("clip.mp4", f"{_H264} -movflags frag_keyframe+empty_moov"),
    "MP4, H.265": ("clip.mp4", _H265 + " -tag:v hvc1"),
    "MP4, AV1": ("clip.mp4", "-c:v libaom-av1 -cpu-used 8 -crf 40"),
    "MP4, MPEG-4 part 2": ("clip.mp4", "-c:v mpeg4 -q:v 3"),
    "MOV, ProRes 4:2:2, 10 bits": ("clip.mov", "-c:v prores_ks"),
    "MOV, JPEG 2000": ("clip.mov", "-c:v jpeg2000 -pix_fmt yuv420p"),
    "MKV, H.264": ("clip.mkv", _H264),
    "MKV, FFV1": ("clip.mkv", "-c:v ffv1"),
    "AVI, raw RGB": ("clip.avi", "-c:v rawvideo -pix_fmt bgr24"),
    "WebM, VP8": ("clip.webm", "-c:v libvpx -b:v 1M -deadline realtime"),
    "WebM, VP9": ("clip.webm", "-c:v libvpx-vp9 -b:v 1M -deadline realtime"),
    "WebM, AV1": ("clip.webm", "-c:v libaom-av1 -cpu-used 8 -crf 40"),
    "AVI, MJPEG": ("clip.avi", "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p"),
    "AVI, DivX (MPEG-4)": ("clip.avi", "-c:v mpeg4 -vtag DX50 -q:v 3"),
    "MPEG-TS, H.264": ("clip.ts", _H264),
    "MPEG-TS, MPEG-2": ("clip.ts", "-c:v mpeg2video -q:v 3"),
    "MPEG-PS, MPEG-1": ("clip.mpg", "-c:v mpeg1video -q:v 3"),
    "FLV, H.264": ("clip.flv", _H264),
    "ASF, WMV 8": ("clip.wmv", "-c:v wmv2 -q:v 3"),
    "MXF, MPEG-2": ("clip.mxf", "-c:v mpeg2video -q:v 3"),
    "raw H.264": ("clip.h264", _H264),
    "raw H.265": ("clip.h265", _H265),
    "raw MJPEG": ("clip.mjpeg", "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p"),
    "Y4M": ("clip.y4m", "-pix_fmt yuv420p"),
    "GIF": ("clip.gif", ""),
    "animated PNG": ("clip.apng", "-c:v apng -plays 1"),
    "4:2:2": ("clip.mkv", "-c:v libx264 -preset ultrafast -pix_fmt yuv422p"),
    "4:4:4": ("clip.mkv", "-c:v libx264 -preset ultrafast -pix_fmt yuv444p"),
    "full range (yuvj420p)": ("clip.mp4", "-c:v libx264 -preset ultrafast -pix_fmt yuvj420p"),
    "H.264 RGB": ("clip.mkv", "-c:v libx264rgb -preset ultrafast"),
    "10 bits, H.265": ("clip.mp4", f"{_H265} -pix_fmt yuv420p10le"),
    "12 bits, 4:4:4, H.265": ("clip.mkv", f"{_H265} -pix_fmt yuv444p12le"),
    "16 bits, FFV1 RGB": ("clip.mkv", "-c:v ffv1 -pix_fmt rgb48le"),
    "BT.709": ("clip.mp4", f"{_H264} -vf scale=out_color_matrix=bt709 -colorspace bt709"),
    "HDR, PQ": (
        "clip.mp4",
        f"{_H265} -pix_fmt yuv420p10le -color_trc smpte2084 -color_primaries bt2020 -colorspace bt2020nc",
    ),
    "HDR, HLG": (
        "clip.mp4",
        f"{_H265} -pix_fmt yuv420p10le -color_trc arib-std-b67 -color_primaries bt2020 -colorspace bt2020nc",
    ),
    "interlaced, H.264": ("clip.ts", "-c:v libx264 -pix_fmt yuv420p -flags +ilme+ildct"),
    "interlaced, MPEG-2": ("clip.ts", "-c:v mpeg2video -q:v 3 -flags +ilme+ildct"),
    "odd size, 321x243": ("clip.mkv", "-vf scale=321:243 -c:v ffv1 -pix_fmt yuv420p"),
    "small, 16x16": ("clip.mp4", f"-vf scale=16:16 {_H264}"),
    "upright, 240x426": ("clip.mp4", f"-vf scale=240:426 {_H264}"),
    "anamorphic (sample aspect 4:3)": ("clip.mp4", f"-vf setsar=4/3 {_H264}"),
    "with sound": ("clip.mp4", f"-f lavfi -i sine=d=1 {_H264} -map 0:v -map 1:a -c:a aac"),
    "a name with blanks, colons and percent signs": ("rtsp: 50%20 #1?.mp4", _H264),
}
_ROTATIONS = {0: "left-right", 90: "top-bottom", 180: "right-left", 270: "bottom-top"}


def file_kinds() -> Iterator[Kind]:
    """All of them."""
    for name, (file, options) in _VIDEOS.items():
        yield Kind("file", name, _made(file, options), frames=FRAMES)
    for degrees, scene in _ROTATIONS.items():
        yield Kind("file", f"rotated by {degrees} degrees", _rotated(degrees), scene=scene, frames=FRAMES)
    # A frame that repeats the one before is an empty packet, and no frame.
    yield Kind("file", "Ogg, Theora", _made("clip.ogv", "-c:v libtheora -q:v 7"))
    yield Kind("file", "grey, H.264", _made("clip.mp4", f"-vf format=gray {_H264}"), scene="", frames=FRAMES)
    yield Kind("file", "MP4, cut off before its index", _cut("clip.mp4", 0.7), "unreadable", frames=FRAMES)
    yield Kind(
        "file",
        "MP4, index in front, cut off",
        _cut("clip.mp4", 0.7, "-movflags faststart"),
        "truncated",
        frames=FRAMES,
    )
    yield Kind("file", "MKV, cut off", _cut("clip.mkv", 0.6), "truncated", frames=FRAMES)
    yield Kind("file", "MPEG-TS, bytes in the middle overwritten", _damaged("clip.ts"), scene="", frames=None)
    yield Kind("file", "empty", _written(b""), "unreadable")
    yield Kind("file", "text", _written(b"no video\n" * 100), "unreadable")
    yield Kind("file", "a playlist that names an address", _written(b"#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:1/a.ts\n"),
               "unreadable")  # fmt: skip
    yield Kind("file", "sound alone", _made("clip.mp4", "-f lavfi -i sine=d=1 -map 1:a -c:a aac"), "unreadable")
    yield Kind("file", "missing", lambda _, __: Stage(FileSource(type="file", path="absent.mp4")), "missing")


def write_clip(path: Path, options: str, *, seconds: float = 1.0, size: str = "320x240", fps: int = FRAMES) -> Path:
    """A video whose left half is red and whose right half is blue."""
    scene = f"color=red:s={size}:r={fps}:d={seconds:g},drawbox=x=iw/2:w=iw/2:color=blue:t=fill"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", scene, *options.split(), str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
    return path


def _made(name: str, options: str) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        write_clip(folder / name, options)
        return Stage(FileSource(type="file", path=name))

    return make


def _rotated(degrees: int) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        plain = write_clip(folder / "plain.mp4", _H264)
        # ffmpeg 5 writes the matrix of a counterclockwise angle.
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-i",
            str(plain),
            "-c",
            "copy",
            "-metadata:s:v",
            f"rotate={-degrees % 360}",
        ]
        subprocess.run([*command, str(folder / "clip.mp4")], check=True, timeout=60)
        return Stage(FileSource(type="file", path="clip.mp4"))

    return make


def _cut(name: str, share: float, options: str = "") -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        data = write_clip(folder / name, f"{_H264} -g 5 {options}").read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])
        return Stage(FileSource(type="file", path=name))

    return make


def _damaged(name: str) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        data = bytearray(write_clip(folder / name, f"{_H264} -g 5", seconds=4.0).read_bytes())
        middle = len(data) // 2
        data[middle : middle + 2000] = bytes(range(250)) * 8
        (folder / name).write_bytes(data)
        return Stage(FileSource(type="file", path=name))

    return make


def _written(data: bytes) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        (folder / "clip.mp4").write_bytes(data)
        return Stage(FileSource(type="file", path="clip.mp4"))

    return make
