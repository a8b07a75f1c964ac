"""The accuracy check fails graphs that are bad in one planted way each, and passes the same graphs without it.

Each graph is a real one, run by ONNX Runtime beside the package's own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from engines import EngineOptions, ModelPackage, load_package
from engines.backends.onnxruntime.engine import open_onnxruntime
from engines.base import Images
from engines.check.accuracy import compare
from engines.check.certificate import Certificate
from engines.graph.image_set import ImageSet
from engines.graph.serving import ServingGraph, serving_graph
from engines.graph.serving_model import build_serving_model

SIDE = 8
IMAGES = 120
Floats = npt.NDArray[np.float32]


def colours(count: int = IMAGES, *, seed: int = 1, low: float = 20.0, high: float = 235.0) -> ImageSet:
    """Textured images of random colours."""
    random = np.random.default_rng(seed)
    base = random.uniform(low, high, (count, 1, 1, 3))
    batch = np.clip(base + random.normal(0, 10, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    return _named(batch)


def _named(batch: Images) -> ImageSet:
    hashes = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in batch)
    return ImageSet("package", tuple(f"{row}.png" for row in range(len(batch))), hashes, batch)


def linear_model(weights: Floats, bias: Floats, *, ceiling: float = 1.0) -> onnx.ModelProto:
    """Logits ``(N, classes)`` from the mean colour; ``ceiling`` is the brightest mean that it can tell apart."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Clip", ["mean", "zero", "ceiling"], ["clipped"]),
        helper.make_node("Gemm", ["clipped", "weights", "bias"], ["logits"]),
    ]
    values = {"weights": weights, "bias": bias, "zero": np.float32(0), "ceiling": np.float32(ceiling)}
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def package_of(directory: Path, model: onnx.ModelProto, labels: list[str], **output: Any) -> ModelPackage:
    directory.mkdir()
    content = model.SerializeToString()
    (directory / "model.onnx").write_bytes(content)
    (directory / "labels.txt").write_text("\n".join(labels))
    manifest = {
        "name": "linear",
        "version": "1.0.0",
        "file": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": {"width": SIDE, "height": SIDE, "color": "rgb", "resize": "stretch", "scale": 1 / 255},
        "output": output,
        "labels": {"file": "labels.txt"},
    }
    (directory / "model.yaml").write_text(yaml.safe_dump(manifest))
    return load_package(directory)


def certificate(package: ModelPackage, served: onnx.ModelProto, images: ImageSet, cache: Path) -> Certificate:
    """Compare ``served`` in the place of the package's int8 graph with the package's own graph."""
    labels = list(package.labels)
    output: dict[str, Any] = {"activation": package.output.activation}
    if package.output.task.value != "single_label":
        output["task"] = package.output.task.value
    if package.output.positive is not None:
        output["positive"] = package.output.positive
    other = package_of(cache / "served", served, labels, **output)
    path = cache / "served.onnx"
    path.write_bytes(build_serving_model(other).SerializeToString())
    options = EngineOptions(cache_dir=cache, engine="ort-cpu", max_batch=8, sandbox=None)
    graph = serving_graph(package, cache_dir=cache)
    bad = replace(graph, path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), precision="int8")
    assert isinstance(bad, ServingGraph)
    with (
        open_onnxruntime(package, options, engine="ort-cpu", graph=graph) as reference,
        open_onnxruntime(package, replace(options, precision="int8"), engine="ort-cpu", graph=bad) as engine,
    ):
        return compare(package, engine, reference, images)


FOUR = (np.array([[9, 0, 0, 3], [0, 9, 0, 3], [0, 0, 9, 3]], np.float32), np.array([0, 0, 0, -1], np.float32))
ONE = (np.array([[12], [0], [0]], np.float32), np.array([-6], np.float32))
# The first label is in most images, the second in about a third.
TWO = (np.array([[5, 14], [5, 0], [5, 0]], np.float32), np.array([-5, -9], np.float32))
LABELS = ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", ["one", "binary", "two", "four"])
def test_the_same_graph_is_proven(tmp_path: Path, name: str) -> None:
    values, labels, output = {
        "one": (ONE, ["bright"], {"activation": "sigmoid"}),
        "binary": (ONE, ["dark", "bright"], {"activation": "sigmoid", "task": "binary", "positive": "bright"}),
        "two": (TWO, ["part", "red"], {"activation": "sigmoid", "task": "multi_label"}),
        "four": (FOUR, LABELS, {"activation": "softmax"}),
    }[name]
    package = package_of(tmp_path / "own", linear_model(*values), labels, **output)
    found = certificate(package, linear_model(*values), colours(), tmp_path)
    assert (found.why_not, found.why_not_proven) == ("", "")
    assert found.is_proven
    found.require()


