"""The bundled model package and clip are whole, small, and answer as their truth says."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import yaml
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from agent.demo import demo_clip, demo_package
from engines import EngineOptions, load_package, verify
from scripts.dev.demo_material import clip, dataset, scene, scene_drawing

LABELS = ["ok", "scratch", "dent", "missing_label", "empty"]
MIB = 1024 * 1024


@lru_cache(maxsize=1)
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((demo_package() / "model.yaml").read_text(encoding="utf-8"))
    return loaded


@lru_cache(maxsize=1)
def truth() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(demo_clip().with_name("conveyor.truth.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def session() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = demo_package() / manifest()["file"]
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def probabilities(session: Any, images: list[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Preprocess as the manifest says, in plain numpy, and apply the missing softmax."""
    wanted = manifest()["input"]
    size = (wanted["width"], wanted["height"])
    sized = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) for image in images])
    rgb = (sized[..., ::-1] * wanted["scale"] - wanted["mean"]) / wanted["std"]
    (logits,) = session.run(None, {"image": np.ascontiguousarray(rgb.transpose(0, 3, 1, 2), np.float32)})
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@lru_cache(maxsize=1)
def sampled_frames() -> tuple[int, dict[int, npt.NDArray[Any]]]:
    """How many frames the clip decodes to, and every tenth of them."""
    capture = cv2.VideoCapture(str(demo_clip()))
    frames: dict[int, npt.NDArray[Any]] = {}
    count = 0
    while capture.grab():
        if count % 10 == 0:
            frames[count] = np.asarray(capture.retrieve()[1])
        count += 1
    capture.release()
    return count, frames


