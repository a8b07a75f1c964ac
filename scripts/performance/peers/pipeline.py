"""The scripts that the agent is compared with: one camera, one model of ONNX Runtime, results over MQTT.

    python pipeline.py naive|tuned|pyav|gstreamer|triton MODEL PORT SOURCE... [--live] [--size WIDTHxHEIGHT]

No part of the agent is used, so it runs in an environment of its own (onnxruntime, paho-mqtt, numpy, and the reader).
SOURCE is a clip, read again and again as fast as the model takes it, or with `--live` an RTSP address. Several are
several cameras, each with a thread that reads it. MODEL is a file; for triton it is HOST:PORT/NAME of its gRPC server.
`--size` is that of its images. All get the normalisation of the bundled model: for the time it does not matter.

naive      OpenCV, preprocessing in numpy at full size as tutorials do it, a queue without limit, default threads
tuned      OpenCV, only the newest frame, resized first, ONNX Runtime's threads asleep between two frames
pyav       as tuned, with FFmpeg through PyAV, which scales the decoder's planes to the model's size
gstreamer  as tuned, with a GStreamer pipeline that scales to the model's size
triton     as tuned, with the model in a Triton server on this machine, asked by NVIDIA's client over gRPC
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

Frame = npt.NDArray[Any]
Captured = tuple[Frame, float]
Taken = tuple[int, Captured]
"""The number of its camera, and a frame."""

Size = tuple[int, int]
"""Width and height."""
_MEAN = np.array([0.288, 0.299, 0.291], np.float32)
_STD = np.array([0.176, 0.173, 0.176], np.float32)
_TOPIC = "benchmark/peer/camera{}/result"


def opencv_frames(source: str, size: Size | None, *, is_live: bool) -> Iterator[Captured]:
    """RGB frames of ``size``, or BGR frames at full size."""
    import cv2

    video = cv2.VideoCapture(source)
    while True:
        is_read, frame = video.read()
        at = time.time()
        if not is_read and is_live:
            raise SystemExit("the stream ended")
        if not is_read:
            video.set(cv2.CAP_PROP_POS_FRAMES, 0)
        elif size is not None:
            yield cv2.cvtColor(cv2.resize(frame, size), cv2.COLOR_BGR2RGB), at
        else:
            yield frame, at


def pyav_frames(source: str, size: Size, *, is_live: bool) -> Iterator[Captured]:
    """RGB frames, scaled from the decoder's planes."""
    import av

    while True:
        with av.open(source, options={"rtsp_transport": "tcp"} if is_live else {}) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                at = time.time()
                yield frame.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray(), at
        if is_live:
            raise SystemExit("the stream ended")


def gstreamer_frames(source: str, size: Size, *, is_live: bool) -> Iterator[Captured]:
    """RGB frames, scaled in the pipeline; its sink keeps the newest one of a live stream."""
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst

    Gst.init(None)
    caps = f"video/x-raw,format=RGB,width={size[0]},height={size[1]}"
    sink = f"appsink name=out sync=false max-buffers={1 if is_live else 2} drop={'true' if is_live else 'false'}"
    reader = (
        f"rtspsrc location={source} latency=0 protocols=tcp ! rtph264depay ! h264parse"
        if is_live
        else f"filesrc location={source} ! qtdemux ! h264parse"
    )
    pipeline = Gst.parse_launch(f"{reader} ! avdec_h264 max-threads=1 ! videoscale ! videoconvert ! {caps} ! {sink}")
    pipeline.set_state(Gst.State.PLAYING)
    out = pipeline.get_by_name("out")
    while True:
        sample = out.emit("pull-sample")
        at = time.time()
        if sample is None and is_live:
            raise SystemExit("the stream ended")
        if sample is None:
            pipeline.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH, 0)
            continue
        buffer = sample.get_buffer()
        yield np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(size[1], size[0], 3), at


