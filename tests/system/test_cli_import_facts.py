"""`agent model import` takes what the model's files say, shows from where, and asks only for the rest."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from agent.__main__ import main
from engines.package.load import load_package
from tests.fixtures.packages import LABELS, TinyModel

ULTRALYTICS = {"task": "classify", "imgsz": "[8, 8]", "names": str(dict(enumerate(LABELS)))}


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A model that one of these tests has imported is known to the others, which then start no child for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        yield


def _model(path: Path, metadata: dict[str, str] | None = None, **tiny: Any) -> Path:
    proto = TinyModel(**{"height": 8, "width": 8, **tiny}).proto()
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def _import(model: Path, out: Path, *more: str) -> int:
    return main(["model", "import", str(model), "--name", "net", "--output", str(out), *more])


def test_a_model_that_states_everything_needs_no_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _import(_model(tmp_path / "best.ONNX", ULTRALYTICS), tmp_path) == 0
    package = load_package(tmp_path / "net-1.0.0")
    assert package.labels == LABELS
    assert (package.input.resize, package.input.resize_to) == ("shorter_side", 8)
    assert package.input.interpolation == "linear_antialias"
    assert package.input.scale == pytest.approx(1 / 255)
    assert (package.input.mean, package.input.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    out = capsys.readouterr().out
    assert "taken        labels, size, color" in out
    assert "from metadata of best.ONNX (Ultralytics)" in out


def test_an_option_counts_before_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcde"), encoding="utf-8")
    model = _model(tmp_path / "best.onnx", ULTRALYTICS)
    values = ("--mean", "0.1,0.2,0.3", "--std", "0.5", "--scale", "0.5")
    options = ("--labels", str(labels), "--resize", "stretch", *values)
    assert _import(model, tmp_path, *options, "--json") == 0
    package = load_package(tmp_path / "net-1.0.0")
    assert package.labels == tuple("abcde")
    assert (package.input.mean, package.input.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert (package.input.scale, package.input.resize, package.input.color) == (0.5, "stretch", "rgb")
    taken = json.loads(capsys.readouterr().out)["taken"]
    place = "metadata of best.onnx (Ultralytics)"
    assert taken == dict.fromkeys(("size", "color", "resize_to", "interpolation"), place)


def test_a_preset_that_the_files_contradict_is_used_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _import(_model(tmp_path / "best.onnx", ULTRALYTICS), tmp_path, "--preset", "imagenet") == 0
    warnings = capsys.readouterr().err
    assert "preset imagenet says mean 0.485 0.456 0.406, but metadata of best.onnx (Ultralytics) says 0" in warnings
    assert "says color" not in warnings
    assert load_package(tmp_path / "net-1.0.0").input.mean == (0.485, 0.456, 0.406)


def test_what_no_file_states_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vision = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    model = _model(tmp_path / "model.onnx", vision)
    assert _import(model, tmp_path) == 78
    assert "names the labels. Give --labels" in capsys.readouterr().err
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS), encoding="utf-8")
    assert _import(model, tmp_path, "--labels", str(labels)) == 78
    error = capsys.readouterr().err
    assert "--resize, --interpolation are not known (the rest is in metadata of model.onnx (Image.*))" in error
    assert _import(model, tmp_path, "--labels", str(labels), "--resize", "stretch", "--interpolation", "linear") == 0
    assert load_package(tmp_path / "net-1.0.0").input.color == "bgr"


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ("{0: 'ok', 2:", "names in the metadata must be a list of names"),
        ("['ok', 'dent']", "error: metadata of best.onnx (Ultralytics) has 2 labels, but the model has 5 classes"),
    ],
)
def test_labels_replace_those_of_a_file_that_cannot_be_used(
    names: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model(tmp_path / "best.onnx", {**ULTRALYTICS, "names": names})
    assert _import(model, tmp_path) == 78
    assert error in capsys.readouterr().err
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS), encoding="utf-8")
    assert _import(model, tmp_path, "--labels", str(labels)) == 0
    assert load_package(tmp_path / "net-1.0.0").labels == LABELS


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx", "vit.onnx"])
def test_a_folder_of_hugging_face_is_imported(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vit"
    _model(folder / place)
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["ViTForImageClassification"], "id2label": dict(enumerate(LABELS))})
    )
    preprocessor = {"size": {"height": 8, "width": 8}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    too_small = {**preprocessor, "size": {"shortest_edge": 6}, "do_center_crop": True, "crop_size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(too_small))
    assert main(["model", "import", str(folder), "--output", str(tmp_path)]) == 78
    assert "preprocessor_config.json says resize_to 6, but the crop is 8x8" in capsys.readouterr().err
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    assert main(["model", "import", str(folder), "--output", str(tmp_path)]) == 0
    package = load_package(tmp_path / "vit-1.0.0")
    assert package.labels == LABELS
    assert (package.input.interpolation, package.input.resize) == ("cubic_antialias", "stretch")
    assert (package.input.mean, package.input.std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_size_that_the_model_contradicts_is_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model(tmp_path / "best.onnx", {**ULTRALYTICS, "imgsz": "[16, 8]"})
    assert _import(model, tmp_path, "--preset", "raw255") == 78
    error = capsys.readouterr().err
    assert "input is 8x8 (height x width), but metadata of best.onnx (Ultralytics) says 16x8" in error
    assert "give --size 8x8" in error
    assert _import(model, tmp_path, "--preset", "raw255", "--size", "8x8") == 0


@pytest.mark.parametrize(
    ("names", "words"), [((), "it has none. Export the model first"), (("a.onnx", "b.onnx"), "a.onnx, b.onnx")]
)
def test_a_folder_without_exactly_one_model_is_refused(
    names: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        _model(folder / name)
    assert _import(folder, tmp_path) == 78
    assert words in capsys.readouterr().err


def test_a_multi_label_model_of_hugging_face_states_its_task(tmp_path: Path) -> None:
    folder = tmp_path / "multi"
    _model(folder / "model.onnx")
    config = {"id2label": dict(enumerate(LABELS)), "problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    assert _import(folder, tmp_path, "--preset", "raw255") == 0
    output = load_package(tmp_path / "net-1.0.0").output
    assert (output.task.value, output.activation) == ("multi_label", "sigmoid")


@pytest.mark.parametrize("values", ["", "a,b", "0.1,,0.2", "nan", "1,2"])
def test_values_per_channel_that_cannot_be_used_are_refused(
    values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = _import(_model(tmp_path / "best.onnx", ULTRALYTICS), tmp_path, "--mean", values)
    assert code == (78 if values == "1,2" else 2)
    error = capsys.readouterr().err
    assert ("mean has 2 values" if values == "1,2" else "write it like 0.485,0.456,0.406") in error
    assert not (tmp_path / "net-1.0.0").exists()


def test_a_label_of_several_classes_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {**dict(enumerate(LABELS)), 4: LABELS[0]}
    model = _model(tmp_path / "best.onnx", {**ULTRALYTICS, "names": str(names)})
    assert _import(model, tmp_path) == 0
    assert f"several classes have the label {LABELS[0]!r}" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["unknown", "stale"])
def test_a_label_that_is_a_word_of_the_agent_is_a_warning(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model(tmp_path / "best.onnx", {**ULTRALYTICS, "names": str({**dict(enumerate(LABELS)), 4: word})})
    assert _import(model, tmp_path) == 0
    assert f"there is a label {word!r}, but the agent has this word" in capsys.readouterr().err


def test_one_of_several_models_in_a_folder_may_be_named(tmp_path: Path) -> None:
    _model(tmp_path / "other.onnx")
    named = _model(tmp_path / "named.onnx", ULTRALYTICS)
    assert onnx.load(named).metadata_props
    assert _import(named, tmp_path) == 0


def _several(path: Path) -> Path:
    """A model with a label beside its logits, and a switch beside its image."""
    proto = onnx.load(_model(path, ULTRALYTICS))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("training", onnx.TensorProto.BOOL, []))
    proto.graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["label"], axis=1))
    proto.graph.node.append(onnx.helper.make_node("Identity", ["training"], ["echo"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, [1, 1]))
    onnx.save(proto, path)
    return path


def _image_input(model: Path) -> str:
    return str(onnx.load(model).graph.input[0].name)


def test_outputs_and_constants_are_asked_for_and_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _several(tmp_path / "best.onnx")
    assert _import(model, tmp_path, "--constant", "training=false") == 78
    error = capsys.readouterr().err
    assert f"{model} has 2 outputs: logits (float32 1x5), label (int64 1x1), but one holds the scores" in error
    assert "--output-name NAME" in error
    assert _import(model, tmp_path, "--output-name", "logits") == 78
    assert "training (bool scalar), but one takes the image" in capsys.readouterr().err
    chosen = ("--output-name", "logits", "--constant", "training=false")
    assert _import(model, tmp_path, *chosen, "--constant", f"{_image_input(model)}=1") == 78
    assert "has no input left, but one takes the image. Remove the image's input" in capsys.readouterr().err
    assert _import(model, tmp_path, *chosen) == 0
    package = load_package(tmp_path / "net-1.0.0")
    assert (package.output.name, package.input.constants) == ("logits", (("training", (0.0,)),))


def test_the_axes_of_batch_and_classes_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = onnx.load(_model(tmp_path / "best.onnx", ULTRALYTICS))
    image, scores = proto.graph.input[0], proto.graph.output[0]
    proto.graph.node[0].input[0] = "turned"
    proto.graph.node.insert(0, onnx.helper.make_node("Transpose", [image.name], ["turned"], perm=[3, 0, 1, 2]))
    proto.graph.node.append(onnx.helper.make_node("Transpose", [scores.name], ["last"], perm=[1, 0]))
    image.CopyFrom(onnx.helper.make_tensor_value_info(image.name, onnx.TensorProto.FLOAT, [3, 8, 8, "N"]))
    scores.CopyFrom(onnx.helper.make_tensor_value_info("last", onnx.TensorProto.FLOAT, [5, "N"]))
    onnx.save(proto, tmp_path / "best.onnx")
    assert _import(tmp_path / "best.onnx", tmp_path) == 78
    assert "(axis 0: 3, axis 1: 8, axis 2: 8, axis 3: ?)" in (error := capsys.readouterr().err)
    assert "--batch-axis N" in error
    assert _import(tmp_path / "best.onnx", tmp_path, "--batch-axis", "3") == 78
    assert "(axis 0: 5, axis 1: ?)" in (error := capsys.readouterr().err)
    assert "--class-axis N" in error
    assert _import(tmp_path / "best.onnx", tmp_path, "--batch-axis", "3", "--class-axis", "0") == 0
    package = load_package(tmp_path / "net-1.0.0")
    assert (package.input.batch_axis, package.output.class_axis) == (3, 0)


@pytest.mark.parametrize("value", ["training", "=1", "training=maybe", "training=1,,2", "training=inf"])
def test_a_constant_that_cannot_be_read_is_a_usage_error(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _import(tmp_path / "best.onnx", tmp_path, "--constant", value) == 2
    assert "write it like training=false or size=224,224" in capsys.readouterr().err


def test_errors_name_the_files_that_were_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _model(tmp_path / "best.onnx", ULTRALYTICS)
    labels = tmp_path / "my names.csv"
    labels.write_text("\n".join("abcd"), encoding="utf-8")
    assert _import(model, tmp_path, "--labels", str(labels)) == 78
    error = capsys.readouterr().err
    assert f"{labels} has 4 labels, but the model has 5 classes" in error
    assert "--offset 1" in error
    assert _import(model, tmp_path, "--activation", "none", "--preset", "raw255") == 78
    assert f"{model} gives values from" in capsys.readouterr().err
    photo = tmp_path / "my photo.png"
    cv2.imwrite(str(photo), np.full((8, 8, 3), 90, np.uint8))
    wrong = [f"{photo}={label}" for label in LABELS[:2]]
    assert _import(model, tmp_path, *(part for one in wrong for part in ("--golden", one))) == 78
    assert f"{photo}: expected" in capsys.readouterr().err


def test_calibration_images_keep_their_names(tmp_path: Path) -> None:
    for name in ("morning/one.png", "evening/one.png", "two ü.PNG"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    model = _model(tmp_path / "best.onnx", ULTRALYTICS)
    assert _import(model, tmp_path, "--calibration", str(tmp_path / "images")) == 0
    package = load_package(tmp_path / "net-1.0.0")
    kept = {path.relative_to(package.directory / "calibration").as_posix() for path in package.calibration}
    assert kept == {"morning/one.png", "evening/one.png", "two ü.PNG"}


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("timm:resnet18", (), "its weights are not given. Give --checkpoint"),
        ("timm:resnet18", ("--checkpoint", "missing.pth"), "--checkpoint missing.pth is no file"),
        ("net.onnx", ("--checkpoint", "missing.pth"), "Name the architecture: timm:resnet18"),
    ],
)
def test_a_checkpoint_and_an_architecture_belong_together(
    given: str, options: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _import(Path(given), tmp_path, *options) == 78
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_an_export_without_pytorch_says_what_to_install(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("PyTorch is installed here")
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(LABELS))}))
    (folder / "model.safetensors").write_bytes(b"weights")
    given = folder if kind == "transformers" else Path("timm:resnet18")
    options = ("--size", "8x8") if kind == "transformers" else ("--checkpoint", str(folder / "model.safetensors"))
    assert _import(given, tmp_path, *options) == 69
    assert "torch cannot be imported" in capsys.readouterr().err
    assert not (tmp_path / "net-1.0.0").exists()
