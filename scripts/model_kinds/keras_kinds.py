"""Keras and TFLite models through tf2onnx.

python -m scripts.model_kinds.keras_kinds FOLDER     in an environment with tensorflow-cpu and tf2onnx
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx

from scripts.model_kinds.kind import CLASSES, SIDE, Kind, images, run_all, save, softmax

_TOOL = f"tensorflow {tf.__version__}, tf2onnx {tf2onnx.__version__}"


def _inputs() -> Any:
    return np.asarray(images(), np.float32) / np.float32(255)


def _small(ending: str | None = "softmax") -> Any:
    tf.keras.utils.set_random_seed(1)
    layers = [
        tf.keras.layers.Input((SIDE, SIDE, 3)),
        tf.keras.layers.Conv2D(8, 3, strides=2),
        tf.keras.layers.BatchNormalization(),
        tf.keras.layers.ReLU(),
        tf.keras.layers.GlobalMaxPooling2D(),
        tf.keras.layers.Dense(CLASSES, activation=ending),
    ]
    model = tf.keras.Sequential(layers)
    features = tf.keras.Sequential(layers[:-1])(_inputs(), training=False).numpy()
    weights, bias = model.layers[-1].get_weights()
    logits = features @ weights + bias
    factor = 1.5 / (logits - logits.mean(0)).std()
    model.layers[-1].set_weights([weights * factor, (bias - logits.mean(0)) * factor])
    return model


def _application(name: str, **more: Any) -> Any:
    tf.keras.utils.set_random_seed(1)
    make = getattr(tf.keras.applications, name)
    model = make(weights=None, classes=CLASSES, input_shape=(SIDE, SIDE, 3), classifier_activation=None, **more)
    logits = model(_inputs(), training=False).numpy()
    middle, factor = logits.mean(0), 1.5 / (logits - logits.mean(0)).std()
    # Logits that differ between images, as those of a trained model do.
    ended = tf.keras.layers.Softmax()(tf.keras.layers.Rescaling(factor, -middle * factor)(model.output))
    return tf.keras.Model(model.input, ended)


def _saved(model: Any, folder: str) -> None:
    model.export(folder)


def _convert(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tf2onnx.convert", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-300:])


def _keras(
    folder: Path,
    name: str,
    *,
    make: Callable[[], Any],
    options: tuple[str, ...] = (),
    after: Any = np.asarray,
    more: tuple[str, ...] = (),
) -> None:
    model = make()
    scores = after(model(_inputs(), training=False).numpy())
    with tempfile.TemporaryDirectory() as work:
        _saved(model, work)
        _convert("--saved-model", work, "--output", str(folder / f"{name}.onnx"), *more)
    save(folder, Kind(name=name, tool=_TOOL, file=f"{name}.onnx", options=["--preset", "raw01", *options]), scores)


def _tflite(
    folder: Path,
    name: str,
    *,
    kind: str,
    options: tuple[str, ...] = (),
    refusal: str | None = None,
    tolerance: float = 1e-4,
) -> None:
    """``kind``: float, dynamic, float16, int8 with float ends, or uint8 and int8 throughout."""
    converter = tf.lite.TFLiteConverter.from_keras_model(_small())
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind in {"int8-inside", "uint8", "int8"}:
        converter.representative_dataset = lambda: ([one[None]] for one in _inputs())
    if kind in {"uint8", "int8"}:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, kind)
    data = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for pixels, floats in zip(images(), _inputs(), strict=True):
        interpreter.set_tensor(source["index"], (pixels if kind == "uint8" else floats)[None].astype(source["dtype"]))
        interpreter.invoke()
        row = interpreter.get_tensor(target["index"])[0].astype(np.float32)
        rows.append(
            (row - target["quantization"][1]) * target["quantization"][0] if kind in {"uint8", "int8"} else row
        )
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(data)
        file.flush()
        _convert("--tflite", file.name, "--output", str(folder / f"{name}.onnx"), "--opset", "13")
    preset = "raw255" if kind == "uint8" else "raw01"
    tool = f"{_TOOL}, TFLite {kind}"
    save(
        folder,
        Kind(
            name=name,
            tool=tool,
            file=f"{name}.onnx",
            options=["--preset", preset, *options],
            refusal=refusal,
            tolerance=tolerance,
        ),
        None if refusal else np.stack(rows),
    )


def makers() -> dict[str, Callable[[Path, str], None]]:
    """Every kind by name."""
    found: dict[str, Callable[..., None]] = {"keras-sequential": partial(_keras, make=_small)}
    found["keras-logits"] = partial(_keras, make=partial(_small, None), after=softmax)
    found["keras-sigmoid"] = partial(_keras, make=partial(_small, "sigmoid"), options=("--task", "multi_label"))
    found["keras-opset-9"] = partial(_keras, make=_small, more=("--opset", "9"))
    found["keras-nchw-input"] = partial(_keras, make=_small, more=("--inputs-as-nchw", "keras_tensor"))
    for name, more in (
        ("MobileNetV2", {"alpha": 0.35}),
        ("MobileNetV3Small", {"include_preprocessing": False}),
        ("EfficientNetB0", {}),
    ):
        found[f"keras-{name.lower()}"] = partial(_keras, make=partial(_application, name, **more))
    # A quantised model rounds in every layer, and each runtime rounds in its own way: two steps of 1/256.
    for kind, tolerance in (
        ("float", 1e-4),
        ("dynamic", 2e-2),
        ("float16", 1e-3),
        ("int8-inside", 2e-2),
        ("uint8", 2e-2),
    ):
        found[f"tflite-{kind}"] = partial(_tflite, kind=kind, tolerance=tolerance)
    found["tflite-int8"] = partial(_tflite, kind="int8", refusal="takes int8")
    return found


if __name__ == "__main__":
    run_all(makers(), Path(sys.argv[1]), sys.argv[2:])
