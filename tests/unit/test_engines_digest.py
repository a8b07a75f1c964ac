"""The digest of a package covers everything that changes an answer, and is checked where the manifest states it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from engines import EngineOptions, ImportRequest, ModelRejected, check_package, describe, import_model, load_package
from engines.select.selection import selection_key
from tests.fixtures.colour_packages import LABELS, colour_model, write_colour_package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_colour_package(tmp_path, calibration=1, evaluation=1)


def _edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = yaml.safe_load((folder / "model.yaml").read_text())
    change(manifest)
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))


def _state(folder: Path) -> str:
    digest = load_package(folder).digest
    _edit(folder, lambda manifest: manifest.update(package_sha256=digest))
    return digest


def _section(name: str, **values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        _edit(folder, lambda manifest: manifest.update({name: {**dict(manifest[name]), **values}}))  # type: ignore[call-overload]  # a section

    return change


def _reversed_labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("\n".join(reversed(LABELS)))


def _swapped(one: str, other: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
        (folder / one).write_bytes(second)
        (folder / other).write_bytes(first)

    return change


CHANGES: dict[str, Callable[[Path], object]] = {
    "the order of the labels": _reversed_labels,
    "the scale": _section("input", scale=1.0),
    "the colour order": _section("input", color="bgr"),
    "the activation": _section("output", activation="none"),
    "a calibration image": _swapped("calibration/red_0.png", "golden/red.png"),
    "two calibration images swapped": _swapped("calibration/red_0.png", "calibration/blue_0.png"),
    "a calibration image left out": lambda folder: (folder / "calibration/red_0.png").unlink(),
    "a calibration image renamed": lambda folder: (folder / "calibration/red_0.png").rename(
        folder / "calibration/x.png"
    ),
    "an evaluation image": _swapped("evaluation/red_0.png", "calibration/red_0.png"),
    "a golden label's confidence": lambda folder: _edit(
        folder,
        lambda manifest: manifest["golden"][0].update(min_confidence=0.9),  # type: ignore[index]  # a list
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_an_answer_is_refused_where_the_digest_is_stated(folder: Path, name: str) -> None:
    stated = _state(folder)
    CHANGES[name](folder)
    with pytest.raises(ModelRejected, match="states package_sha256") as caught:
        load_package(folder)
    assert stated in caught.value.message
    assert caught.value.exit_code == 78
    # The error has the digest to state if the change is intended.
    _edit(folder, lambda manifest: manifest.update(package_sha256=caught.value.fields["found"]))
    assert load_package(folder).digest != stated


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_an_answer_has_another_digest_and_another_measurement(
    folder: Path, tmp_path: Path, name: str
) -> None:
    first = load_package(folder)
    CHANGES[name](folder)
    second = load_package(folder)
    assert first.digest != second.digest
    here, options = describe(), EngineOptions(cache_dir=tmp_path)
    assert selection_key(first, options, here) != selection_key(second, options, here)


def test_what_changes_no_answer_keeps_the_digest(folder: Path) -> None:
    stated = _state(folder)
    _edit(folder, lambda manifest: manifest.update(license="MIT", version="2.0.0"))
    (folder / "labels.txt").write_bytes("\r\n".join(LABELS).encode() + b"\r\n")
    (folder / "calibration/notes.txt").write_text("taken on Monday")
    assert load_package(folder).digest == stated


def test_an_unreadable_image_is_named(folder: Path) -> None:
    (folder / "calibration/red_0.png").unlink()
    (folder / "calibration/red_0.png").mkdir()
    with pytest.raises(ModelRejected, match=r"red_0\.png cannot be read"):
        load_package(folder)


def test_an_import_states_the_digest_and_a_package_without_one_gets_a_warning(tmp_path: Path) -> None:
    (tmp_path / "colours.onnx").write_bytes(colour_model().SerializeToString())
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    check = import_model(
        ImportRequest(
            model=tmp_path / "colours.onnx", labels=tmp_path / "labels.txt", out=tmp_path / "out", preset="raw01"
        )
    )
    assert check.package.is_digest_stated
    assert not any("package_sha256" in warning for warning in check.warnings)
    folder = check.package.directory
    _edit(folder, lambda manifest: manifest.pop("package_sha256"))
    warnings = check_package(load_package(folder)).warnings
    assert any(f"package_sha256: {check.package.digest}" in warning for warning in warnings)