def test_manifest_names_the_digest_of_the_model() -> None:
    model = demo_package() / manifest()["file"]
    assert manifest()["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert demo_package().name == f"{manifest()['name']}-{manifest()['version']}"


def test_bundled_files_stay_small() -> None:
    assert (demo_package() / "model.onnx").stat().st_size <= MIB
    assert demo_clip().stat().st_size <= 2 * MIB
    images = [path for folder in ("golden", "calibration") for path in (demo_package() / folder).iterdir()]
    assert sum(path.stat().st_size for path in images) <= 1.5 * MIB
    assert 40 <= len(list((demo_package() / "calibration").iterdir())) <= 60
    evaluation = list((demo_package() / "evaluation").iterdir())
    assert sum(path.stat().st_size for path in evaluation) <= 0.55 * MIB
    assert len(evaluation) == 140


def test_graph_is_one_that_old_runtimes_and_tensorrt_take() -> None:
    model = onnx.load(str(demo_package() / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 9
    assert [entry.version for entry in model.opset_import] == [17]
    assert {node.op_type for node in model.graph.node} == {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}


def test_labels_match_the_outputs_of_the_model(session: Any) -> None:
    labels = (demo_package() / manifest()["labels"]["file"]).read_text(encoding="utf-8").split()
    assert labels == LABELS
    (output,) = session.get_outputs()
    assert output.shape == ["batch", len(labels)]
    (image,) = session.get_inputs()
    assert image.shape == ["batch", 3, manifest()["input"]["height"], manifest()["input"]["width"]]
    assert image.type == "tensor(float)"


def test_model_leaves_the_softmax_to_the_serving_graph(session: Any) -> None:
    noise = np.random.default_rng(1).normal(0, 1, (3, 3, 120, 160)).astype(np.float32)
    (logits,) = session.run(None, {"image": noise})
    assert manifest()["output"]["activation"] == "softmax"
    assert np.abs(logits.sum(axis=1) - 1).max() > 0.01


def test_golden_images_get_their_label_with_confidence(session: Any) -> None:
    golden = manifest()["golden"]
    assert {entry["label"] for entry in golden} == set(LABELS)
    images = [np.asarray(cv2.imread(str(demo_package() / entry["image"]))) for entry in golden]
    for entry, scores in zip(golden, probabilities(session, images), strict=True):
        assert LABELS[int(scores.argmax())] == entry["label"], entry["image"]
        assert scores.max() >= entry["min_confidence"], entry["image"]


def test_truth_has_one_entry_per_frame_of_a_clip_of_twenty_seconds() -> None:
    count, _ = sampled_frames()
    assert len(truth()["frames"]) == count
    assert count / truth()["rate_hz"] >= 20
    assert {entry["label"] for entry in truth()["frames"]} == set(LABELS)
    capture = cv2.VideoCapture(str(demo_clip()))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(truth()["rate_hz"])
    capture.release()


def test_model_is_right_on_the_clip_off_its_transitions(session: Any) -> None:
    _, frames = sampled_frames()
    settled = [place for place in frames if not truth()["frames"][place]["transition"]]
    assert len(settled) >= 50
    answers = probabilities(session, [frames[place] for place in settled]).argmax(axis=1)
    right = [LABELS[int(a)] == truth()["frames"][p]["label"] for a, p in zip(answers, settled, strict=True)]
    assert sum(right) / len(right) >= 0.98


def test_model_refuses_width_and_height_swapped(session: Any) -> None:
    with pytest.raises(InvalidArgument, match="invalid dimensions"):
        session.run(None, {"image": np.zeros((1, 3, 160, 120), np.float32)})


def test_drawing_code_still_draws_the_bundled_clip() -> None:
    seed = 7
    parts = clip.clip_parts(seed)
    truths = [scene.truth_of(clip.clip_scene(frame, parts, seed=seed).parts) for frame in range(clip.FRAMES)]
    assert json.loads(clip.truth_text(truths)) == truth()
    drawn = scene_drawing.draw_scene(clip.clip_scene(40, parts, seed=seed))
    decoded = sampled_frames()[1][40]
    assert float(np.abs(drawn.astype(np.float32) - decoded).mean()) < 6.0


def test_same_seed_draws_the_same_image() -> None:
    def draw(index: int) -> npt.NDArray[np.uint8]:
        drawn = dataset.scene_of(index, seed=5, lit=scene.LIT_FOR_TRAINING, belt_styles=(0, 1))
        return scene_drawing.draw_scene(drawn)

    for index in range(len(LABELS)):
        assert np.array_equal(draw(index), draw(index))


@pytest.mark.parametrize(
    ("centre_x_px", "label", "transition"),
    [
        (320.0, "dent", False),
        (170.0, "dent", False),
        (140.0, "dent", True),
        (120.0, "empty", True),
        (90.0, "empty", False),
        (500.0, "dent", True),
        (560.0, "empty", False),
    ],
)
def test_part_counts_while_its_centre_is_in_the_zone(centre_x_px: float, label: str, transition: bool) -> None:
    part = scene.Part("dent", centre_x_px, 240.0, 0.0, scene.TINTS[0], 1)
    answer = scene.truth_of((part,))
    assert (answer.label, answer.transition) == (label, transition)


def test_random_scenes_have_the_label_asked_for() -> None:
    for index in range(300):
        drawn = dataset.scene_of(index, seed=9, lit=scene.LIT_HELD_OUT, belt_styles=(0,))
        assert scene.truth_of(drawn.parts).label == scene.LABELS[index % 5]


def test_package_folder_holds_nothing_unlisted() -> None:
    known = {"model.yaml", "model.onnx", "labels.txt", "golden", "calibration", "evaluation"}
    assert {path.name for path in demo_package().iterdir()} == known
    listed = {Path(entry["image"]).name for entry in manifest()["golden"]}
    assert {path.name for path in (demo_package() / "golden").iterdir()} == listed


def test_the_bundled_package_is_proven_in_int8(tmp_path: Path) -> None:
    found = verify(load_package(demo_package()), EngineOptions(cache_dir=tmp_path, engine="ort-cpu", precision="int8"))
    assert (found.why_not, found.why_not_proven, found.images) == ("", "", 150)
    assert found.comparison.agreement == 1.0
