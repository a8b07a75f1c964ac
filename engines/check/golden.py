"""Known answers: the images of a package whose labels are known, run through an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.base import Engine
from engines.errors import GoldenMismatch, InferenceFailed
from engines.graph.resize import Resizer
from engines.package.images import read_image
from engines.package.load import ModelPackage


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenResult:
    """One image: what was expected and what the engine gave. Confidences are 0 to 1."""

    path: Path
    expected: str
    min_confidence: float
    got: str
    confidence: float

    @property
    def is_right(self) -> bool:
        """Whether label and confidence are as stated."""
        return self.got == self.expected and self.confidence >= self.min_confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenReport:
    """All golden images of a package on one engine, in the manifest's order."""

    engine: str
    results: tuple[GoldenResult, ...]

    @property
    def wrong(self) -> tuple[GoldenResult, ...]:
        """The images that did not give their known answer."""
        return tuple(result for result in self.results if not result.is_right)


def run_golden(package: ModelPackage, engine: Engine) -> GoldenReport:
    """Classify every golden image of ``package``; call it from the thread that owns ``engine``.

    Raises:
        ImageRejected: a golden image cannot be read.
        InferenceFailed: the engine failed, or gave something that is no number.
    """
    resizer = Resizer(package.input)
    batch = np.empty((1, package.input.height, package.input.width, 3), np.uint8)
    results: list[GoldenResult] = []
    for golden in package.golden:
        resizer.fill(read_image(golden.path), batch[0])
        scores = engine.infer(batch)[0]
        if not np.isfinite(scores).all():
            raise InferenceFailed(f"{engine.info.name} gave NaN or infinity for {golden.path}", image=str(golden.path))
        index = int(scores.argmax())
        results.append(
            GoldenResult(
                path=golden.path,
                expected=golden.label,
                min_confidence=golden.min_confidence,
                got=package.labels[index],
                confidence=float(scores[index]),
            )
        )
    return GoldenReport(engine=engine.info.name, results=tuple(results))


def check_golden(package: ModelPackage, engine: Engine) -> GoldenReport:
    """``run_golden``, refusing the engine where a image does not give its known answer.

    Raises:
        GoldenMismatch: with the image, what was expected and what was given.
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
