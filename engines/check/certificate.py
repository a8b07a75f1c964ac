"""How an engine compares with the reference: the certificate, and the store that keeps it."""

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
    """One image on which the engine is far from the reference; ``difference`` is the largest of its classes."""

    image: str
    reference: str
    engine: str
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How an engine's answers compare with the reference's on the same images.

    ``agreement`` is the ratio of images with the same top-1 class, or with one that the reference holds for as
    likely (within 0.5 %); ``flips`` counts the others. Differences are of probabilities; ``cosine`` is the smallest of
    all images. ``source`` says what the images are: ``package``, ``folder`` or ``synthetic``. ``is_degenerate``:
    the engine gives the same answer to every image where the reference does not. ``int8_form`` is how the graph
    stored its numbers, None in other precisions.
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
    bar: float
    flips: int
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
        """One sentence on why the engine must not serve; empty where it may."""
        if self.non_finite:
            return f"{self.non_finite} of {self.images} images gave NaN or infinity"
        if self.is_degenerate:
            return f"all {self.images} images gave the same answer, the reference tells them apart"
        if self.agreement < self.bar:
            return (
                f"top-1 agreement with {self.reference} is {self.agreement:.3f} on {self.images} images, "
                f"the bar is {self.bar:.2f}"
            )
        return ""

    def as_dict(self) -> dict[str, object]:
        """Give plain values for JSON, the verdict with them."""
        return {**asdict(self), "passed": self.has_passed, "why_not": self.why_not}

    def as_parity(self) -> dict[str, float | str | bool]:
        """Give what ``EngineInfo.parity`` publishes."""
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
        """Refuse an engine that has not passed.

        Raises:
            PrecisionRejected: with the reason.
        """
        if not self.has_passed:
            raise PrecisionRejected(
                f"{self.engine} in {self.requested_precision} loses answers of {self.model}: {self.why_not}. "
                "Use a safer precision, or see which images differ: agent verify",
                engine=self.engine,
                precision=self.requested_precision,
                agreement=self.agreement,
                bar=self.bar,
                images=self.images,
            )


def certificate_record(cache_dir: Path, facts: Mapping[str, object]) -> JsonRecord[Certificate]:
    """The certificate that is true of ``facts``, below ``cache_dir``."""
    path = record_path(cache_dir / "certificates", facts)
    return JsonRecord(path, encode=Certificate.as_dict, decode=_certificate_from, facts=facts)


def _certificate_from(values: dict[str, Any]) -> Certificate:
    known = {field.name for field in fields(Certificate)}
    given = {name: value for name, value in values.items() if name in known}
    worst = tuple(Disagreement(**one) for one in given.pop("worst"))
    return Certificate(**given | {"worst": worst, "kept_layers": tuple(given["kept_layers"])})
