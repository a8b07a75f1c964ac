"""Compares an engine's answers with those of ONNX Runtime's CPU provider in fp32, and writes down the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.atomic import write_atomically
from engines.base import Engine, Images, Precision, Scores
from engines.errors import PrecisionRejected
from engines.images import read_image
from engines.int8_forms import DETAIL
from engines.package import ModelPackage
from engines.resize import Resizer

BARS: Mapping[Precision, float] = {"fp32": 0.99, "fp16": 0.99, "int8": 0.97}
"""Top-1 agreement that a precision must reach at least."""

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_LISTED = 5
_SYNTHETIC = 32
# Below this spread between pictures a probability is taken as constant: fp16 resolves 5e-4 near 1.
_CONSTANT = 1e-7

# Two classes that the reference itself holds for equally likely, to a part of the leading one's probability: rounding
# alone decides which one leads.
_TIE_RATIO = 0.005

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


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


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures at the model's size, ``(K, H, W, 3)`` uint8 BGR, with a name for each."""

    source: str
    names: tuple[str, ...]
    batch: Images


def pictures_of(package: ModelPackage, folder: Path | None = None) -> Pictures:
    """Read the pictures of ``folder``, or the package's golden and calibration ones, or draw some where it has none.

    Raises:
        ImageRejected: a picture cannot be read.
        FileNotFoundError: ``folder`` holds no picture.
    """
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
        if not paths:
            raise FileNotFoundError(f"{folder} holds no picture ({', '.join(_PICTURES)}). Name a folder that does")
        return pictures_from(package, paths, source="folder")
    paths = list(dict.fromkeys(package.pictures(first="golden")))
    return pictures_from(package, paths) if paths else _drawn(package)


def pictures_from(package: ModelPackage, paths: Sequence[Path], *, source: str = "package") -> Pictures:
    """Read pictures and bring them to the model's size.

    Raises:
        ImageRejected: a picture cannot be read.
    """
    size = package.input
    batch = np.empty((len(paths), size.height, size.width, 3), np.uint8)
    resizer = Resizer(size)
    for row, path in enumerate(paths):
        resizer.fill(read_image(path), batch[row])
    return Pictures(source, tuple(path.name for path in paths), batch)


def compare(
    package: ModelPackage,
    engine: Engine,
    reference: Engine,
    pictures: Pictures,
    *,
    kept_layers: tuple[str, ...] = (),
) -> Certificate:
    """Run both engines on ``pictures`` and compare, row by row.

    Raises:
        InferenceFailed: an engine failed or gave no number at all.
    """
    expected = scores_of(reference, pictures.batch)
    actual = scores_of(engine, pictures.batch)
    return certificate_from(
        package, engine, expected, actual, pictures, reference=reference.info.name, kept_layers=kept_layers
    )


def certificate_from(
    package: ModelPackage,
    engine: Engine,
    expected: Scores,
    actual: Scores,
    pictures: Pictures,
    *,
    reference: str,
    kept_layers: tuple[str, ...] = (),
) -> Certificate:
    """Write the certificate of two sets of scores, each ``(K, classes)``."""
    is_finite: Flags = np.asarray(np.isfinite(actual).all(axis=1))
    wanted, given = expected.astype(np.float64), np.nan_to_num(actual.astype(np.float64))
    difference = np.abs(wanted - given)
    rows = np.arange(len(wanted))
    leading: Floats = wanted.max(axis=1)
    is_same = (leading - wanted[rows, given.argmax(axis=1)] <= _TIE_RATIO * leading) & is_finite
    order = np.argsort(-(difference.max(axis=1) + ~is_same))[:_LISTED]
    return Certificate(
        model=f"{package.name}-{package.version}",
        model_sha256=package.sha256,
        engine=engine.info.name,
        precision=engine.info.precision,
        requested_precision=engine.info.requested_precision,
        reference=f"{reference} fp32",
        versions=dict(engine.info.versions),
        source=pictures.source,
        images=len(actual),
        agreement=float(is_same.mean()),
        bar=BARS[engine.info.requested_precision],
        flips=int((~is_same).sum()),
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        cosine=float(_cosine(wanted, given).min()),
        non_finite=int((~is_finite).sum()),
        is_degenerate=_is_constant(given) and not _is_constant(wanted),
        worst=tuple(
            Disagreement(
                image=pictures.names[row],
                reference=package.labels[int(wanted[row].argmax())],
                engine=package.labels[int(given[row].argmax())] if is_finite[row] else "not a number",
                difference=float(difference[row].max()),
            )
            for row in order
            if difference[row].max() > 0
        ),
        kept_layers=kept_layers,
        int8_form=form if isinstance(form := engine.info.details.get(DETAIL), str) else None,
    )


def scores_of(engine: Engine, batch: Images) -> Scores:
    """Run ``batch`` of any length through an engine in calls that it takes; ``(K, classes)``."""
    step = engine.info.max_batch
    parts = [engine.infer(batch[start : start + step]) for start in range(0, len(batch), step)]
    return np.concatenate(parts)


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


def _drawn(package: ModelPackage) -> Pictures:
    """Draw pictures that differ in colour, shading and texture, the same ones every time."""
    size = package.input
    random = np.random.default_rng(7)
    rows, columns = np.mgrid[0 : size.height, 0 : size.width]
    batch = np.empty((_SYNTHETIC, size.height, size.width, 3), np.uint8)
    for index in range(_SYNTHETIC):
        colour, slope = random.uniform(40, 215, 3), random.uniform(-60, 60, (2, 3))
        wave = random.uniform(0, 50) * np.sin((rows + columns * random.uniform(0.2, 2)) / random.uniform(2, 20))
        shade = (rows / size.height)[..., None] * slope[0] + (columns / size.width)[..., None] * slope[1]
        batch[index] = np.clip(colour + shade + wave[..., None], 0, 255)
    return Pictures("synthetic", tuple(f"drawn {index}" for index in range(_SYNTHETIC)), batch)


def _cosine(one: Floats, other: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products: Floats = (one * other).sum(axis=1)
    return np.where(lengths > 0, products / np.maximum(lengths, np.finfo(np.float64).tiny), 0.0)


def _is_constant(scores: Floats) -> bool:
    return len(scores) > 1 and float(scores.std(axis=0).max()) < _CONSTANT
