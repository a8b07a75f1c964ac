"""`agent model` imports, checks and lists packages, with an exit code for each outcome."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from agent.__main__ import main
from engines.check.package_check import PackageCheck, check_package
from engines.package.load import load_package
from tests.fixtures.deadlines import wait_until
from tests.fixtures.packages import LABELS, PackageFiles, TinyModel


@pytest.fixture(autouse=True, scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A model that one of these tests has imported is known to the others, which then start no child for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A model, its labels and a golden image."""
    (tmp_path / "Tree Net.onnx").write_bytes(TinyModel().proto().SerializeToString())
    (tmp_path / "labels.json").write_text(json.dumps(LABELS), encoding="utf-8")
    noise = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), noise)
    return tmp_path


def import_(material: Path, *more: str, preset: str = "raw255") -> int:
    command = ["model", "import", str(material / "Tree Net.onnx"), "--labels", str(material / "labels.json")]
    return main([*command, "--preset", preset, "--output", str(material / "out"), *more])


def answer(material: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The label that the model gives to the image."""
    import_(material, "--golden", f"{material / 'photo.png'}=none of them")
    capsys.readouterr()
    for label in LABELS:
        if import_(material, "--golden", f"{material / 'photo.png'}={label}", "--name", "probe") == 0:
            capsys.readouterr()
            return label
        capsys.readouterr()
    raise AssertionError("no label is right")


def test_import_writes_a_package_that_loads_and_checks(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = answer(material, capsys)
    (material / "cal").mkdir()
    cv2.imwrite(str(material / "cal/x.jpg"), np.zeros((9, 9, 3), np.uint8))
    known = ["--golden", f"{material / 'photo.png'}={label}", "--calibration", str(material / "cal")]
    code = import_(material, *known, "--license", "MIT", "--json")
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["version"], told["classes"], told["activation"]) == ("tree-net", "1.0.0", 5, "softmax")
    assert (told["batch"], told["passed"], told["golden"], told["calibration"]) == ("dynamic", True, 1, 1)
    package = load_package(material / "out/tree-net-1.0.0")
    assert package.labels == LABELS
    assert package.license == "MIT"
    assert main(["model", "check", str(package.directory)]) == 0
    out = capsys.readouterr().out
    assert "photo.png" in out
    assert "right" in out


def test_a_package_is_written_into_a_relative_folder(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(material)
    command = ["model", "import", "Tree Net.onnx", "--labels", "labels.json", "--preset", "raw255", "--name", "part"]
    assert main([*command, "--output", "models"]) == 0
    assert load_package(material / "models/part-1.0.0").labels == tuple(LABELS)


def test_nothing_is_left_behind_by_a_refused_import(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = answer(material, capsys)
    wrong = next(other for other in LABELS if other != label)
    assert import_(material, "--golden", f"{material / 'photo.png'}={wrong}", "--name", "wrong") == 78
    error = capsys.readouterr().err
    assert f"expected {wrong!r}, got {label!r}" in error
    assert "preset raw255" in error
    assert [path.name for path in (material / "out").iterdir()] == ["probe-1.0.0"]


def test_a_package_is_replaced_only_by_force(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_(material, "--license", "MIT") == 0
    assert import_(material, "--license", "BSD") == 78
    assert "--force" in capsys.readouterr().err
    assert load_package(material / "out/tree-net-1.0.0").license == "MIT"
    assert import_(material, "--license", "BSD", "--force") == 0
    assert load_package(material / "out/tree-net-1.0.0").license == "BSD"
    assert [path.name for path in (material / "out").iterdir()] == ["tree-net-1.0.0"]


@pytest.mark.parametrize(
    ("ending", "task", "found"),
    [
        ("none", None, "softmax"),
        ("none", "multi_label", "sigmoid"),
        ("softmax", "single_label", "none"),
        ("sigmoid", "multi_label", "none"),
        ("log_softmax", None, "softmax"),
    ],
)
def test_the_missing_activation_is_found_automatically(
    material: Path, ending: str, task: str | None, found: str
) -> None:
    (material / "Tree Net.onnx").write_bytes(TinyModel(ending=ending).proto().SerializeToString())
    assert import_(material, *(() if task is None else ("--task", task))) == 0
    output = load_package(material / "out/tree-net-1.0.0").output
    assert (output.activation, output.task.value) == (found, task or "single_label")


def test_sigmoids_without_a_task_are_not_imported(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (material / "Tree Net.onnx").write_bytes(TinyModel(ending="sigmoid").proto().SerializeToString())
    assert import_(material) == 78
    assert "--task" in capsys.readouterr().err
    assert not (material / "out/tree-net-1.0.0").exists()


def test_a_binary_model_is_imported_with_both_labels(material: Path) -> None:
    (material / "Tree Net.onnx").write_bytes(TinyModel(classes=1).proto().SerializeToString())
    (material / "labels.json").write_text(json.dumps(["ok", "defect"]), encoding="utf-8")
    assert import_(material, "--task", "binary", "--positive", "defect") == 0
    package = load_package(material / "out/tree-net-1.0.0")
    assert (package.labels, package.output.positive, package.signature.classes) == (("defect", "ok"), "defect", 1)


@pytest.mark.parametrize(
    ("preset", "color", "mean", "resize"),
    [
        ("imagenet", "rgb", (0.485, 0.456, 0.406), ("shorter_side", 9)),
        ("tf", "rgb", (1.0, 1.0, 1.0), ("stretch", None)),
        ("caffe", "bgr", (104.0, 117.0, 123.0), ("shorter_side", 9)),
        ("raw01", "rgb", (0.0, 0.0, 0.0), ("stretch", None)),
    ],
)
def test_a_preset_is_written_out_in_the_manifest(
    material: Path, preset: str, color: str, mean: tuple[float, ...], resize: tuple[str, int | None]
) -> None:
    assert import_(material, preset=preset) == 0
    spec = load_package(material / "out/tree-net-1.0.0").input
    assert (spec.color, spec.mean, (spec.resize, spec.resize_to)) == (color, mean, resize)


def test_options_override_the_preset(material: Path) -> None:
    options = ["--color", "bgr", "--resize", "shorter_side", "--resize-to", "20", "--interpolation", "area"]
    assert import_(material, *options, "--version", "2", "--name", "x") == 0
    spec = load_package(material / "out/x-2").input
    assert (spec.color, spec.resize, spec.resize_to, spec.interpolation) == ("bgr", "shorter_side", 20, "area")


def test_a_gray_model_gets_gray_and_dynamic_sides_need_a_size(
    material: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = TinyModel(channels=1, dynamic_sides=True, batch="N")
    (material / "Tree Net.onnx").write_bytes(tiny.proto().SerializeToString())
    assert import_(material) == 78
    assert "--size WIDTHxHEIGHT" in capsys.readouterr().err
    assert import_(material, "--size", "8x6") == 0
    spec = load_package(material / "out/tree-net-1.0.0").input
    assert (spec.color, spec.width, spec.height) == ("gray", 8, 6)


@pytest.mark.parametrize(
    ("tiny", "options", "preset", "fact"),
    [
        (
            TinyModel(channels=1),
            ["--color", "rgb"],
            "raw255",
            "takes 1 channel(s), but --color rgb gives 3. Remove --color",
        ),
        (
            TinyModel(dtype="uint8"),
            [],
            "tf",
            "takes uint8, so it normalises its input, but the preprocessing in preset tf would do it again",
        ),
        (
            TinyModel(classes=1),
            ["--activation", "softmax", "--task", "multi_label"],
            "raw255",
            "they sum to 1 and exclude each other. Set task: single_label, or activation: sigmoid",
        ),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused_with_both_facts(
    material: Path, capsys: pytest.CaptureFixture[str], tiny: TinyModel, options: list[str], preset: str, fact: str
) -> None:
    (material / "Tree Net.onnx").write_bytes(tiny.proto().SerializeToString())
    (material / "labels.json").write_text(json.dumps(LABELS[: tiny.classes]), encoding="utf-8")
    assert import_(material, *options, preset=preset) == 78
    assert fact in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "found"), [("none", "sigmoid"), ("sigmoid", "none")])
def test_a_model_with_one_class_gets_a_sigmoid_and_is_asked_for_its_task(
    material: Path, capsys: pytest.CaptureFixture[str], ending: str, found: str
) -> None:
    (material / "Tree Net.onnx").write_bytes(TinyModel(classes=1, ending=ending).proto().SerializeToString())
    (material / "labels.json").write_text(json.dumps(LABELS[:1]), encoding="utf-8")
    assert import_(material) == 78
    refusal = capsys.readouterr().err
    assert "Tree Net.onnx gives one score for the one label 'ash', but the task is not stated" in refusal
    assert "--task multi_label" in refusal
    assert import_(material, "--task", "multi_label") == 0
    assert load_package(material / "out/tree-net-1.0.0").output.activation == found


def test_a_damaged_calibration_image_is_found_before_int8_needs_it(
    material: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (material / "cal").mkdir()
    image = cv2.imencode(".jpg", np.zeros((40, 40, 3), np.uint8))[1].tobytes()
    (material / "cal/half.jpg").write_bytes(image)
    assert import_(material, "--calibration", str(material / "cal")) == 0
    (material / "out/tree-net-1.0.0/calibration/00001.jpg").write_bytes(image[:-9])
    (material / "cal/half.jpg").write_bytes(image[:-9])
    capsys.readouterr()
    package = material / "out/tree-net-1.0.0"
    assert main(["model", "check", str(package)]) == 78
    assert "an image" in capsys.readouterr().err
    manifest = (package / "model.yaml").read_text().splitlines()
    kept = [line for line in manifest if not line.startswith("package_sha256")]
    (package / "model.yaml").write_text("\n".join(kept))
    assert main(["model", "check", str(package)]) == 78
    assert "calibration/00001.jpg: truncated" in capsys.readouterr().err
    assert import_(material, "--calibration", str(material / "cal"), "--name", "other") == 78
    assert f"{material / 'cal/half.jpg'}: truncated" in capsys.readouterr().err


def test_a_dangling_link_counts_as_existing(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (material / "out").mkdir()
    (material / "out/tree-net-1.0.0").symlink_to(material / "gone")
    assert import_(material) == 78
    assert "already exists" in capsys.readouterr().err
    assert import_(material, "--force") == 0
    assert not (material / "out/tree-net-1.0.0").is_symlink()


def test_a_package_that_came_meanwhile_is_kept(
    material: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = material / "out/tree-net-1.0.0"

    def another_import_is_faster(*given: Any, **options: Any) -> PackageCheck:
        package.mkdir()
        (package / "model.yaml").write_text("the other one")
        return check_package(*given, **options)

    monkeypatch.setattr("engines.check.importer.check_package", another_import_is_faster)
    assert import_(material) == 78
    assert "already exists" in capsys.readouterr().err
    assert (package / "model.yaml").read_text() == "the other one"
    assert [path.name for path in (material / "out").iterdir()] == [package.name], "nothing is left behind"


def test_missing_external_data_is_named(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = TinyModel().proto()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, str(material / "Tree Net.onnx"))
    (material / "weights.bin").unlink()
    assert import_(material) == 78
    assert "external data of Tree Net.onnx 'weights.bin' is named, but" in capsys.readouterr().err
    (material / "weights.bin").mkdir()
    assert import_(material) == 78
    assert "weights.bin of " in capsys.readouterr().err


def test_an_invalid_model_is_named_with_the_node(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = TinyModel().proto()
    model.graph.node[0].input[0] = "nothing"
    (material / "Tree Net.onnx").write_bytes(model.SerializeToString())
    assert import_(material) == 78
    error = capsys.readouterr().err
    assert f"{material / 'Tree Net.onnx'} is not a valid ONNX model" in error
    assert "OpType: Cast" in error


def test_external_data_is_merged_into_one_file(material: Path) -> None:
    model = TinyModel().proto()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, str(material / "Tree Net.onnx"))
    assert (material / "weights.bin").stat().st_size > 0
    assert import_(material) == 0
    package = load_package(material / "out/tree-net-1.0.0")
    assert sorted(path.name for path in package.directory.iterdir()) == ["labels.json", "model.onnx", "model.yaml"]


@pytest.mark.parametrize(
    ("options", "code", "fact"),
    [
        (["--preset", "vgg"], 2, "'imagenet'"),
        (["--size", "big"], 2, "224x224"),
        (["--size", "0x8"], 2, "224x224"),
        (["--size", "8²x8"], 2, "224x224"),
        (["--golden", "photo.jpg"], 2, "photo.jpg=cat"),
        (["--offset", "2"], 2, "0<=x<=1"),
        (["--name", "Tree"], 78, "'Tree' does not match"),
        (["--version", "a/b"], 78, "'a/b' does not match"),
        (["--size", "9x9"], 78, "6x8 (height x width), but --size is 9x9"),
        (["--offset", "1"], 78, "5 labels with offset 1, but the model has 5 classes"),
        (["--activation", "none"], 78, "activation: softmax"),
        (
            ["--resize", "letterbox", "--resize-to", "9"],
            78,
            "--resize-to 9 needs --resize shorter_side, but resize is letter",
        ),
        (
            ["--resize", "shorter_side", "--resize-to", "7"],
            78,
            "--resize-to 7, but the crop is 8x6, the model's input. Give --resize-to of at least 8",
        ),
        (["--color", "gray"], 78, "the model takes 3 channel(s), but --color gray gives 1. Give --color rgb or bgr"),
        (["--golden", "nowhere.jpg=ash"], 78, "nowhere.jpg"),
        (["--calibration", "nowhere"], 78, "nowhere is not a directory"),
        (["--labels", "nowhere"], 78, "nowhere"),
        (["--task", "binary"], 78, "out/tree-net-1.0.0/model.yaml:"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(
    material: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, fact: str
) -> None:
    assert import_(material, *options) == code
    error = capsys.readouterr().err
    assert fact in error
    assert ".import-" not in error  # where the package is made until it is whole
    assert not (material / "out").exists() or not list((material / "out").iterdir())


def test_check_fails_with_1_if_a_golden_image_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = PackageFiles.of()
    files.extra["a.png"] = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    files.manifest["golden"] = [{"image": "a.png", "label": "ash", "min_confidence": 0.99}]
    directory = files.write(tmp_path)
    assert main(["model", "check", str(directory)]) == 1
    assert "1 of 1 golden images are wrong" in capsys.readouterr().out
    assert main(["model", "check", str(directory), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["golden_results"][0]["right"] is False


def test_check_refuses_a_damaged_package_with_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = PackageFiles.of().write(tmp_path)
    (directory / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert main(["model", "check", str(directory)]) == 78
    assert "Git LFS pointer" in capsys.readouterr().err


def test_list_shows_good_packages_and_names_rejected_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    PackageFiles.of().write(tmp_path / "a")
    assert main(["model", "list", str(tmp_path)]) == 0
    assert "trees\t1.0.0" in capsys.readouterr().out
    broken = PackageFiles.of()
    broken.labels = b"one\n"
    broken.write(tmp_path / "b")
    assert main(["model", "list", str(tmp_path)]) == 1
    assert "1 labels" in capsys.readouterr().err
    assert main(["model", "list", str(tmp_path), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [("rejected" in row) for row in rows] == [False, True]
    assert main(["model", "list", str(tmp_path / "nowhere")]) == 2


def test_a_terminated_import_leaves_nothing_behind(material: Path) -> None:
    (material / "cal").mkdir()
    for place in range(2000):
        (material / f"cal/{place}.png").symlink_to(material / "photo.png")
    command = [sys.executable, "-m", "agent", "model", "import", str(material / "Tree Net.onnx"), "--preset", "raw01"]
    more = ["--labels", str(material / "labels.json"), "--output", str(material / "out"), "--calibration"]
    with subprocess.Popen([*command, *more, str(material / "cal")], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: bool(list((material / "out").glob(".import-*/*/calibration"))), within_s=30.0)
        process.terminate()
        assert process.wait(30.0) == 130
    assert not (material / "out").exists()


def test_the_real_program_imports_a_model(material: Path) -> None:
    command = [sys.executable, "-m", "agent", "model", "import", str(material / "Tree Net.onnx"), "--preset", "raw01"]
    done = subprocess.run(
        [*command, "--labels", str(material / "labels.json"), "--output", str(material)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the package is valid")
    assert (material / "tree-net-1.0.0/model.yaml").is_file()


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        ("--std", "0.2,0,0.2", "has 0, but values are divided by it"),
        ("--std", "-1", "has -1, but values are divided by it"),
        ("--scale", "0", "0 leaves nothing of an image"),
        ("--scale", "inf", "inf leaves nothing of an image"),
        ("--scale", "nan", "nan leaves nothing of an image"),
    ],
)
def test_a_number_that_no_image_survives_is_a_mistake_of_the_command_line(
    material: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, fact: str
) -> None:
    (material / "Tree Net.onnx").write_bytes(TinyModel().proto().SerializeToString())
    assert import_(material, option, value) == 2
    assert fact in capsys.readouterr().err
    assert not (material / "out").exists()
