"""The certificate: how an engine's scores compare with the reference's, and its record in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engines.base import Precision
from engines.errors import PrecisionRejected
from engines.graph.agreement import (
    MAX_LABEL_SHARE,
    MIN_DETECTIONS,
    Bars,
    Comparison,
    LabelCount,
    why_failed,
)
from engines.graph.image_set import DRAWN
from engines.store.records import JsonRecord, record_path

_NAMED = 3


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

    ``images``: those that count, ``image_hashes`` the sha256 of their files; ``idle_images`` are flat or repeated. For
    int8 none of them was calibrated on. ``source``: where they are from, ``package``, ``folder`` or ``synthetic``.
    ``comparison`` has the figures by which ``bars`` judge; ``task`` decides what an answer is. The
    other differences are of probabilities; ``cosine`` is the lowest over all images. ``is_degenerate``: the engine
    gives the same scores for every image and the reference does not. ``int8_form``: how an int8 graph stores its
    numbers, else None.
    """

    model: str
    model_sha256: str
    task: str
    engine: str
    precision: Precision
    requested_precision: Precision
    reference: str
    versions: Mapping[str, str]
    source: str
    images: int
    idle_images: int
    image_hashes: tuple[str, ...]
    classes: int
    comparison: Comparison
    bars: Bars
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
        """Whether the engine may serve; ``is_proven`` says more."""
        return not self.why_not

    @property
    def is_proven(self) -> bool:
        """Whether the engine has passed on images that suffice for a proof."""
        return self.has_passed and not self.why_not_proven

    @property
    def is_of_reference(self) -> bool:
        """Whether the engine is the reference itself, so that equal scores say nothing."""
        return self.reference == f"{self.engine} {self.precision}"

    @property
    def why_not(self) -> str:
        """One sentence on why the engine must not serve; empty if it may."""
        # First, because NaN scores also lower the agreement, and the message must name the cause.
        if self.non_finite:
            return f"{self.non_finite} of {self.comparison.images} images gave NaN or infinity"
        if self.is_degenerate:
            return f"all {self.comparison.images} images gave the same answer, but with {self.reference} they differ"
        missed = why_failed(self.comparison, self.bars)
        return f"compared with {self.reference}, {missed}" if missed else ""

    @property
    def why_not_proven(self) -> str:
        """Which images are missing for a proof, and where to put them; empty if none are."""
        needed = self.bars.min_images
        if not needed:
            return ""
        others = " and are not in its calibration folder" if self.requested_precision == "int8" else ""
        advice = (
            f"Put images that are typical of what the cameras see{others} into a folder of the package, and name it "
            "in model.yaml: evaluation: evaluation/"
        )
        if self.source == DRAWN:
            return f"the package has no images, but {needed} are needed. {advice}"
        if self.images < needed:
            idle = f" ({self.idle_images} more are flat or repeated)" if self.idle_images else ""
            return (
                f"it was compared on {self.images} images{idle}, but {needed} are needed. {needed - self.images} are "
                f"missing. {advice}"
            )
        missing = self._missing_answers()
        return f"{missing}. {advice}" if missing else ""

    def _missing_answers(self) -> str:
        """Which answers the images do not have: a set with one label only says nothing about the others."""
        found = self.comparison
        if not found.labels:
            if found.largest_share <= MAX_LABEL_SHARE:
                return ""
            return (
                f"{found.largest_share:.0%} of its {self.images} images have the same label, but at most "
                f"{MAX_LABEL_SHARE:.0%} may. Images of other labels are missing"
            )
        rare = [
            f"{count.label!r} ({min(count.reference, found.images - count.reference)})"
            for count in found.labels
            if not MIN_DETECTIONS <= count.reference <= found.images - MIN_DETECTIONS
        ]
        if not rare:
            return ""
        more = f" and {len(rare) - _NAMED} more labels" if len(rare) > _NAMED else ""
        return (
            f"of its {self.images} images too few have, or too few lack, {', '.join(rare[:_NAMED])}{more}, but "
            f"{MIN_DETECTIONS} each are needed. Images of these are missing"
        )

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON, with the result."""
        return {
            **asdict(self),
            "passed": self.has_passed,
            "why_not": self.why_not,
            "proven": self.is_proven,
            "why_not_proven": self.why_not_proven,
            "is_of_reference": self.is_of_reference,
        }

    def as_accuracy(self) -> dict[str, float | str | bool]:
        """Return the value of ``EngineInfo.accuracy``."""
        found = self.comparison
        return {
            "passed": self.has_passed,
            "proven": self.is_proven,
            "reference": self.reference,
            "task": self.task,
            "source": self.source,
            "images": float(self.images),
            "top1_agreement": found.agreement,
            "agreement_at_least": found.at_least,
            "mean_shift": found.mean_shift,
            "divergence": found.divergence,
            "max_abs_difference": self.max_abs_difference,
            "cosine": self.cosine,
        }

    def require(self) -> None:
        """Refuse an engine that has failed the check. One that is not proven is refused by ``strict``, elsewhere.

        Raises:
            PrecisionRejected: with the reason.
        """
        if not self.has_passed:
            raise PrecisionRejected(
                f"{self.engine} in {self.requested_precision} fails the accuracy check of {self.model}: "
                f"{self.why_not}. Use a safer precision, or see which images differ: agent verify",
                engine=self.engine,
                precision=self.requested_precision,
                agreement=self.comparison.agreement,
                at_least=self.comparison.at_least,
                images=self.images,
            )


def certificate_record(cache_dir: Path, facts: Mapping[str, object]) -> JsonRecord[Certificate]:
    """Return the record, below ``cache_dir``, of the certificate for ``facts``."""
    path = record_path(cache_dir / "certificates", facts)
    return JsonRecord(path, encode=Certificate.as_dict, decode=_certificate_from, form=2, facts=facts)


def _certificate_from(values: dict[str, Any]) -> Certificate:
    known = {field.name for field in fields(Certificate)}
    # as_dict also writes computed values (passed, why_not), which are no fields.
    given = {name: value for name, value in values.items() if name in known}
    found = given["comparison"]
    labels = tuple(LabelCount(**one) for one in found["labels"])
    return Certificate(
        **given
        | {
            "comparison": Comparison(**found | {"labels": labels}),
            "bars": Bars(**given["bars"]),
            "worst": tuple(Disagreement(**one) for one in given["worst"]),
            "image_hashes": tuple(given["image_hashes"]),
            "kept_layers": tuple(given["kept_layers"]),
        }
    )