class Newest:
    """Holds one frame of each camera. A live reader replaces it; a reader of a file waits until it was taken."""

    def __init__(self, *, is_live: bool) -> None:
        self._is_live = is_live
        self._changed = threading.Condition()
        self._frames: dict[int, Captured] = {}

    def put(self, taken: Taken) -> None:
        """Offer a frame."""
        camera, frame = taken
        with self._changed:
            while camera in self._frames and not self._is_live:
                self._changed.wait()
            self._frames[camera] = frame
            self._changed.notify_all()

    def get(self) -> Taken:
        """Take the frame of the camera that waits longest, once there is one."""
        with self._changed:
            while not self._frames:
                self._changed.wait()
            camera = next(iter(self._frames))
            frame = self._frames.pop(camera)
            self._changed.notify_all()
            return camera, frame


def _tensor(rgb: Frame) -> Frame:
    tensor: Frame = ((rgb.astype(np.float32) / 255 - _MEAN) / _STD).transpose(2, 0, 1)[None]
    return tensor


def _naive_tensor(bgr: Frame, size: Size) -> Frame:
    import cv2

    return _tensor(cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), size))


def _session(model: str, *, sleeps: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if sleeps:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options)


def _reader(kind: str, source: str, size: Size, *, is_live: bool) -> Iterator[Captured]:
    if kind == "pyav":
        return pyav_frames(source, size, is_live=is_live)
    if kind == "gstreamer":
        return gstreamer_frames(source, size, is_live=is_live)
    return opencv_frames(source, None if kind == "naive" else size, is_live=is_live)


def _feed(camera: int, frames: Iterator[Captured], put: Callable[[Taken], None]) -> None:
    for frame in frames:
        put((camera, frame))


def _local_scores(kind: str, model: str, size: Size) -> Callable[[Frame], Frame]:
    session = _session(model, sleeps=kind != "naive")
    name = session.get_inputs()[0].name

    def scores_of(frame: Frame) -> Frame:
        tensor = _naive_tensor(frame, size) if kind == "naive" else _tensor(frame)
        logits = session.run(None, {name: np.ascontiguousarray(tensor)})[0][0]
        weights = np.exp(logits - logits.max())
        scores: Frame = weights / weights.sum()
        return scores

    return scores_of


def _triton_scores(address: str, size: Size) -> Callable[[Frame], Frame]:
    from tritonclient import grpc

    server, _, name = address.partition("/")
    client = grpc.InferenceServerClient(server)
    given = grpc.InferInput("images", [1, size[1], size[0], 3], "UINT8")

    def scores_of(frame: Frame) -> Frame:
        given.set_data_from_numpy(np.ascontiguousarray(frame[None]))
        scores: Frame = client.infer(name, [given]).as_numpy("scores")[0]
        return scores

    return scores_of


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("naive", "tuned", "pyav", "gstreamer", "triton"))
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--size", default="160x120")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    size = width, height
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", given.port)
    client.loop_start()
    scores_of = (
        _triton_scores(given.model, size) if given.kind == "triton" else _local_scores(given.kind, given.model, size)
    )
    # Of a file the queue must be short: it would fill the memory within a minute.
    waiting: Any = queue.Queue(0 if given.live else 2) if given.kind == "naive" else Newest(is_live=given.live)
    for camera, source in enumerate(given.sources, 1):
        frames = _reader(given.kind, source, size, is_live=given.live)
        threading.Thread(target=_feed, args=(camera, frames, waiting.put), daemon=True).start()
    for number in itertools.count():
        camera, (frame, captured) = waiting.get()
        began = time.monotonic()
        scores = scores_of(frame)
        infer_ms = (time.monotonic() - began) * 1e3
        best = int(scores.argmax())
        message = {
            "camera": f"camera{camera}",
            "seq": number,
            "captured_at": datetime.fromtimestamp(captured, timezone.utc).isoformat(timespec="microseconds"),
            "label": best,
            "confidence": float(scores[best]),
            "latency_ms": {"capture": 0.0, "infer": infer_ms},
        }
        client.publish(_TOPIC.format(camera), json.dumps(message))


if __name__ == "__main__":
    main()
