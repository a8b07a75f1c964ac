"""`agent verify`: its exit codes and what it prints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import pytest

from agent.__main__ import main
from engines.graph.ort_library import library
from tests.fixtures.colour_packages import colour_image, outlier_model, write_colour_package


@pytest.fixture(scope="module", autouse=True)
def _library_is_loaded() -> None:
    library()


def _verify(tmp_path: Path, folder: Path, *more: str) -> int:
    return main(["verify", "--package", str(folder), "--cache", str(tmp_path / "cache"), *more])


def test_an_engine_that_keeps_the_labels_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_colour_package(tmp_path, evaluation=22)
    assert _verify(tmp_path, folder, "--engine", "ort-cpu", "--precision", "int8", "--json") == 0
    certificate = json.loads(capsys.readouterr().out)
    assert certificate["passed"] is True
    assert certificate["engine"] == "ort-cpu"
    assert certificate["precision"] == "int8"
    assert (certificate["proven"], certificate["why_not_proven"]) == (True, "")
    assert (certificate["images"], certificate["task"]) == (92, "single_label")
    found, bars = certificate["comparison"], certificate["bars"]
    assert (found["agreement"], found["changed"], bars["lower_bound"]) == (1.0, 0, 0.97)
    assert found["at_least"] > bars["lower_bound"]
    judged = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("[eg]*/*.png")}
    assert set(certificate["image_hashes"]) == judged


def test_too_few_images_are_no_proof_and_the_text_says_how_many_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_colour_package(tmp_path)
    assert _verify(tmp_path, folder, "--engine", "ort-cpu", "--precision", "int8") == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "not proven: it was compared on 20 images, but 88 are needed. 68 are missing." in output
    assert "not in its calibration folder" in output
    assert "model.yaml: evaluation: evaluation/" in output


def test_an_engine_that_changes_labels_on_a_folder_fails_and_names_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated on red alone, an outlier in one layer goes unnoticed until other colours come."""
    folder = write_colour_package(tmp_path, model=outlier_model(layers=1), golden=False, calibration=2)
    for path in (folder / "calibration").glob("*.png"):
        if not path.name.startswith("gray"):
            path.unlink()
    images = tmp_path / "images"
    images.mkdir()
    for label in ("red", "green", "blue", "gray"):
        cv2.imwrite(str(images / f"[{label}].png"), colour_image(label, seed=70))
    command = ("--engine", "ort-cpu", "--precision", "int8", "--images", str(images))
    assert _verify(tmp_path, folder, *command) == 1
    output = capsys.readouterr().out
    assert "failed: " in output
    assert "[red].png" in output


def test_the_reference_agrees_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _verify(tmp_path, write_colour_package(tmp_path, calibration=0), "--engine", "ort-cpu") == 0
    output = capsys.readouterr().out
    assert "agreement   1.0000, the minimum is 0.99" in output
    assert "nothing was compared: ort-cpu in fp32 is the reference itself, so its scores are equal" in output
    assert "agent model check" in output
    assert "passed" not in output


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--engine", "ort-cud"), 78, "did you mean ort-cuda?"),
        (("--engine", "torch"), 69, "torch needs a torch.export program"),
        (("--engine", "ort-cpu", "--precision", "int8"), 69, "no calibration images"),
        (
            ("--engine", "auto", "--precision", "int8"),
            69,
            "auto selected ort-cpu in fp32, but you asked to verify int8",
        ),
        (("--engine", "ort-cpu", "--precision", "int4"), 2, "int4"),
        (("--engine", "ort-cpu", "--images", "/dev/null"), 2, "/dev/null"),
    ],
)
def test_each_reason_not_to_verify_has_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], code: int, words: str
) -> None:
    assert _verify(tmp_path, write_colour_package(tmp_path, calibration=0), *more) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_folder_without_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    folder = write_colour_package(tmp_path, calibration=0)
    assert _verify(tmp_path, folder, "--engine", "ort-cpu", "--images", str(tmp_path / "empty")) == 2
    assert "holds no image" in capsys.readouterr().err


def test_options_reach_the_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_colour_package(tmp_path, calibration=0)
    assert _verify(tmp_path, folder, "--engine", "ort-cpu", "--option", "threads=0") == 78
    assert "option threads of engine ort-cpu is 0" in capsys.readouterr().err
    assert _verify(tmp_path, folder, "--engine", "ort-cpu", "--option", "threads=x=[") == 78
    assert _verify(tmp_path, folder, "--engine", "ort-cpu", "--option", "threads=[1") == 2
    assert _verify(tmp_path, folder, "--engine", "ort-cpu", "--option", "threads=2") == 0
