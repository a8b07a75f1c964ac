"""Clips for measurements whose frames change the label, and longer clips without encoding again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from agent.demo import demo_package

_IMAGES = ("ok_1.png", "scratch_1.png")
_KEY_FRAMES = 25
_BITS_A_SECOND = 4_000_000
"""At 1280x720."""


def draw_turns(path: Path, width: int, height: int, *, turns: int, turn_frames: int, fps: int) -> None:
    """A good part and a scratched one in turn, each for ``turn_frames``, with grain; H.264.

    With an even number of ``turns`` it can be read again and again.
    """
    golden = demo_package() / "golden"
    images = [cv2.resize(np.asarray(cv2.imread(str(golden / name))), (width, height)) for name in _IMAGES]
    chance = np.random.default_rng(3)
    grains = [chance.integers(0, 7, (height, width, 3), np.uint8) for _ in range(4)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = _BITS_A_SECOND * width * height // (1280 * 720)
        stream.options = {"preset": "veryfast", "g": str(_KEY_FRAMES), "bf": "0", "sc_threshold": "0"}
        for index in range(turns * turn_frames):
            image = cv2.add(images[index // turn_frames % 2], grains[index % len(grains)])
            frame = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="bgr24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def repeat_clip(source: Path, target: Path, times: int) -> None:
    """Write the packets of ``source`` so often into ``target``, without encoding them again."""
    with av.open(str(target), "w") as out:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(str(source)) as clip:
                video = clip.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                end = offset
                for packet in clip.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.dts, packet.pts, packet.stream = packet.dts + offset, packet.pts + offset, stream
                    end = packet.dts + (packet.duration or 1)
                    out.mux(packet)
                offset = end
