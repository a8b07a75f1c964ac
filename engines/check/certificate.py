"""How an engine compares with the reference: the certificate, and the store that keeps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from engines.base import Precision
from engines.errors import PrecisionRejected
from engines.store.atomic import write_atomically


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One picture on which the engine is far from the reference; ``difference`` is the largest of its classes."""

    image: str
    reference: str
    engine: str
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How an engine's answers compare with the reference's on the same pictures.

    ``agreement`` is the ratio of pictures with the same top-1 class, or with one that the reference holds for as
    likely (within 0.5 %); ``flips`` counts the others. Differences are of probabilities; ``cosine`` is the smallest of
    all pictures. ``source`` says what the pictures are: ``package``, ``folder`` or ``synthetic``. ``is_degenerate``:
    the engine gives the same answer to every picture where the reference does not. ``int8_form`` is how the graph
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
            return f"{self.non_finite} of {self.images} pictures gave NaN or infinity"
        if self.is_degenerate:
            return f"all {self.images} pictures gave the same answer, the reference tells them apart"
        if self.agreement < self.bar:
            return (
                f"top-1 agreement with {self.reference} is {self.agreement:.3f} on {self.images} pictures, "
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
                "Use a safer precision, or see which pictures differ: agent verify",
                engine=self.engine,
                precision=self.requested_precision,
                agreement=self.agreement,
                bar=self.bar,
                images=self.images,
            )


class CertificateStore:
    """Certificates on disk, one file each, named by everything that they are true of."""

    def __init__(self, cache_dir: Path) -> None:
        """Keep them under ``cache_dir``."""
        self._folder = cache_dir / "certificates"

    def load(self, key: Mapping[str, object]) -> Certificate | None:
        """Give the certificate of ``key``, None where there is none that can be read."""
        try:
            values = json.loads(self._path(key).read_text())
            known = {field.name for field in fields(Certificate)}
            worst = tuple(Disagreement(**one) for one in values.pop("worst"))
            kept = tuple(values.pop("kept_layers"))
            return Certificate(
                **{name: value for name, value in values.items() if name in known}, worst=worst, kept_layers=kept
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def save(self, key: Mapping[str, object], certificate: Certificate) -> None:
        """Write a certificate atomically."""
        write_atomically(self._path(key), json.dumps(certificate.as_dict(), indent=1).encode())

    def _path(self, key: Mapping[str, object]) -> Path:
        text = json.dumps(key, sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
