"""Compares the scores of two engines by what they decide, and judges the comparison by stated bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.base import Precision, Scores
from engines.package.decisions import detections, has_thresholds
from engines.package.load import ModelPackage
from engines.percentiles import percentile

CONFIDENCE = 0.95
"""One-sided: the true share is below the lower bound in at most one of twenty certificates."""

MIN_DETECTIONS = 5
"""Images with a label, and images without it, that a label with a threshold needs."""

MAX_LABEL_SHARE = 0.9
"""Largest share of the images that may have one and the same label, where one label is chosen."""

TIE_RATIO = 0.005
"""Scores of the reference within this ratio of each other, or of a threshold, are a tie: rounding alone decides."""

# The quantile of the normal distribution for CONFIDENCE.
_Z = 1.6448536269514722

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """What an engine must reach. Shifts are of probabilities; divergence is Jensen-Shannon's, in bits (0 to 1).

    ``lower_bound`` is for the share of kept answers with ``CONFIDENCE``; 0 asks for no number of images.
    ``kept_detections``: of the detections of a label by either engine, the share that is no changed answer; asked for
    from ``MIN_DETECTIONS`` on.
    """

    agreement: float
    lower_bound: float
    mean_shift: float
    p95_shift: float
    divergence: float
    kept_detections: float = 0.9

    @property
    def min_images(self) -> int:
        """Images that are needed if all of them keep their answer."""
        return images_needed(self.lower_bound)


# fp32 engines do the same arithmetic, so figures on a few images show a broken one; the shifts leave room for TF32.
BARS: Mapping[Precision, Bars] = {
    "fp32": Bars(agreement=0.99, lower_bound=0.0, mean_shift=0.005, p95_shift=0.02, divergence=0.002),
    "fp16": Bars(agreement=0.99, lower_bound=0.97, mean_shift=0.005, p95_shift=0.02, divergence=0.002),
    "int8": Bars(agreement=0.97, lower_bound=0.97, mean_shift=0.05, p95_shift=0.15, divergence=0.02),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCount:
    """Images in which the reference, the engine, or either detects a label with a threshold.

    ``changed``: those of either in which the answers differ, ties left out.
    """

    label: str
    reference: int
    engine: int
    either: int
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Scores of an engine beside those of the reference.

    ``agreement``: the share of images that keep their answer: the label with the highest score, or the yes or no of
    the label that keeps it least often. ``at_least``: its lower bound. ``changed``: images with any changed answer.
    Shifts and divergence are those of the worst label. ``largest_share``: of the images with the reference's most
    frequent label, where one is chosen. ``labels`` is empty there.
    """

    images: int
    agreement: float
    at_least: float
    changed: int
    mean_shift: float
    p95_shift: float
    divergence: float
    largest_share: float
    labels: tuple[LabelCount, ...]


