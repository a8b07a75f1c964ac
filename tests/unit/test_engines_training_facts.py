"""What the files of training frameworks say of a model, each with the place where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.check.training_facts import TrainingFacts, facts_from_folder, facts_from_metadata
from engines.errors import ModelRejected

# As ultralytics 8.3 writes it into a model of the task classify.
ULTRALYTICS = {
    "description": "Ultralytics YOLO11n-cls model",
    "author": "Ultralytics",
    "task": "classify",
    "batch": "1",
    "imgsz": "[224, 224]",
    "names": "{0: 'ok', 1: 'scratch, deep', 2: 'dent'}",
}
VIT: dict[str, Any] = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor", "image_std": [0.5, 0.5, 0.5], "resample": 2,
    "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224},
}  # fmt: skip
RESNET: dict[str, Any] = {
    "crop_pct": 0.875, "do_normalize": True, "do_resize": True, "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224,
}  # fmt: skip
CONFIG = {"architectures": ["ViTForImageClassification"], "id2label": {"0": "ok", "1": "dent"}}
TIMM = {
    "architecture": "resnet18",
    "num_classes": 2,
    "pretrained_cfg": {
        "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    },
    "label_names": ["ok", "dent"],
}  # fmt: skip


def _folder(tmp_path: Path, **files: object) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return tmp_path


def test_ultralytics_states_everything() -> None:
    found = facts_from_metadata(ULTRALYTICS, name="best.onnx")
    assert found.has_preprocessing
    assert found.labels == ("ok", "scratch, deep", "dent")
    assert (found.size, found.color, found.resize, found.resize_to) == ((224, 224), "rgb", "shorter_side", 224)
    assert (found.interpolation, found.scale, found.mean, found.std) == ("linear_antialias", 1 / 255, (0.0,), (1.0,))
    assert found.sources["labels"] == "metadata of best.onnx (Ultralytics)"


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_a_model_that_is_no_classifier_is_refused_with_its_task(task: str) -> None:
    with pytest.raises(ModelRejected, match=f"for the task '{task}', but this agent classifies"):
        facts_from_metadata({**ULTRALYTICS, "task": task}, name="best.onnx")


@pytest.mark.parametrize(
    "names", ["not a literal", "{0: 'ok', 2: 'dent'}", "{}", "__import__('os')", "[1, 2]", "[" * 9999]
)
def test_names_that_are_no_list_of_labels_are_refused(names: str) -> None:
    with pytest.raises(ModelRejected, match=r"best\.onnx: names in the metadata must be a list of names"):
        facts_from_metadata({**ULTRALYTICS, "names": names}, name="best.onnx")


@pytest.mark.parametrize(("pixels", "scale"), [("NominalRange_0_255", 1.0), ("Normalized_0_1", 1 / 255)])
def test_custom_vision_states_color_and_range_and_leaves_the_rest_open(pixels: str, scale: float) -> None:
    found = facts_from_metadata(
        {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": pixels, "Image.ColorSpaceGamma": "SRGB"},
        name="model.onnx",
    )
    assert (found.color, found.scale, found.mean, found.std) == ("bgr", scale, (0.0,), (1.0,))
    assert (found.resize, found.interpolation, found.labels) == (None, None, None)
    assert not found.has_preprocessing


def test_other_ranges_of_custom_vision_stay_open() -> None:
    assert facts_from_metadata({"Image.NominalPixelRange": "NominalRange_16_235"}, name="m").scale is None


def test_paddle_names_one_label_a_line() -> None:
    assert facts_from_metadata({"character": "ok\ndent\n"}, name="m").labels == ("ok", "dent")


def test_a_file_without_metadata_states_nothing() -> None:
    assert facts_from_metadata({"producer": "pytorch"}, name="m") == TrainingFacts()


def test_a_hugging_face_folder_of_a_vit(tmp_path: Path) -> None:
    found = facts_from_folder(_folder(tmp_path, config__json=CONFIG, preprocessor_config__json=VIT))
    assert found.has_preprocessing
    assert (found.labels, found.size, found.resize) == (("ok", "dent"), (224, 224), "stretch")
    assert (found.interpolation, found.mean) == ("linear_antialias", (0.5, 0.5, 0.5))
    assert found.scale == pytest.approx(1 / 255)
    assert (found.sources["labels"], found.sources["mean"]) == ("config.json", "preprocessor_config.json")
    assert found.multi_label is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"shortest_edge": 224}}, ("shorter_side", 256, (224, 224))),
        ({"size": {"shortest_edge": 384}}, ("stretch", None, (384, 384))),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            ("shorter_side", 256, (224, 224)),
        ),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, ("shorter_side", 256, (224, 224))),
        ({"size": {"shortest_edge": 256}, "crop_pct": None}, (None, None, None)),
        (
            {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224, "crop_pct": None},
            (None, None, None),
        ),
        ({"size": 224}, ("shorter_side", 256, (224, 224))),
        ({"do_resize": False}, (None, None, None)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 1e-320}, (None, None, None)),
        (
            {"feature_extractor_type": "LevitFeatureExtractor", "size": {"shortest_edge": 224}, "crop_pct": None,
             "do_center_crop": True, "crop_size": 224},
            ("shorter_side", 256, (224, 224)),
        ),
        (
            {"image_processor_type": "PoolFormerImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.9,
             "do_center_crop": True, "crop_size": 224},
            ("shorter_side", 248, (224, 224)),
        ),
        (
            {"image_processor_type": "PoolFormerImageProcessor", "size": {"height": 224, "width": 224},
             "crop_pct": 0.9, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            ("shorter_side", 248, (224, 224)),
        ),
    ],
)  # fmt: skip
def test_the_size_of_a_preprocessor(changes: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path) -> None:
    found = facts_from_folder(_folder(tmp_path, preprocessor_config__json={**RESNET, **changes}))
    assert (found.resize, found.resize_to, found.size) == expected
    assert found.interpolation == "cubic_antialias"


def test_steps_that_a_preprocessor_leaves_out_are_identities(tmp_path: Path) -> None:
    config = {**VIT, "do_rescale": False, "do_normalize": False}
    found = facts_from_folder(_folder(tmp_path, preprocessor_config__json=config))
    assert (found.scale, found.mean, found.std) == (1.0, (0.0,), (1.0,))


def test_mobilevit_flips_the_colours(tmp_path: Path) -> None:
    config = {**VIT, "image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}
    assert facts_from_folder(_folder(tmp_path, preprocessor_config__json=config)).color == "bgr"


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"include_top": True}, 0.5, 0.25),
        ({"include_top": True, "do_normalize": False}, 0.0, 0.5),
        ({"rescale_offset": True}, 1.0, 0.5),
        ({"rescale_offset": True, "do_rescale": False}, 0.5, 0.5),
    ],
)
def test_the_further_steps_of_efficientnet(changes: dict[str, Any], mean: float, std: float, tmp_path: Path) -> None:
    found = facts_from_folder(_folder(tmp_path, preprocessor_config__json={**VIT, **changes}))
    assert found.mean == pytest.approx((mean,) * 3)
    assert found.std == pytest.approx((std,) * 3)


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("image_mean", [float("nan"), 0.5, 0.5], "mean"),
        ("image_std", [10**400, 1, 1], "std"),
        ("rescale_factor", 10**400, "scale"),
        ("rescale_factor", float("inf"), "scale"),
    ],
)
def test_a_number_that_is_none_stays_open(key: str, value: object, field: str, tmp_path: Path) -> None:
    found = facts_from_folder(_folder(tmp_path, preprocessor_config__json={**VIT, key: value}))
    assert getattr(found, field) is None


@pytest.mark.parametrize("resample", [1, 4, 5])
def test_a_filter_without_a_counterpart_stays_open(resample: int, tmp_path: Path) -> None:
    found = facts_from_folder(_folder(tmp_path, preprocessor_config__json={**VIT, "resample": resample}))
    assert found.interpolation is None
    assert not found.has_preprocessing


@pytest.mark.parametrize(
    ("problem", "multi_label", "activation"),
    [("multi_label_classification", True, "sigmoid"), ("single_label_classification", False, "softmax")],
)
def test_the_task_of_a_hugging_face_model(problem: str, multi_label: bool, activation: str, tmp_path: Path) -> None:
    found = facts_from_folder(_folder(tmp_path, config__json={**CONFIG, "problem_type": problem}))
    assert (found.multi_label, found.activation) == (multi_label, activation)


def test_a_regression_of_hugging_face_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="problem_type 'regression', but this agent classifies images"):
        facts_from_folder(_folder(tmp_path, config__json={**CONFIG, "problem_type": "regression"}))


def test_a_hugging_face_model_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="is of DetrForObjectDetection, but this agent classifies images"):
        facts_from_folder(_folder(tmp_path, config__json={"architectures": ["DetrForObjectDetection"]}))


def test_timm_states_everything(tmp_path: Path) -> None:
    found = facts_from_folder(_folder(tmp_path, config__json=TIMM))
    assert found.has_preprocessing
    assert (found.labels, found.size, found.resize, found.resize_to) == (
        ("ok", "dent"),
        (224, 224),
        "shorter_side",
        235,
    )
    assert (found.interpolation, found.sources["std"]) == ("cubic_antialias", "config.json (timm)")


@pytest.mark.parametrize(
    ("mode", "crop", "resize"),
    [("squash", 1.0, "stretch"), ("squash", 0.95, None), ("border", 1.0, None), ("other", 1.0, None)],
)
def test_the_crop_mode_of_timm(mode: str, crop: float, resize: str | None, tmp_path: Path) -> None:
    config = {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "crop_mode": mode, "crop_pct": crop}}  # type: ignore[dict-item] # a dict
    found = facts_from_folder(_folder(tmp_path, config__json=config))
    assert (found.resize, found.resize_to) == (resize, None)


@pytest.mark.parametrize("changes", [{"input_size": [3, "a", None]}, {"crop_pct": 1e-320}])
def test_values_of_timm_that_cannot_be_used_stay_open(changes: dict[str, object], tmp_path: Path) -> None:
    config = {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], **changes}}  # type: ignore[dict-item] # a dict
    assert facts_from_folder(_folder(tmp_path, config__json=config)).resize_to is None


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ('{"ok": 0, "dent": 1, "rust": 1}', "'dent' and 'rust' are two classes, but both have the number 1"),
        ('{"ok": 0, "dent": [1]}', r"'dent' must have a whole number, but has \[1\]"),
        ('{"ok": 0, "ok": 1}', "the key 'ok' is there twice"),
    ],
)
def test_class_indices_that_name_no_class_each_are_refused(content: str, fact: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=fact):
        facts_from_folder(_folder(tmp_path, class_indices__json=content))


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="whose keys run from 0 without a gap"):
        facts_from_folder(_folder(tmp_path, config__json={"id2label": {"9" * 5000: "ok"}}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data__yaml", "names: [ok, dent]\nnc: 2\n"),
        ("data__yaml", "names:\n  1: dent\n  0: ok\n"),
        ("class_indices__json", {"dent": 1, "ok": 0}),
    ],
)
def test_label_files_of_frameworks(name: str, content: object, tmp_path: Path) -> None:
    assert facts_from_folder(_folder(tmp_path, **{name: content})).labels == ("ok", "dent")


def test_files_that_disagree_are_refused_with_both_and_a_way_out(tmp_path: Path) -> None:
    folder = _folder(tmp_path, config__json=CONFIG, data__yaml="names: [dent, ok]\n")
    with pytest.raises(
        ModelRejected, match=r"config\.json says labels ok, dent, but data\.yaml says dent, ok\..* --labels"
    ):
        facts_from_folder(folder)


@pytest.mark.parametrize("content", ["{", "[]", '"text"', '{"id2label": 3}'])
def test_a_file_that_cannot_be_used_is_named(content: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"config\.json"):
        facts_from_folder(_folder(tmp_path, config__json=content))


def test_a_folder_without_such_files_states_nothing(tmp_path: Path) -> None:
    assert facts_from_folder(_folder(tmp_path, other__json={})) == TrainingFacts()


def test_labels_of_the_user_replace_those_of_the_metadata_that_cannot_be_used() -> None:
    found = facts_from_metadata({**ULTRALYTICS, "names": "{0: 'ok', 2:"}, name="best.onnx", has_labels=True)
    assert found.labels is None
    assert found.has_preprocessing


def test_labels_of_the_user_make_no_classifier_of_a_detector() -> None:
    metadata = {"names": ULTRALYTICS["names"], "task": "detect"}
    with pytest.raises(ModelRejected, match="for the task 'detect'"):
        facts_from_metadata(metadata, name="best.onnx", has_labels=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data__yaml", "names: [1, 2]\n"),
        ("class_indices__json", {"ok": 0, "dent": 0}),
        ("config__json", {**CONFIG, "id2label": 3}),
        ("config__json", {**TIMM, "label_names": 3}),
    ],
)
def test_labels_of_the_user_replace_those_of_a_folder(name: str, content: object, tmp_path: Path) -> None:
    folder = _folder(tmp_path, **{name: content})
    assert facts_from_folder(folder, has_labels=True).labels is None
    with pytest.raises(ModelRejected, match="--labels"):
        facts_from_folder(folder)
