"""Golden images: images of a package with known labels, run through an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.base import Engine, Images, Scores
from engines.errors import GoldenMismatch, InferenceFailed
from engines.graph.resize import Resizer
from engines.package.decisions import answer_for
from engines.package.images import read_image
from engines.package.load import GoldenImage, ModelPackage


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenResult:
    """Result for one image: the expected and the actual label. Confidences are 0 to 1."""

    path: Path
    expected: str
    min_confidence: float
    got: str
    confidence: float

    @property
    def is_right(self) -> bool:
        """Whether label and confidence are as expected."""
        return self.got == self.expected and self.confidence >= self.min_confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenReport:
    """The results of all golden images of a package on one engine, in the manifest's order."""

    engine: str
    results: tuple[GoldenResult, ...]

    @property
    def wrong(self) -> tuple[GoldenResult, ...]:
        """The images that were not classified as expected."""
        return tuple(result for result in self.results if not result.is_right)


def run_golden(package: ModelPackage, engine: Engine) -> GoldenReport:
    """Classify every golden image of ``package``; call it on the thread that owns ``engine``.

    Raises:
        ImageRejected: a golden image cannot be read.
        InferenceFailed: the engine failed, or gave NaN or infinity.
    """
    resizer, name = Resizer(package.input), engine.info.name
    results = tuple(
        golden_result(package, golden, engine.infer(golden_input(package, golden, resizer)), engine=name)
        for golden in package.golden
    )
    return GoldenReport(engine=name, results=results)


def golden_input(package: ModelPackage, golden: GoldenImage, resizer: Resizer) -> Images:
    """Read and scale one golden image: ``(1, H, W, 3)`` uint8 BGR, a fresh array.

    Raises:
        ImageRejected: it cannot be read.
    """
    batch = np.empty((1, package.input.height, package.input.width, 3), np.uint8)
    resizer.fill(read_image(golden.path), batch[0])
    return batch


def golden_result(package: ModelPackage, golden: GoldenImage, scores: Scores, *, engine: str) -> GoldenResult:
    """Compare ``scores``, ``(1, classes)`` float32 of the engine named ``engine``, with what ``golden`` expects.

    Raises:
        InferenceFailed: they hold NaN or infinity.
    """
    row = scores[0]
    if not np.isfinite(row).all():
        raise InferenceFailed(
            f"{engine} gave NaN or infinity for {golden.path}. Use fp32, and check the model: agent verify",
            image=str(golden.path),
        )
    got, confidence = answer_for(package, row, golden.label)
    return GoldenResult(
        path=golden.path,
        expected=golden.label,
        min_confidence=golden.min_confidence,
        got=got,
        confidence=confidence,
    )


def check_golden(package: ModelPackage, engine: Engine) -> GoldenReport:
    """``run_golden``, and refuse the engine if an image is not classified as expected.

    Raises:
        GoldenMismatch: with the image, the expected and the actual result.
        ImageRejected, InferenceFailed: see ``run_golden``.
    """
    report = run_golden(package, engine)
    for result in report.wrong:
        raise GoldenMismatch(
            f"golden image {result.path} on {report.engine}: expected {result.expected!r} with at least "
            f"{result.min_confidence:.3f}, got {result.got!r} with {result.confidence:.3f} "
            f"({len(report.wrong)} of {len(report.results)} wrong). Is the manifest's preprocessing that of the "
            "training, and the model the right one?",
            image=str(result.path),
            expected=result.expected,
            min_confidence=result.min_confidence,
            got=result.got,
            confidence=result.confidence,
        )
    return report