def lower_bound(kept: int, count: int) -> float:
    """Return the lower end of Wilson's score interval for ``kept`` of ``count``, one-sided.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    if not kept:
        return 0.0
    share, square = kept / count, _Z * _Z
    middle = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, (middle - half) / (1 + square / count))


def images_needed(bound: float) -> int:
    """Return how many images give the lower bound ``bound`` if all of them keep their answer."""
    return math.ceil(_Z * _Z * bound / (1 - bound))


def changed_answers(package: ModelPackage, wanted: Floats, given: Floats, *, tie_ratio: float = TIE_RATIO) -> Flags:
    """Return which answers differ: ``(N, 1)`` where one label is chosen, else ``(N, classes)``, yes or no each."""
    if has_thresholds(package):
        thresholds = np.asarray(package.output.thresholds)
        is_tie = np.abs(wanted - thresholds) <= tie_ratio * thresholds
        return np.asarray((detections(package, wanted) != detections(package, given)) & ~is_tie)
    leading: Floats = wanted.max(axis=1)
    behind = leading - wanted[np.arange(len(wanted)), given.argmax(axis=1)]
    return np.asarray(behind > tie_ratio * leading)[:, None]


def compare_scores(
    package: ModelPackage, expected: Scores, actual: Scores, *, tie_ratio: float = TIE_RATIO
) -> Comparison:
    """Compare scores ``(N, classes)``, N at least 1. An image with NaN or infinity counts as changed."""
    is_finite: Flags = np.asarray(np.isfinite(actual).all(axis=1))
    wanted, given = expected.astype(np.float64), np.nan_to_num(actual.astype(np.float64))
    changed = changed_answers(package, wanted, given, tie_ratio=tie_ratio) | ~is_finite[:, None]
    kept = len(wanted) - int(changed.sum(axis=0).max())
    groups = _groups(package, wanted, given)
    shifts, divergences = _shifts(package, wanted, given), _divergences(package, wanted, given)
    return Comparison(
        images=len(wanted),
        agreement=kept / len(wanted),
        at_least=lower_bound(kept, len(wanted)),
        changed=int(changed.any(axis=1).sum()),
        mean_shift=max(float(shifts[rows, column].mean()) for column, rows in groups),
        p95_shift=max(float(percentile(sorted(shifts[rows, column].tolist()), 95)) for column, rows in groups),
        divergence=max(float(divergences[rows, column].mean()) for column, rows in groups),
        largest_share=0.0 if has_thresholds(package) else _largest_share(wanted),
        labels=_label_counts(package, wanted, given, changed) if has_thresholds(package) else (),
    )


def why_failed(found: Comparison, bars: Bars) -> str:
    """One sentence on which bar is missed; empty if none is. Too few images for the lower bound are no failure."""
    for count in found.labels:
        if count.either >= MIN_DETECTIONS and 1 - count.changed / count.either < bars.kept_detections:
            return (
                f"{count.label!r} is detected in {count.engine} of {found.images} images instead of "
                f"{count.reference}; {count.changed} of {count.either} answers differ, but at least "
                f"{bars.kept_detections:.0%} must be kept"
            )
    kept = "yes or no agrees" if found.labels else "the label agrees"
    if found.agreement < bars.agreement:
        return f"{kept} on {found.agreement:.3f} of {found.images} images, but {bars.agreement:.2f} is the minimum"
    if found.images >= bars.min_images and found.at_least < bars.lower_bound:
        return (
            f"{kept} on {found.agreement:.3f} of {found.images} images, so with {CONFIDENCE:.0%} confidence on at "
            f"least {found.at_least:.3f} of all, but {bars.lower_bound:.2f} is the minimum"
        )
    for what, value, limit in (
        ("confidences shift by {:.3f} on average", found.mean_shift, bars.mean_shift),
        ("confidences shift by {:.3f} or more on one image of twenty", found.p95_shift, bars.p95_shift),
        ("the scores diverge by {:.4f} bits on average", found.divergence, bars.divergence),
    ):
        if value > limit:
            return f"{what.format(value)}, but {limit:g} is the maximum"
    return ""


def _groups(package: ModelPackage, wanted: Floats, given: Floats) -> list[tuple[int, Flags]]:
    """Return columns and rows to average over: all images, and those with the label, which may be few."""
    everything: Flags = np.ones(len(wanted), np.bool_)
    if not has_thresholds(package):
        return [(0, everything)]
    either = detections(package, wanted) | detections(package, given)
    groups = [(column, everything) for column in range(wanted.shape[1])]
    counts = either.sum(axis=0)
    return groups + [(int(column), either[:, column]) for column in np.flatnonzero(counts >= MIN_DETECTIONS)]


def _shifts(package: ModelPackage, wanted: Floats, given: Floats) -> Floats:
    """Return the shift of each score with a threshold, else of the label that the reference chooses, ``(N, 1)``."""
    if has_thresholds(package):
        return np.asarray(np.abs(wanted - given))
    rows, best = np.arange(len(wanted)), wanted.argmax(axis=1)
    return np.asarray(np.abs(wanted[rows, best] - given[rows, best])[:, None])


def _divergences(package: ModelPackage, wanted: Floats, given: Floats) -> Floats:
    """Return the divergence of each score from 0 to 1 as a yes or no, else of all scores together, ``(N, 1)``."""
    if has_thresholds(package):
        one, other = (np.clip(scores, 0, 1) for scores in (wanted, given))
        return _jensen_shannon(np.stack([one, 1 - one], axis=-1), np.stack([other, 1 - other], axis=-1))
    return _jensen_shannon(*(_distribution(scores)[:, None] for scores in (wanted, given)))


def _distribution(scores: Floats) -> Floats:
    positive = np.maximum(scores, 0)
    return np.asarray(positive / np.maximum(positive.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))


def _jensen_shannon(one: Floats, other: Floats) -> Floats:
    """Return the Jensen-Shannon divergence in bits over the last axis. Source: J. Lin, IEEE Trans. IT 37 (1991)."""
    middle = (one + other) / 2
    return np.asarray((_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2)


def _relative_entropy(one: Floats, other: Floats) -> Floats:
    # Where ``one`` is 0 its term is 0, whatever the ratio.
    ratio = np.divide(one, other, out=np.ones_like(one), where=one > 0)
    return np.asarray((one * np.log2(ratio)).sum(axis=-1))


def _largest_share(wanted: Floats) -> float:
    return float(np.unique(wanted.argmax(axis=1), return_counts=True)[1].max() / len(wanted))


def _label_counts(package: ModelPackage, wanted: Floats, given: Floats, changed: Flags) -> tuple[LabelCount, ...]:
    one, other = detections(package, wanted), detections(package, given)
    counts = [flags.sum(axis=0) for flags in (one, other, one | other, changed)]
    return tuple(
        LabelCount(
            label=package.labels[column],
            reference=int(counts[0][column]),
            engine=int(counts[1][column]),
            either=int(counts[2][column]),
            changed=int(counts[3][column]),
        )
        for column in range(one.shape[1])
    )
