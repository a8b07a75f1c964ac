"""Streams of other kinds, served by the program ffmpeg."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent.config.sections.sources import StreamSource
from scripts.camera_kinds.files import write_clip
from scripts.camera_kinds.kinds import Kind, Stage
from scripts.camera_kinds.servers import SYSTEM_PYTHON, Process, again_and_again, secret_file
from tests.fixtures.mosquitto import free_port

_H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 10 -bf 0"
_PASSPHRASE = "p@ss:phrase/17#%"  # noqa: S105 - of a server that is made here
_AV1 = "-c:v libaom-av1 -cpu-used 8 -crf 40 -g 10"


def stream_kinds() -> Iterator[Kind]:
    """All of them."""
    yield Kind("stream", "HLS, H.264 in MPEG-TS", _hls(_H264, ""))
    yield Kind("stream", "HLS, H.264 in fragmented MP4", _hls(_H264, "-hls_segment_type fmp4"))
    yield Kind("stream", "HLS, H.265 in fragmented MP4", _hls(
        "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10", "-hls_segment_type fmp4 -tag:v hvc1"
    ))  # fmt: skip
    yield Kind("stream", "HLS, AV1 in fragmented MP4", _hls(_AV1, "-hls_segment_type fmp4"))
    yield Kind("stream", "RTMP, H.264", _listening(_H264, "-f flv -listen 1 rtmp://127.0.0.1:{port}/live/camera"))
    yield Kind(
        "stream", "MPEG-TS over HTTP, H.264", _listening(_H264, "-f mpegts -listen 1 http://127.0.0.1:{port}/a.ts")
    )
    yield Kind(
        "stream", "Matroska over HTTP, AV1", _listening(_AV1, "-f matroska -listen 1 http://127.0.0.1:{port}/a.mkv")
    )
    yield Kind("stream", "MPEG-TS over TCP, H.264", _listening(_H264, "-f mpegts tcp://127.0.0.1:{port}?listen=1"))
    yield Kind("stream", "MPEG-TS over UDP, H.264", _sending(_H264))
    yield Kind(
        "stream",
        "MPEG-TS over UDP, H.265",
        _sending("-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10"),
    )
    yield Kind("stream", "MPEG-TS over UDP, MPEG-2", _sending("-c:v mpeg2video -q:v 3 -g 10"))
    yield Kind("stream", "MPEG-TS over SRT, H.264", _srt(_H264))
    yield Kind("stream", "MPEG-TS over SRT, MPEG-2", _srt("-c:v mpeg2video -q:v 3 -g 10"))
    yield Kind("stream", "MPEG-TS over SRT, encrypted", _srt(_H264, given=_PASSPHRASE))
    yield Kind("stream", "MPEG-TS over SRT, wrong passphrase", _srt(_H264, given="another one of them"), "credentials")
    yield Kind("stream", "MPEG-TS over SRT, from a sender that calls", _srt_caller)


def _clip(folder: Path, encoder: str) -> Path:
    path = folder / "clip.mkv"
    return path if path.exists() else write_clip(path, encoder, seconds=4.0)


def _playing(folder: Path, encoder: str) -> list[str]:
    return ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(_clip(folder, encoder)), "-c", "copy"]


def _hls(encoder: str, options: str) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        port = free_port()
        served = folder / "www"
        served.mkdir()
        playlist = served / "live.m3u8"
        writer = [*_playing(folder, encoder), "-f", "hls", "-hls_time", "1", "-hls_list_size", "4", "-hls_flags"]
        writer += ["delete_segments+omit_endlist", *options.split(), str(playlist)]
        # The playlist comes with the first segment.
        script = 'rm -f "$1"/*; port=$2; www=$1; shift 2; "$@" & until [ -e "$www/live.m3u8" ]; do sleep 0.05; done; '
        script += f'exec {SYSTEM_PYTHON} -m http.server -b 127.0.0.1 -d "$www" "$port"'
        server = Process(["bash", "-c", script, "hls", str(served), str(port), *writer], port)
        return Stage(StreamSource(type="stream", url=f"http://127.0.0.1:{port}/live.m3u8"), server)

    return make


def _listening(encoder: str, output: str) -> Callable[[Path, ExitStack], Stage]:
    """One client at a time, and again."""

    def make(folder: Path, _: ExitStack) -> Stage:
        port = free_port()
        command = [*_playing(folder, encoder), *output.format(port=port).split()]
        url = command[-1].partition("?")[0]
        return Stage(StreamSource(type="stream", url=url), Process(again_and_again(command), port))

    return make


def _sending(encoder: str) -> Callable[[Path, ExitStack], Stage]:
    def make(folder: Path, _: ExitStack) -> Stage:
        url = f"udp://127.0.0.1:{free_port()}"
        command = [*_playing(folder, encoder), "-f", "mpegts", f"{url}?pkt_size=1316"]
        return Stage(StreamSource(type="stream", url=url, read_timeout_s=2.0), Process(command, None))

    return make


def _srt(encoder: str, given: str | None = None) -> Callable[[Path, ExitStack], Stage]:
    """The camera calls a sender that listens; ``given`` is the camera's passphrase, if the stream is encrypted."""

    def make(folder: Path, _: ExitStack) -> Stage:
        url, settings = f"srt://127.0.0.1:{free_port()}", dict[str, Any]()
        query = "?mode=listener"
        if given is not None:
            query += f"&passphrase={_PASSPHRASE}"  # ffmpeg takes it as it is
            settings = {"url": f"{url}?passphrase={{password}}", "password_file": secret_file(folder, given)}
        command = [*_playing(folder, encoder), "-f", "mpegts", url + query]
        config = StreamSource.model_validate({"type": "stream", "url": url, "read_timeout_s": 2.0, **settings})
        return Stage(config, Process(again_and_again(command), None))

    return make


def _srt_caller(folder: Path, _: ExitStack) -> Stage:
    url = f"srt://127.0.0.1:{free_port()}?mode="
    command = [*_playing(folder, _H264), "-f", "mpegts", f"{url}caller"]
    config = StreamSource(type="stream", url=f"{url}listener", read_timeout_s=2.0)
    return Stage(config, Process(again_and_again(command), None))
