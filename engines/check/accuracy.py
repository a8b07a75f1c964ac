"""The accuracy check: compares an engine's scores with those of ONNX Runtime's CPU provider in fp32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.base import Engine, Images, Scores
from engines.check.certificate import Certificate, Disagreement
from engines.graph.agreement import BARS, changed_answers, compare_scores
from engines.graph.image_set import ImageSet
from engines.graph.int8_forms import DETAIL
from engines.package.decisions import described
from engines.package.load import ModelPackage

_LISTED = 5
# Probabilities that vary less than this between images count as constant; fp16 resolves 5e-4 near 1.
_CONSTANT = 1e-7

Floats = npt.NDArray[np.float64]


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
    """Return the certificate of two sets of scores, each ``(K, classes)``.

    Flat images and repeated ones count only if there are no others.
    """
    info, rows = engine.info, images.telling_rows()
    idle = len(images.names) - len(rows)
    if len(rows):
        expected, actual, images = expected[rows], actual[rows], images.at(rows)
    is_finite = np.isfinite(actual).all(axis=1)
    wanted, given = expected.astype(np.float64), np.nan_to_num(actual.astype(np.float64))
    difference = np.abs(wanted - given)
    return Certificate(
        model=f"{package.name}-{package.version}",
        model_sha256=package.sha256,
        task=package.output.task.value,
        engine=info.name,
        precision=info.precision,
        requested_precision=info.requested_precision,
        reference=f"{reference} fp32",
        versions=dict(info.versions),
        source=images.source,
        images=len(rows),
        idle_images=idle,
        image_hashes=images.hashes,
        classes=package.signature.classes,
        comparison=compare_scores(package, expected, actual),
        bars=BARS[info.requested_precision],
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        cosine=float(_cosine(wanted, given).min()),
        non_finite=int((~is_finite).sum()),
        is_degenerate=_is_constant(given) and not _is_constant(wanted),
        worst=_worst(package, images, wanted, actual),
        kept_layers=kept_layers,
        int8_form=form if isinstance(form := info.details.get(DETAIL), str) else None,
    )


def _worst(package: ModelPackage, images: ImageSet, wanted: Floats, actual: Scores) -> tuple[Disagreement, ...]:
    """Return the images that differ most: those with a changed answer first, then by difference."""
    given = np.nan_to_num(actual.astype(np.float64))
    difference: Floats = np.abs(wanted - given).max(axis=1)
    is_changed = changed_answers(package, wanted, given).any(axis=1) | ~np.isfinite(actual).all(axis=1)
    # Differences are at most 1, so adding 1 puts every changed answer before the others.
    order = np.argsort(-(difference + is_changed))[:_LISTED]
    return tuple(
        Disagreement(
            image=images.names[row],
            reference=described(package, wanted[row]),
            engine=described(package, actual[row]),
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
