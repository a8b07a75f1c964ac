"""Golden images: images of a package with known labels, run through an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.base import Engine
from engines.errors import GoldenMismatch, InferenceFailed
from engines.graph.resize import Resizer
from engines.package.decisions import answer_for
from engines.package.images import read_image
from engines.package.load import ModelPackage


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
    resizer = Resizer(package.input)
    batch = np.empty((1, package.input.height, package.input.width, 3), np.uint8)
    results: list[GoldenResult] = []
    for golden in package.golden:
        resizer.fill(read_image(golden.path), batch[0])
        scores = engine.infer(batch)[0]
        if not np.isfinite(scores).all():
            raise InferenceFailed(f"{engine.info.name} gave NaN or infinity for {golden.path}", image=str(golden.path))
        got, confidence = answer_for(package, scores, golden.label)
        results.append(
            GoldenResult(
                path=golden.path,
                expected=golden.label,
                min_confidence=golden.min_confidence,
                got=got,
                confidence=confidence,
            )
        )
    return GoldenReport(engine=engine.info.name, results=tuple(results))


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
