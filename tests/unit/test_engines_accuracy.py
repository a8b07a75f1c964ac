"""The accuracy check: what is compared, what fails, and which stored certificates are used."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import Certificate, EngineInfo, ModelPackage, PrecisionRejected, Scores, load_package
from engines.base import Precision
from engines.check.accuracy import certificate_from
from engines.check.certificate import certificate_record
from engines.graph.agreement import BARS, compare_scores, images_needed, lower_bound, why_failed
from engines.graph.image_set import ImageSet, divided, image_set_of
from tests.conformance.broken_engines import GoodEngine
from tests.fixtures.colour_packages import LABELS, write_colour_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_colour_package(tmp_path_factory.mktemp("package")))


class PreciseEngine(GoodEngine):
    """The engine in memory, reporting a given precision."""

    def __init__(self, precision: Precision) -> None:
        super().__init__(max_batch=4, side=32)
        self._info = EngineInfo(
            name="memory",
            requested="memory",
            precision=precision,
            requested_precision=precision,
            device="memory",
            max_batch=4,
            classes=4,
            versions={"memory": "1"},
        )


def _certificate(
    package: ModelPackage, expected: Scores, actual: Scores, precision: Precision = "int8"
) -> Certificate:
    names = tuple(f"{row}.png" for row in range(len(expected)))
    batch = np.random.default_rng(1).integers(0, 256, (len(expected), 32, 32, 3), dtype=np.uint8)
    images = ImageSet("package", names, names, batch)
    return certificate_from(package, PreciseEngine(precision), expected, actual, images, reference="ort-cpu")


def _answers(count: int = 100) -> Scores:
    scores = np.full((count, 4), 0.1, np.float32)
    scores[np.arange(count), np.arange(count) % 4] = 0.7
    return scores


def test_equal_scores_pass_without_a_disagreement(package: ModelPackage) -> None:
    certificate = _certificate(package, _answers(), _answers())
    assert certificate.has_passed
    found = certificate.comparison
    assert (found.agreement, found.changed, certificate.max_abs_difference) == (1.0, 0, 0.0)
    assert (found.mean_shift, found.p95_shift, found.divergence) == (0.0, 0.0, 0.0)
    assert certificate.cosine == pytest.approx(1)
    assert certificate.worst == ()
    certificate.require()


@pytest.mark.parametrize(
    ("precision", "count", "passing"),
    [("fp32", 100, 1), ("fp16", 1000, 10), ("int8", 87, 2), ("int8", 88, 0), ("int8", 300, 4), ("int8", 1000, 21)],
)
def test_each_precision_has_its_own_number_of_changed_answers(
    package: ModelPackage, precision: Precision, count: int, passing: int
) -> None:
    """int8 with 9 of 300 changed has 0.970, its bar, and the true share may as well be 0.951."""
    expected = _answers(count)
    bars = replace(BARS[precision], mean_shift=1, p95_shift=1, divergence=1)
    for changed in (passing, passing + 1):
        actual = expected.copy()
        actual[:changed] = actual[:changed, ::-1]
        found = compare_scores(package, expected, actual)
        assert found.changed == changed
        missed = why_failed(found, bars)
        assert ("is the minimum" in missed) == (changed > passing), missed


@pytest.mark.parametrize(
    ("kept", "count", "bound"), [(10, 10, 0.787), (97, 100, 0.928), (970, 1000, 0.960), (0, 9, 0)]
)
def test_the_lower_bound_is_wilsons(kept: int, count: int, bound: float) -> None:
    assert lower_bound(kept, count) == pytest.approx(bound, abs=1e-3)


@pytest.mark.parametrize("bound", [0.5, 0.9, 0.97, 0.99])
def test_the_needed_images_are_the_fewest_that_reach_the_bound(bound: float) -> None:
    needed = images_needed(bound)
    assert lower_bound(needed, needed) >= bound > lower_bound(needed - 1, needed - 1)


@given(kept=st.integers(0, 200), more=st.integers(1, 200))
def test_the_lower_bound_is_below_the_share_and_grows_with_the_kept_answers(kept: int, more: int) -> None:
    count = kept + more
    assert 0 <= lower_bound(kept, count) <= kept / count
    assert lower_bound(kept, count) < lower_bound(kept + 1, count)


def test_a_failed_check_is_refused_with_its_figures(package: ModelPackage) -> None:
    certificate = _certificate(package, _answers(), _answers()[:, ::-1].copy())
    with pytest.raises(PrecisionRejected, match=r"memory in int8 .*agree.*agent verify") as caught:
        certificate.require()
    assert caught.value.fields["agreement"] == certificate.comparison.agreement


def test_a_class_within_the_tie_ratio_is_no_changed_label(package: ModelPackage) -> None:
    expected, actual = _answers(), _answers()
    expected[0] = [0.4004, 0.4, 0.1, 0.0996]
    actual[0] = [0.4, 0.4004, 0.1, 0.0996]
    assert _certificate(package, expected, actual, "fp16").comparison.changed == 0
    expected[0] = [0.404, 0.4, 0.1, 0.096]
    assert _certificate(package, expected, actual, "fp16").comparison.changed == 1


def test_the_worst_images_are_named_changed_labels_first(package: ModelPackage) -> None:
    actual = _answers()
    actual[7] = [0.3, 0.31, 0.29, 0.1]
    actual[3, 3] = 0.65
    worst = _certificate(package, _answers(), actual).worst
    assert [one.image for one in worst] == ["7.png", "3.png"]
    assert (worst[0].reference, worst[0].engine) == (LABELS[3], LABELS[1])
    assert worst[1].difference == pytest.approx(0.05, abs=1e-6)


def test_one_image_with_nan_fails_the_check(package: ModelPackage) -> None:
    actual = _answers(1000)
    actual[5, 2] = np.nan
    certificate = _certificate(package, _answers(1000), actual)
    assert certificate.comparison.agreement > certificate.bars.agreement
    assert not certificate.has_passed
    assert "NaN" in certificate.why_not
    assert certificate.worst[0].engine == "not a number"


def test_the_same_scores_for_every_image_fail_even_if_the_labels_agree(package: ModelPackage) -> None:
    expected = np.tile(np.array([0.7, 0.1, 0.1, 0.1], np.float32), (50, 1))
    expected[:, 1] += np.linspace(0, 0.1, 50, dtype=np.float32)
    actual = np.tile(expected[0], (50, 1))
    certificate = _certificate(package, expected, actual)
    assert certificate.comparison.agreement == 1.0
    assert certificate.is_degenerate
    assert "same answer" in certificate.why_not


def test_constant_scores_of_the_reference_do_not_fail_the_engine(package: ModelPackage) -> None:
    constant = np.tile(np.array([0.7, 0.1, 0.1, 0.1], np.float32), (50, 1))
    assert not _certificate(package, constant, constant).is_degenerate


def test_a_certificate_is_read_as_it_was_saved(package: ModelPackage, tmp_path: Path) -> None:
    actual = _answers()
    actual[0] = actual[0, ::-1]
    certificate = _certificate(package, _answers(), actual)
    certificate_record(tmp_path, {"model": "a"}).save(certificate)
    assert certificate_record(tmp_path, {"model": "a"}).load() == certificate
    assert certificate_record(tmp_path, {"model": "b"}).load() is None


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"form": 1, "facts": {}, "value": {"worst": 1}}', "\0"])
def test_a_damaged_certificate_is_not_used(package: ModelPackage, tmp_path: Path, content: str) -> None:
    record = certificate_record(tmp_path, {})
    record.save(_certificate(package, _answers(), _answers()))
    assert record.load() is not None
    record.path.write_text(content)
    assert record.load() is None


def test_images_are_the_golden_and_calibration_images(package: ModelPackage) -> None:
    images = image_set_of(package)
    assert images.source == "package"
    assert images.batch.shape == (4 + 32, 32, 32, 3)


def test_int8_is_never_judged_on_an_image_that_it_is_calibrated_on(tmp_path: Path) -> None:
    folder = write_colour_package(tmp_path, calibration=5)
    # The same image under another name, and a golden image among the calibration images.
    shutil.copy(folder / "calibration/red_0.png", folder / "calibration/again.png")
    shutil.copy(folder / "golden/red.png", folder / "calibration/golden.png")
    division = divided(load_package(folder))
    calibrated, held_out = ({path.read_bytes() for path in part} for part in (division.calibrated, division.held_out))
    assert not calibrated & held_out
    assert (len(calibrated), len(held_out)) == (10, 10 + 4)
    assert division == divided(load_package(folder))


def test_with_an_evaluation_folder_all_calibration_images_calibrate(tmp_path: Path) -> None:
    folder = write_colour_package(tmp_path, calibration=5, evaluation=3)
    package = load_package(folder)
    division = divided(package)
    assert (len(division.calibrated), len(division.held_out)) == (20, 4 + 12)
    assert image_set_of(package, precision="int8").batch.shape[0] == 16
    assert image_set_of(package, precision="fp16").batch.shape[0] == 36
    # An image in both folders judges.
    shutil.copy(folder / "calibration/red_0.png", folder / "evaluation/red_99.png")
    division = divided(load_package(folder))
    assert (len(division.calibrated), len(division.held_out)) == (19, 4 + 13)


def test_a_folder_of_images_that_int8_is_calibrated_on_is_refused(tmp_path: Path) -> None:
    folder = write_colour_package(tmp_path, calibration=3, evaluation=2)
    package = load_package(folder)
    with pytest.raises(FileNotFoundError, match="int8 is calibrated on all of them"):
        image_set_of(package, folder / "calibration", precision="int8")
    shutil.copy(folder / "evaluation/red_0.png", folder / "calibration/other.png")
    assert image_set_of(load_package(folder), folder / "calibration", precision="int8").names == ("other.png",)


def test_a_package_without_images_is_compared_on_different_synthetic_ones(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path, calibration=0, golden=False))
    images = image_set_of(package)
    assert images.source == "synthetic"
    assert len(np.unique(images.batch.reshape(len(images.batch), -1), axis=0)) == len(images.batch)
    np.testing.assert_array_equal(images.batch, image_set_of(package).batch)


def test_a_folder_without_images_is_refused(package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no image"):
        image_set_of(package, tmp_path)
