"""The accuracy check: compares an engine's scores with those of ONNX Runtime's CPU provider in fp32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.base import Engine, Images, Scores
from engines.check.certificate import Certificate, Disagreement
from engines.graph.image_set import ImageSet
from engines.graph.int8_forms import DETAIL
from engines.graph.precision import MIN_AGREEMENT
from engines.package.load import ModelPackage

_LISTED = 5
# Probabilities that vary less than this between images count as constant; fp16 resolves 5e-4 near 1.
_CONSTANT = 1e-7

# Classes within this ratio of the reference's best one are a tie: rounding alone decides which is first.
_TIE_RATIO = 0.005

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def compare(
    package: ModelPackage,
    engine: Engine,
    reference: Engine,
    images: ImageSet,
    *,
    kept_layers: tuple[str, ...] = (),
) -> Certificate:
    """Run both engines on ``images`` and compare them row by row.

    Raises:
        InferenceFailed: an engine failed, or every score of a batch is NaN or infinity.
    """
    expected = scores_of(reference, images.batch)
    actual = scores_of(engine, images.batch)
    return certificate_from(
        package, engine, expected, actual, images, reference=reference.info.name, kept_layers=kept_layers
    )


def certificate_from(
    package: ModelPackage,
    engine: Engine,
    expected: Scores,
    actual: Scores,
    images: ImageSet,
    *,
    reference: str,
    kept_layers: tuple[str, ...] = (),
) -> Certificate:
    """Return the certificate of two sets of scores, each ``(K, classes)``."""
    is_finite: Flags = np.asarray(np.isfinite(actual).all(axis=1))
    # NaN would spread into every figure below; is_finite keeps these images as failures.
    wanted, given = expected.astype(np.float64), np.nan_to_num(actual.astype(np.float64))
    difference = np.abs(wanted - given)
    rows = np.arange(len(wanted))
    leading: Floats = wanted.max(axis=1)
    is_same = (leading - wanted[rows, given.argmax(axis=1)] <= _TIE_RATIO * leading) & is_finite
    return Certificate(
        model=f"{package.name}-{package.version}",
        model_sha256=package.sha256,
        engine=engine.info.name,
        precision=engine.info.precision,
        requested_precision=engine.info.requested_precision,
        reference=f"{reference} fp32",
        versions=dict(engine.info.versions),
        source=images.source,
        images=len(actual),
        agreement=float(is_same.mean()),
        min_agreement=MIN_AGREEMENT[engine.info.requested_precision],
        changed_labels=int((~is_same).sum()),
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        cosine=float(_cosine(wanted, given).min()),
        non_finite=int((~is_finite).sum()),
        is_degenerate=_is_constant(given) and not _is_constant(wanted),
        worst=_worst(package, images, wanted, given, is_same=is_same, is_finite=is_finite),
        kept_layers=kept_layers,
        int8_form=form if isinstance(form := engine.info.details.get(DETAIL), str) else None,
    )


def _worst(
    package: ModelPackage, images: ImageSet, wanted: Floats, given: Floats, *, is_same: Flags, is_finite: Flags
) -> tuple[Disagreement, ...]:
    """Return the images that differ most: those with a changed label first, then by difference."""
    difference: Floats = np.abs(wanted - given).max(axis=1)
    # Differences are at most 1, so adding 1 puts every changed label before the others.
    order = np.argsort(-(difference + ~is_same))[:_LISTED]
    return tuple(
        Disagreement(
            image=images.names[row],
            reference=package.labels[int(wanted[row].argmax())],
            engine=package.labels[int(given[row].argmax())] if is_finite[row] else "not a number",
            difference=float(difference[row]),
        )
        for row in order
        if difference[row] > 0
    )


def scores_of(engine: Engine, batch: Images) -> Scores:
    """Return the scores ``(K, classes)`` of ``batch``, of any length, in calls that the engine takes."""
    step = engine.info.max_batch
    parts = [engine.infer(batch[start : start + step]) for start in range(0, len(batch), step)]
    return np.concatenate(parts)


def _cosine(one: Floats, other: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products: Floats = (one * other).sum(axis=1)
    # Scores that are all zero have no direction: their cosine counts as 0.
    return np.where(lengths > 0, products / np.maximum(lengths, np.finfo(np.float64).tiny), 0.0)


def _is_constant(scores: Floats) -> bool:
    return len(scores) > 1 and float(scores.std(axis=0).max()) < _CONSTANT
