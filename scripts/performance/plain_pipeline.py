"""The script that the agent is compared with: a plain pipeline with OpenCV, ONNX Runtime and paho.

It reads a clip, preprocesses each frame in numpy as tutorials do, runs the model, and publishes JSON. With a rate it
has a thread that captures and a queue between, again as tutorials do. No part of the agent is used.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import time
from datetime import datetime, timezone
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

Captured = tuple[npt.NDArray[Any], float, float]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def capture(clip: str, fps: float | None, frames: queue.Queue[Captured]) -> None:
    """Read the clip in an endless loop, at ``fps`` if given."""
    video = cv2.VideoCapture(clip)
    due = time.monotonic()
    while True:
        if fps is not None:
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))
        began, captured = time.monotonic(), time.time()
        is_read, frame = video.read()
        if not is_read:
            video.set(cv2.CAP_PROP_POS_FRAMES, 0)
            continue
        frames.put((frame, captured, time.monotonic() - began))


def classify(session: onnxruntime.InferenceSession, frame: npt.NDArray[Any]) -> tuple[int, float, float]:
    """Return class, confidence, and the milliseconds of the session alone."""
    image = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (224, 224)).astype(np.float32) / 255
    batch = ((image - _MEAN) / _STD).transpose(2, 0, 1)[None]
    began = time.monotonic()
    logits = session.run(None, {"input": np.ascontiguousarray(batch)})[0][0]
    took_ms = (time.monotonic() - began) * 1e3
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    best = int(scores.argmax())
    return best, float(scores[best]), took_ms


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("clip")
    parser.add_argument("port", type=int)
    parser.add_argument("--fps", type=float)
    given = parser.parse_args()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", given.port)
    client.loop_start()
    session = onnxruntime.InferenceSession(given.model)
    # Without a rate the queue must be short: a file would fill the memory within a minute.
    frames: queue.Queue[Captured] = queue.Queue(0 if given.fps else 2)
    threading.Thread(target=capture, args=(given.clip, given.fps, frames), daemon=True).start()
    client.publish("benchmark/plain/runtime", "{}", retain=True)
    number = 0
    while True:
        frame, captured, capture_s = frames.get()
        best, confidence, infer_ms = classify(session, frame)
        at = datetime.fromtimestamp(captured, timezone.utc).isoformat(timespec="microseconds")
        message = {
            "camera": "camera1",
            "seq": number,
            "captured_at": at,
            "label": best,
            "confidence": confidence,
            "latency_ms": {"capture": capture_s * 1e3, "infer": infer_ms},
        }
        client.publish("benchmark/plain/camera1/result", json.dumps(message))
        number += 1


if __name__ == "__main__":
    main()
