"""Writes the model package: graph, manifest, labels, golden and calibration images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines import load_package

from .dataset import INPUT_HEIGHT_PX, INPUT_WIDTH_PX, TRAINING_BELTS, model_sized, scene_of
from .network import MEAN_RGB, SCALE, STD_RGB, Weights
from .part_drawing import Image
from .scene import LABELS, LIT_FOR_TRAINING, LIT_HELD_OUT, Scene, truth_of
from .scene_drawing import draw_scene

NAME = "conveyor"
VERSION = "1.0.0"
OPSET = 17
IR_VERSION = 8
GOLDEN_PER_LABEL = 2
GOLDEN_CONFIDENCE = 0.8
CALIBRATION_COUNT = 50
EVALUATION_COUNT = 140
_KEPT_SIZE_PX = (320, 240)


class NotSure(ValueError):
    """The model is not certain enough of the images that are to be its known answers."""


def graph_of(weights: Weights) -> onnx.ModelProto:
    """Build the ONNX graph: `image` float32 (batch, 3, H, W) normalised RGB to `logits` (batch, classes).

    Written node by node, because plain Conv, Relu, GlobalAveragePool, Flatten and Gemm of opset 17 are
    what every runtime and TensorRT version takes, whatever the exporter of the day would add.
    """
    nodes, constants = [], []
    value = "image"
    for number, layer in enumerate(weights.convolutions, start=1):
        names = (f"conv{number}.weight", f"conv{number}.bias")
        constants += [numpy_helper.from_array(layer.weight, names[0]), numpy_helper.from_array(layer.bias, names[1])]
        nodes.append(
            helper.make_node(
                "Conv",
                [value, *names],
                [f"conv{number}.out"],
                name=f"conv{number}",
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[layer.stride, layer.stride],
            )
        )
        value = f"relu{number}.out"
        nodes.append(helper.make_node("Relu", [f"conv{number}.out"], [value], name=f"relu{number}"))
    constants += [
        numpy_helper.from_array(weights.head_weight, "head.weight"),
        numpy_helper.from_array(weights.head_bias, "head.bias"),
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pool.out"], name="pool"),
        helper.make_node("Flatten", ["pool.out"], ["features"], name="flatten", axis=1),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, INPUT_HEIGHT_PX, INPUT_WIDTH_PX])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])
    graph = helper.make_graph(nodes, NAME, [image], [logits], initializer=constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="train-demo", ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def write_model(directory: Path, weights: Weights) -> Path:
    """Write `model.onnx` and `labels.txt`; return the model's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.onnx"
    path.write_bytes(graph_of(weights).SerializeToString(deterministic=True))
    (directory / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return path


def _shrunk(scene: Scene) -> Image:
    return np.asarray(cv2.resize(draw_scene(scene), _KEPT_SIZE_PX, interpolation=cv2.INTER_LINEAR), np.uint8)


def _empty_folder(folder: Path) -> Path:
    """Make `folder`, or take the images of an earlier run out of it."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


def golden_candidates(seed: int) -> list[tuple[str, Image]]:
    """Well lit scenes off the transitions, several per label, to take the golden images from."""
    found: list[tuple[str, Image]] = []
    for index in range(len(LABELS) * GOLDEN_PER_LABEL * 6):
        scene = scene_of(index, seed=seed, lit=LIT_HELD_OUT, belt_styles=TRAINING_BELTS)
        truth = truth_of(scene.parts)
        if not truth.transition and scene.optics.noise < 3.0:
            found.append((truth.label, _shrunk(scene)))
    return found


def write_golden(
    directory: Path, candidates: list[tuple[str, Image]], probability: npt.NDArray[np.float32]
) -> list[str]:
    """Keep the first candidates of each label that the model is sure of; return their manifest lines.

    Raises:
        NotSure: the model is not sure of enough candidates of a label.
    """
    _empty_folder(directory / "golden")
    lines = []
    for index, label in enumerate(LABELS):
        kept = 0
        for (truth, image), scores in zip(candidates, probability, strict=True):
            if truth != label or kept == GOLDEN_PER_LABEL or scores[index] < GOLDEN_CONFIDENCE + 0.1:
                continue
            kept += 1
            name = f"golden/{label}_{kept}.png"
            cv2.imwrite(str(directory / name), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
            lines.append(f"  - {{image: {name}, label: {label}, min_confidence: {GOLDEN_CONFIDENCE}}}")
        if kept < GOLDEN_PER_LABEL:
            raise NotSure(
                f"the model is sure of {kept} golden candidates of {label}, {GOLDEN_PER_LABEL} are needed: "
                "train longer or draw more candidates"
            )
    return lines


def write_calibration(directory: Path, seed: int) -> None:
    """Write the INT8 calibration images: labels in turn, dim, normal and bright lamps, moving parts."""
    folder = _empty_folder(directory / "calibration")
    lit = (*LIT_FOR_TRAINING, *LIT_HELD_OUT)
    for index in range(CALIBRATION_COUNT):
        scene = scene_of(index, seed=seed, lit=lit, belt_styles=TRAINING_BELTS)
        name = f"{index:02d}_{truth_of(scene.parts).label}.jpg"
        cv2.imwrite(str(folder / name), _shrunk(scene), [cv2.IMWRITE_JPEG_QUALITY, 85])


def write_evaluation(directory: Path, seed: int) -> None:
    """Write the images that int8 is judged on, never calibrated: at the model's own size, to keep the wheel small."""
    folder = _empty_folder(directory / "evaluation")
    lit = (*LIT_FOR_TRAINING, *LIT_HELD_OUT)
    for index in range(EVALUATION_COUNT):
        scene = scene_of(index, seed=seed, lit=lit, belt_styles=TRAINING_BELTS)
        name = f"{index:03d}_{truth_of(scene.parts).label}.jpg"
        cv2.imwrite(str(folder / name), model_sized(draw_scene(scene)), [cv2.IMWRITE_JPEG_QUALITY, 80])


def write_manifest(directory: Path, golden_lines: list[str]) -> None:
    """Write `model.yaml` for the files already in `directory`."""
    digest = hashlib.sha256((directory / "model.onnx").read_bytes()).hexdigest()
    lines = [
        "# The demo's classifier: written by scripts/dev/train-demo, described in docs/demo-material.md.",
        f"name: {NAME}",
        f"version: {VERSION}",
        "file: model.onnx",
        f"sha256: {digest}",
        "input:",
        f"  width: {INPUT_WIDTH_PX}",
        f"  height: {INPUT_HEIGHT_PX}",
        "  color: rgb",
        "  resize: stretch",
        "  interpolation: linear",
        f"  scale: {SCALE!r}",
        f"  mean: {list(MEAN_RGB)}",
        f"  std: {list(STD_RGB)}",
        "output:",
        "  activation: softmax",
        "labels: {file: labels.txt, offset: 0}",
        "golden:",
        *golden_lines,
        "calibration: calibration/",
        "evaluation: evaluation/",
        "license: Apache-2.0",
    ]
    manifest = directory / "model.yaml"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines.insert(lines.index("input:"), f"package_sha256: {load_package(directory).digest}")
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
