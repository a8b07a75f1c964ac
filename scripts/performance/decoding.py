"""CPU per frame of reading a camera, stage by stage, by the agent's reader and by OpenCV's VideoCapture.

    python -m scripts.performance.decoding [--size 1280x720] [--frames 400] [--videos 3] [--default-heap]

Draws a clip (H.264, a key frame every 25 frames), reads it with one decoder thread, and prints a table. ``--videos``
prints the stages alone, for so many videos one after the other; ``--default-heap`` leaves out the agent's settings of
the C library's heap.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from agent.cameras.sources.ffmpeg import Video, open_video
from agent.daemon import heap
from agent.runtime.clock import SystemClock
from agent.runtime.records import planes_or_image
from engines import InputSpec, Resizer

_NEVER = threading.Event()
_SIDE = 224
_ROUNDS = 3
_STAGES = (
    "decoding",
    "planes resized and converted",
    "the same with antialias, the centre",
    "instead: full conversion",
    "and resize",
    "and resize with antialias, the centre",
)
_PLAIN = InputSpec(width=_SIDE, height=_SIDE)
_CENTRE = InputSpec(
    width=_SIDE, height=_SIDE, resize="shorter_side", resize_to=_SIDE, interpolation="linear_antialias"
)
_WHOLE = InputSpec(width=_SIDE, height=_SIDE, resize="stretch", interpolation="linear_antialias")


def draw_clip(path: Path, width: int, height: int, frames: int) -> None:
    """Soft shapes that move, with grain; about 4 Mb/s at 720p and 25 frames a second."""
    chance = np.random.default_rng(3)
    small = chance.integers(0, 255, (height // 64 + 1, (width + frames * 2) // 64 + 1, 3), np.uint8)
    scene = cv2.resize(small, None, fx=64, fy=64, interpolation=cv2.INTER_CUBIC)
    grains = [chance.integers(0, 7, (height, width, 3), np.uint8) for _ in range(4)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        stream.options = {"preset": "veryfast", "g": "25", "bf": "0"}
        for index in range(frames):
            image = cv2.add(scene[:height, index * 2 : index * 2 + width], grains[index % len(grains)])
            frame = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="bgr24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def _with_agent(path: Path, *, every: int, decode: Any = "all", spec: InputSpec = _PLAIN) -> int:
    """Read all frames; convert and resize one of ``every`` (0: none) to ``spec``.

    Returns the frames of the clip.
    """
    resizer = Resizer(spec)
    row = np.empty((_SIDE, _SIDE, 3), np.uint8)
    video: Video = open_video(f"file:{path}", clock=SystemClock(), options={}, is_live=False, threads=1, decode=decode)
    count = 0
    try:
        while (frame := video.read(5.0, _NEVER)) is not None:
            if every and count % every == 0:
                resizer.fill(planes_or_image(frame), row)
            count += 1
        return video.frame_count or count
    finally:
        video.close()


def _with_opencv(path: Path, *, every: int) -> int:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count = 0
    while capture.grab():
        if every and count % every == 0:
            cv2.resize(capture.retrieve()[1], (_SIDE, _SIDE))
        count += 1
    capture.release()
    return count


def _stages(path: Path) -> tuple[dict[str, float], float, float]:
    """CPU of each stage of one frame in ms, all in one run: medians of the reading thread's own time, which other work
    on the machine lengthens least. And the mean of the page faults by planes, and of those of a full conversion."""
    plain, antialias, row = Resizer(_PLAIN), Resizer(_CENTRE), np.empty((_SIDE, _SIDE, 3), np.uint8)
    video = open_video(f"file:{path}", clock=SystemClock(), options={}, is_live=False, threads=1)
    found: dict[str, list[int]] = {stage: [] for stage in _STAGES}
    faults: list[tuple[int, int]] = []
    try:
        while True:
            times = [time.thread_time_ns()]
            frame = video.read(5.0, _NEVER)
            if frame is None:
                break
            times.append(time.thread_time_ns())
            pages = [_page_faults()]
            plain.fill(planes_or_image(frame), row)
            times.append(time.thread_time_ns())
            pages.append(_page_faults())
            antialias.fill(planes_or_image(frame), row)
            times.append(time.thread_time_ns())
            image = frame.image()
            times.append(time.thread_time_ns())
            faults.append((pages[1] - pages[0], _page_faults() - pages[1]))
            plain.fill(image, row)
            times.append(time.thread_time_ns())
            antialias.fill(image, row)
            times.append(time.thread_time_ns())
            for spent, (start, end) in zip(found.values(), pairwise(times), strict=True):
                spent.append(end - start)
    finally:
        video.close()
    by_planes, in_full = (statistics.mean(column) for column in zip(*faults, strict=True))
    return {stage: statistics.median(spent) / 1e6 for stage, spent in found.items()}, by_planes, in_full


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def _print_stages(path: Path, videos: int) -> None:
    for number in range(1, videos + 1):
        stages_ms, by_planes, in_full = _stages(path)
        print(f"\n| stage, all in one run, video {number} | CPU, ms per frame, median |\n| --- | --- |")
        for stage, spent_ms in stages_ms.items():
            print(f"| {stage} | {spent_ms:.2f} |")
        print(f"\n{by_planes:.0f} page faults per frame by planes, {in_full:.0f} per full conversion")


def _cpu_ms(read: Callable[[], int]) -> float:
    """CPU of one frame of the clip: the smallest of a few rounds, since others only add to it."""
    found = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        frames = read()
        found.append((time.process_time() - began) * 1000.0 / frames)
    return min(found)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--videos", type=int)
    parser.add_argument("--default-heap", action="store_true")
    options = parser.parse_args()
    if not options.default_heap:
        heap.bound_arenas()
        heap.keep_image_memory()
    width, height = (int(part) for part in options.size.split("x"))
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        draw_clip(clip, width, height, options.frames)
        if options.videos:
            _print_stages(clip, options.videos)
            return
        rows = {
            "agent, decoding alone": lambda: _with_agent(clip, every=0),
            "agent, every frame converted and resized": lambda: _with_agent(clip, every=1),
            "agent, the same with antialias, the centre of the image": lambda: _with_agent(
                clip, every=1, spec=_CENTRE
            ),
            "agent, the same with antialias, the whole image stretched": lambda: _with_agent(
                clip, every=1, spec=_WHOLE
            ),
            "agent, one of 5 converted and resized": lambda: _with_agent(clip, every=5),
            "agent, `decode: keyframes`, every one converted and resized": lambda: _with_agent(
                clip, every=1, decode="keyframes"
            ),
            "OpenCV's VideoCapture, grab alone": lambda: _with_opencv(clip, every=0),
            "OpenCV's VideoCapture, every frame converted and resized": lambda: _with_opencv(clip, every=1),
            "OpenCV's VideoCapture, one of 5 converted and resized": lambda: _with_opencv(clip, every=5),
        }
        versions = f"{platform.machine()}, PyAV {av.__version__}, OpenCV {cv2.__version__}"
        print(f"{options.size}, {options.frames} frames, {versions}")
        print("| reader | CPU, ms per frame of the stream |\n| --- | --- |")
        for name, read in rows.items():
            print(f"| {name} | {_cpu_ms(read):.2f} |")
        _print_stages(clip, 1)


if __name__ == "__main__":
    main()
