"""The accuracy check: what is compared, what fails, and which stored certificates are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines import Certificate, EngineInfo, ModelPackage, PrecisionRejected, Scores, load_package
from engines.base import Precision
from engines.check.accuracy import certificate_from
from engines.check.certificate import certificate_record
from engines.graph.image_set import ImageSet, image_set_of
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
    images = ImageSet("package", names, np.zeros((len(expected), 32, 32, 3), np.uint8))
    return certificate_from(package, PreciseEngine(precision), expected, actual, images, reference="ort-cpu")


def _answers(count: int = 100) -> Scores:
    scores = np.full((count, 4), 0.1, np.float32)
    scores[np.arange(count), np.arange(count) % 4] = 0.7
    return scores


def test_equal_scores_pass_without_a_disagreement(package: ModelPackage) -> None:
    certificate = _certificate(package, _answers(), _answers())
    assert certificate.has_passed
    assert (certificate.agreement, certificate.changed_labels, certificate.max_abs_difference) == (1.0, 0, 0.0)
    assert certificate.cosine == pytest.approx(1)
    assert certificate.worst == ()
    certificate.require()


@pytest.mark.parametrize(("precision", "changed"), [("fp32", 1), ("fp16", 1), ("int8", 3)])
def test_each_precision_has_its_own_minimum_agreement(
    package: ModelPackage, precision: Precision, changed: int
) -> None:
    actual = _answers()
    actual[:changed] = actual[:changed, ::-1]
    assert _certificate(package, _answers(), actual, precision).has_passed
    actual[changed] = actual[changed, ::-1]
    certificate = _certificate(package, _answers(), actual, precision)
    assert not certificate.has_passed
    assert "the minimum is" in certificate.why_not
    with pytest.raises(PrecisionRejected, match=rf"memory in {precision} .*agent verify"):
        certificate.require()


def test_a_class_within_the_tie_ratio_is_no_changed_label(package: ModelPackage) -> None:
    expected, actual = _answers(), _answers()
    expected[0] = [0.4004, 0.4, 0.1, 0.0996]
    actual[0] = [0.4, 0.4004, 0.1, 0.0996]
    assert _certificate(package, expected, actual, "fp16").changed_labels == 0
    expected[0] = [0.404, 0.4, 0.1, 0.096]
    assert _certificate(package, expected, actual, "fp16").changed_labels == 1


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
    assert certificate.agreement > certificate.min_agreement
    assert not certificate.has_passed
    assert "NaN" in certificate.why_not
    assert certificate.worst[0].engine == "not a number"


def test_the_same_scores_for_every_image_fail_even_if_the_labels_agree(package: ModelPackage) -> None:
    expected = np.tile(np.array([0.7, 0.1, 0.1, 0.1], np.float32), (50, 1))
    expected[:, 1] += np.linspace(0, 0.1, 50, dtype=np.float32)
    actual = np.tile(expected[0], (50, 1))
    certificate = _certificate(package, expected, actual)
    assert certificate.agreement == 1.0
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


def test_a_package_without_images_is_compared_on_different_synthetic_ones(tmp_path: Path) -> None:
    package = load_package(write_colour_package(tmp_path, calibration=0, golden=False))
    images = image_set_of(package)
    assert images.source == "synthetic"
    assert len(np.unique(images.batch.reshape(len(images.batch), -1), axis=0)) == len(images.batch)
    np.testing.assert_array_equal(images.batch, image_set_of(package).batch)


def test_a_folder_without_images_is_refused(package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no image"):
        image_set_of(package, tmp_path)
