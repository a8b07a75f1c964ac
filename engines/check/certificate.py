"""The certificate: how an engine's scores compare with the reference's, and its record in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engines.base import Precision
from engines.errors import PrecisionRejected
from engines.store.records import JsonRecord, record_path


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An image on which the engine is far from the reference; ``difference`` is the largest over its classes."""

    image: str
    reference: str
    engine: str
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Result of an accuracy check: an engine and the reference on the same images.

    ``agreement``: the ratio of images that keep their top-1 class; a class within 0.5 % of the reference's best counts
    as kept. ``changed_labels``: the number of the others. Differences are of probabilities; ``cosine`` is the lowest
    over all images. ``source``: where the images are from, ``package``, ``folder`` or ``synthetic``.
    ``is_degenerate``: the engine gives the same scores for every image and the reference does not. ``int8_form``: how
    an int8 graph stores its numbers, else None.
    """

    model: str
    model_sha256: str
    engine: str
    precision: Precision
    requested_precision: Precision
    reference: str
    versions: Mapping[str, str]
    source: str
    images: int
    agreement: float
    min_agreement: float
    changed_labels: int
    max_abs_difference: float
    mean_abs_difference: float
    cosine: float
    non_finite: int
    is_degenerate: bool
    worst: tuple[Disagreement, ...] = ()
    kept_layers: tuple[str, ...] = ()
    int8_form: str | None = None

    @property
    def has_passed(self) -> bool:
        """Whether the engine may serve."""
        return not self.why_not

    @property
    def why_not(self) -> str:
        """One sentence on why the engine must not serve; empty if it may."""
        # First, because NaN scores also lower the agreement, and the message must name the cause.
        if self.non_finite:
            return f"{self.non_finite} of {self.images} images gave NaN or infinity"
        if self.is_degenerate:
            return f"all {self.images} images gave the same answer, but with {self.reference} they differ"
        if self.agreement < self.min_agreement:
            return (
                f"top-1 agreement with {self.reference} is {self.agreement:.3f} on {self.images} images, "
                f"but the minimum is {self.min_agreement:.2f}"
            )
        return ""

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON, with the result."""
        return {**asdict(self), "passed": self.has_passed, "why_not": self.why_not}

    def as_accuracy(self) -> dict[str, float | str | bool]:
        """Return the value of ``EngineInfo.accuracy``."""
        return {
            "passed": self.has_passed,
            "reference": self.reference,
            "source": self.source,
            "images": float(self.images),
            "top1_agreement": self.agreement,
            "max_abs_difference": self.max_abs_difference,
            "cosine": self.cosine,
        }

    def require(self) -> None:
        """Refuse an engine that has failed the check.

        Raises:
            PrecisionRejected: with the reason.
        """
        if not self.has_passed:
            raise PrecisionRejected(
                f"{self.engine} in {self.requested_precision} fails the accuracy check of {self.model}: "
                f"{self.why_not}. "
                "Use a safer precision, or see which images differ: agent verify",
                engine=self.engine,
                precision=self.requested_precision,
                agreement=self.agreement,
                min_agreement=self.min_agreement,
                images=self.images,
            )


def certificate_record(cache_dir: Path, facts: Mapping[str, object]) -> JsonRecord[Certificate]:
    """Return the record, below ``cache_dir``, of the certificate for ``facts``."""
    path = record_path(cache_dir / "certificates", facts)
    return JsonRecord(path, encode=Certificate.as_dict, decode=_certificate_from, facts=facts)


def _certificate_from(values: dict[str, Any]) -> Certificate:
    known = {field.name for field in fields(Certificate)}
    # as_dict also writes computed values (passed, why_not), which are no fields.
    given = {name: value for name, value in values.items() if name in known}
    worst = tuple(Disagreement(**one) for one in given.pop("worst"))
    return Certificate(**given | {"worst": worst, "kept_layers": tuple(given["kept_layers"])})
