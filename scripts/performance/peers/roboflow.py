"""Roboflow's InferencePipeline for the same job as pipeline.py, with its own reader and buffers and the same model.

    python roboflow.py MODEL PORT SOURCE... [--live] [--size WIDTHxHEIGHT]

Runs in an environment with `inference`, which brings onnxruntime and paho-mqtt. The model is not of Roboflow's
registry, so the pipeline calls it as custom logic, with ONNX Runtime's threads asleep between two frames as in the
tuned script. A file is read once: give one that is long enough. The times of its frames are those of the file, so
there a frame counts as captured when the pipeline gives it to the model.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, cast

import cv2
import numpy as np
import onnxruntime
import paho.mqtt.client as mqtt
from inference import InferencePipeline

_MEAN = np.array([0.288, 0.299, 0.291], np.float32)
_STD = np.array([0.176, 0.173, 0.176], np.float32)


def _scores(model: str, size: tuple[int, int]) -> Callable[[Any], Any]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options)
    name = session.get_inputs()[0].name

    def scores_of(image: Any) -> Any:
        rgb = cv2.cvtColor(cv2.resize(image, size), cv2.COLOR_BGR2RGB)
        tensor = ((rgb.astype(np.float32) / 255 - _MEAN) / _STD).transpose(2, 0, 1)[None]
        logits = session.run(None, {name: np.ascontiguousarray(tensor)})[0][0]
        scores = np.exp(logits - logits.max())
        return scores / scores.sum()

    return scores_of


def main() -> None:
    """Run until killed, or until the file ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--size", default="160x120")
    given = parser.parse_args()
    client = cast("Any", mqtt.Client)()  # paho 1.6, which inference pins; release 2 wants a version here
    client.connect("127.0.0.1", given.port)
    client.loop_start()
    width, height = map(int, given.size.split("x"))
    scores_of = _scores(given.model, (width, height))
    numbers = itertools.count()

    def captured_at(frame: Any) -> datetime:
        found: datetime = frame.frame_timestamp if given.live else datetime.now(timezone.utc)
        return found

    def infer(frames: Any) -> Any:
        return [(captured_at(frame), scores_of(frame.image)) for frame in frames]

    def publish(predictions: Any, frames: Any) -> None:
        both = zip(predictions, frames, strict=True) if isinstance(frames, list) else [(predictions, frames)]
        for prediction, frame in both:
            if prediction is None:  # a camera without a frame this time
                continue
            captured, scores = prediction
            best, camera = int(scores.argmax()), f"camera{(frame.source_id or 0) + 1}"
            message = {
                "camera": camera,
                "seq": next(numbers),
                "captured_at": captured.astimezone(timezone.utc).isoformat(timespec="microseconds"),
                "label": best,
                "confidence": float(scores[best]),
                "latency_ms": {"capture": 0.0, "infer": 0.0},
            }
            client.publish(f"benchmark/peer/{camera}/result", json.dumps(message))

    references = given.sources if len(given.sources) > 1 else given.sources[0]
    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=references, on_video_frame=infer, on_prediction=publish
    )
    pipeline.start()
    pipeline.join()


if __name__ == "__main__":
    main()