@pytest.mark.parametrize("task", ["none stated", "binary"])
def test_a_shifted_one_score_model_fails(tmp_path: Path, task: str) -> None:
    """Top-1 of one class never changes, whatever its score."""
    output = {"activation": "sigmoid", **({"task": task, "positive": "bright"} if task == "binary" else {})}
    labels = ["bright", "dark"] if task == "binary" else ["bright"]
    package = package_of(tmp_path / "own", linear_model(*ONE), labels, **output)
    weights, bias = ONE
    found = certificate(package, linear_model(weights, bias + 4), colours(), tmp_path)
    assert not found.has_passed
    assert found.comparison.changed > IMAGES / 5
    assert "'bright' is detected in" in found.why_not


def test_a_lost_label_of_a_multi_label_model_fails(tmp_path: Path) -> None:
    package = package_of(
        tmp_path / "own", linear_model(*TWO), ["part", "red"], activation="sigmoid", task="multi_label"
    )
    weights, bias = TWO
    found = certificate(package, linear_model(weights, bias - np.array([0, 3.5], np.float32)), colours(), tmp_path)
    part, red = found.comparison.labels
    assert part.reference == part.engine
    assert red.reference > 4 * red.engine > 0
    assert "'red' is detected in" in found.why_not


def test_flattened_confidences_fail_although_every_label_is_kept(tmp_path: Path) -> None:
    package = package_of(tmp_path / "own", linear_model(*FOUR), LABELS, activation="softmax")
    weights, bias = ((values / 30).astype(np.float32) for values in FOUR)
    found = certificate(package, linear_model(weights, bias), colours(), tmp_path)
    assert found.comparison.agreement == 1.0
    assert "confidences shift by" in found.why_not


def test_a_graph_that_is_right_on_its_calibration_images_alone_fails(tmp_path: Path) -> None:
    """Calibrated on dim images, a range ends where they end. Judged on the same images it would pass."""
    package = package_of(tmp_path / "own", linear_model(*FOUR), LABELS, activation="softmax")
    clipped = linear_model(*FOUR, ceiling=0.45)
    dim = colours(seed=2, low=10.0, high=105.0)
    assert certificate(package, clipped, dim, tmp_path).has_passed
    (tmp_path / "held out").mkdir()
    found = certificate(package, clipped, colours(), tmp_path / "held out")
    assert not found.has_passed


def test_two_flat_dark_images_prove_nothing(tmp_path: Path) -> None:
    package = package_of(tmp_path / "own", linear_model(*FOUR), LABELS, activation="softmax")
    flat = np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in (6, 9)])
    found = certificate(package, linear_model(*FOUR), _named(flat), tmp_path)
    assert found.has_passed
    assert (found.is_proven, found.images, found.idle_images) == (False, 0, 2)
    assert "0 images (2 more are flat or repeated), but 88 are needed" in found.why_not_proven


def test_repeated_images_count_once(tmp_path: Path) -> None:
    package = package_of(tmp_path / "own", linear_model(*FOUR), LABELS, activation="softmax")
    images = colours(10).batch
    found = certificate(package, linear_model(*FOUR), _named(np.concatenate([images] * 20)), tmp_path)
    assert (found.images, found.idle_images, found.is_proven) == (10, 190, False)


def test_many_images_of_one_label_prove_nothing_about_the_others(tmp_path: Path) -> None:
    package = package_of(tmp_path / "own", linear_model(*FOUR), LABELS, activation="softmax")
    images = colours().batch
    images //= 2
    images[..., 2] += 128
    found = certificate(package, linear_model(*FOUR), _named(images), tmp_path)
    assert found.has_passed
    assert not found.is_proven
    assert "100% of its 120 images have the same label" in found.why_not_proven


def test_a_label_that_is_hardly_ever_detected_is_not_proven(tmp_path: Path) -> None:
    weights, bias = TWO
    rare = linear_model(weights, bias - np.array([0, 4.2], np.float32))
    package = package_of(tmp_path / "own", rare, ["part", "red"], activation="sigmoid", task="multi_label")
    found = certificate(package, rare, colours(), tmp_path)
    assert found.has_passed
    assert not found.is_proven
    assert "'red' (" in found.why_not_proven
