"""Golden images and the package check: a mismatch is refused with image, labels and confidences."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import pytest

from engines.base import EngineInfo, Images, Scores
from engines.check.golden import check_golden, run_golden
from engines.check.package_check import check_package
from engines.errors import GoldenMismatch, ImageRejected, InferenceFailed, ModelRejected
from engines.package.load import ModelPackage, load_package
from tests.fixtures.colour_packages import write_colour_package
from tests.fixtures.packages import PackageFiles, TinyModel


class ColorEngine:
    """Classifies by the brightest channel: blue, green or red is class 0, 1 or 2 with 0.9."""

    def __init__(self, value: float = 0.9) -> None:
        self.value = value
        self.info = EngineInfo(
            name="colors", requested="colors", precision="fp32", requested_precision="fp32", device="cpu",
            max_batch=1, classes=5,
        )  # fmt: skip

    def infer(self, batch: Images) -> Scores:
        scores = np.full((len(batch), 5), 0.02, np.float32)
        scores[np.arange(len(batch)), batch.mean(axis=(1, 2)).argmax(axis=1)] = self.value
        return scores

    def interrupt(self) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> ColorEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def package_with(tmp_path: Path, *answers: tuple[int, str, float]) -> ModelPackage:
    """A package whose golden images are of one colour each."""
    files = PackageFiles.of()
    files.manifest["golden"] = []
    for place, (channel, label, confidence) in enumerate(answers):
        image = np.zeros((20, 30, 3), np.uint8)
        image[:, :, channel] = 200
        files.extra[f"golden/{place}.png"] = cv2.imencode(".png", image)[1].tobytes()
        files.manifest["golden"].append({"image": f"golden/{place}.png", "label": label, "min_confidence": confidence})
    return load_package(files.write(tmp_path))


def test_right_results_are_reported_in_order(tmp_path: Path) -> None:
    package = package_with(tmp_path, (2, "cedar", 0.8), (0, "ash", 0.85))
    report = check_golden(package, ColorEngine())
    assert [(result.got, round(result.confidence, 3)) for result in report.results] == [("cedar", 0.9), ("ash", 0.9)]
    assert report.engine == "colors"
    assert report.wrong == ()


def test_a_wrong_label_is_refused_with_image_expected_got_and_confidence(tmp_path: Path) -> None:
    package = package_with(tmp_path, (2, "cedar", 0.8), (0, "birch", 0.5))
    with pytest.raises(GoldenMismatch) as caught:
        check_golden(package, ColorEngine())
    for fact in ("golden/1.png", "'birch'", "0.500", "'ash'", "0.900", "1 of 2"):
        assert fact in caught.value.message
    assert caught.value.fields["expected"] == "birch"
    assert caught.value.exit_code == 78


def test_too_little_confidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch, match=r"at least 0\.800, got 'ash' with 0\.600"):
        check_golden(package_with(tmp_path, (0, "ash", 0.8)), ColorEngine(0.6))


def test_run_golden_reports_all_images(tmp_path: Path) -> None:
    report = run_golden(package_with(tmp_path, (0, "fir", 0.0), (1, "birch", 0.0), (2, "fir", 0.0)), ColorEngine())
    assert [result.path.name for result in report.wrong] == ["0.png", "2.png"]


def test_nan_scores_are_a_failure_and_not_a_class(tmp_path: Path) -> None:
    with pytest.raises(InferenceFailed, match="NaN"):
        run_golden(package_with(tmp_path, (0, "ash", 0.0)), ColorEngine(float("nan")))


def test_a_damaged_golden_image_is_named(tmp_path: Path) -> None:
    package = package_with(tmp_path, (0, "ash", 0.0))
    package.golden[0].path.write_bytes(b"gone")
    with pytest.raises(ImageRejected, match=r"0\.png"):
        check_golden(package, ColorEngine())


def test_a_good_package_passes_on_the_reference_engine(tmp_path: Path) -> None:
    check = check_package(package_with(tmp_path, (0, "ash", 0.0), (1, "ash", 0.0)))
    assert check.golden.engine == "ort-cpu"
    assert len(check.golden.results) == 2
    assert (check.max_batch, check.opset) == (None, 13)


def test_missing_golden_images_and_a_wrong_directory_name_are_warnings(tmp_path: Path) -> None:
    directory = PackageFiles.of().write(tmp_path).rename(tmp_path / "other")
    warnings = check_package(load_package(directory)).warnings
    assert any("golden" in warning for warning in warnings)
    assert any("other" in warning and "trees-1.0.0" in warning for warning in warnings)


def hidden_softmax(tmp_path: Path, activation: str) -> ModelPackage:
    """A model whose softmax is hidden in exp, sum and division."""
    import onnx
    from onnx import helper, numpy_helper

    model = TinyModel(output_name="x").proto()
    model.graph.node.extend(
        [
            helper.make_node("Exp", ["x"], ["e"]),
            helper.make_node("ReduceSum", ["e", "axes"], ["s"], keepdims=1),
            helper.make_node("Div", ["e", "s"], ["logits"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
    model.graph.output[0].name = "logits"
    onnx.checker.check_model(model)
    files = PackageFiles.of().with_model(model.SerializeToString())
    files.manifest["output"] = {"activation": activation}
    return load_package(files.write(tmp_path))


def test_a_hidden_second_softmax_is_found_by_running_the_model(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"already gives probabilities .*sums from 1 to 1.*activation: none"):
        check_package(hidden_softmax(tmp_path, "softmax"))


def test_a_hidden_softmax_passes_with_activation_none(tmp_path: Path) -> None:
    assert check_package(hidden_softmax(tmp_path, "none")).raw.sums_to_one


def test_logits_declared_as_probabilities_are_found_by_running_the_model(tmp_path: Path) -> None:
    files = PackageFiles.of()
    files.manifest["output"] = {"activation": "none"}
    with pytest.raises(ModelRejected, match=r"values from -.*no activation is missing.*activation: softmax"):
        check_package(load_package(files.write(tmp_path)))


def test_scores_that_do_not_sum_to_one_are_a_warning_unless_the_task_says_so(tmp_path: Path) -> None:
    files = PackageFiles.of(TinyModel(ending="sigmoid"))
    check = check_package(load_package(files.write(tmp_path)))
    assert not any("not 1" in warning for warning in check.warnings)
    files.manifest["output"]["task"] = "single_label"
    (tmp_path / "single").mkdir()
    check = check_package(load_package(files.write(tmp_path / "single")))
    assert any("not 1" in warning and "multi_label" in warning for warning in check.warnings)


def test_too_few_images_for_a_proof_of_int8_are_a_warning(tmp_path: Path) -> None:
    few = check_package(load_package(write_colour_package(tmp_path / "few", calibration=4))).warnings
    # 16 calibration images, of which 8 are held out, and 4 golden ones.
    assert any("judged on 12 images" in text and "needs 88. Put 76 more" in text for text in few)
    enough = check_package(load_package(write_colour_package(tmp_path / "enough", calibration=4, evaluation=21)))
    assert not any("int8" in text for text in enough.warnings)
