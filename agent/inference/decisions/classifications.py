"""From a frame and the engine's scores to the record that is published."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agent.inference.binding import ClassifierBinding
from agent.inference.fair_queue import Request
from agent.runtime.records import Classification, Image, Score, ServedModel, StageTimes
from engines import Planes, Scores


def classification(
    request: Request[ClassifierBinding],
    top: tuple[Score, ...],
    margin: float,
    batch_size: int,
    stamps: tuple[int, int, int, int],
    served: ServedModel,
    found: tuple[str, ...] | None = None,
    features: tuple[float, ...] | None = None,
) -> Classification:
    """The record of one result; ``stamps`` are monotonic times: taken from the batcher, resized, inferred, decided."""
    frame = request.in_flight.frame
    taken_ns, resized_ns, inferred_ns, decided_ns = stamps
    in_hand_ns = frame.captured_at_ns + round(frame.capture_ms * 1e6)
    return Classification(
        camera=request.binding.camera,
        classifier=request.binding.classifier,
        served=served,
        frame_index=frame.index,
        captured_at_ns=frame.captured_at_ns,
        captured_at_utc_ns=frame.captured_at_utc_ns,
        decided_at_ns=decided_ns,
        top=top,
        margin=margin,
        batch=batch_size,
        times=StageTimes(
            capture_ms=frame.capture_ms,
            queue_ms=(taken_ns - in_hand_ns) / 1e6,
            preprocess_ms=(resized_ns - taken_ns) / 1e6,
            infer_ms=(inferred_ns - resized_ns) / 1e6,
            decide_ms=(decided_ns - inferred_ns) / 1e6,
        ),
        image_fault=frame.image_fault,
        origin=frame.origin,
        found=found,
        trigger=frame.trigger,
        features=features,
    )


def mean_scores(request: Request[ClassifierBinding], row: Scores) -> Scores:
    """The scores that decide: ``row``, or its mean with those of the classifiers named by ``mean_with``.

    Args:
        row: ``(classes,)`` float32, the probabilities of the request's own model.

    In a chain every model has the same weight. The mean is kept with the frame for the classifiers that follow.
    """
    binding, means = request.binding, request.in_flight.means
    models = 1
    if (partner := binding.config.mean_with) is not None:
        others, mean = means[partner]
        models += others
        row = (mean + (row - mean) / models).astype(np.float32)
    if any(dependent.labels is None for dependent in binding.dependents):
        means[binding.classifier] = models, row.copy()  # the engine may use the row's memory again
    return row


def top_scores(row: npt.NDArray[np.float32], labels: Sequence[str], top_k: int) -> tuple[tuple[Score, ...], float]:
    """The ``top_k`` best classes of one row of probabilities, and the distance between the best two.

    Args:
        row: ``(classes,)`` float32; NaN counts as the greatest value.

    Ties go to the lower index. With one class the margin is its own confidence.
    """
    wanted = min(top_k, len(row))
    remaining = row.copy()
    picks: list[int] = []
    # argmax a few times is faster than a sort or a partition for the handful of classes that anyone looks at.
    for _ in range(min(max(wanted, 2), len(row))):
        best = int(remaining.argmax())
        picks.append(best)
        remaining[best] = -np.inf
    margin = float(row[picks[0]] - row[picks[1]]) if len(picks) > 1 else float(row[picks[0]])
    return tuple(Score(index, labels[index], float(row[index])) for index in picks[:wanted]), margin


def top_binary(
    row: npt.NDArray[np.float32], labels: Sequence[str], threshold: float, top_k: int
) -> tuple[tuple[Score, ...], float]:
    """Both labels of a binary model, the decided one first, and the distance between their confidences.

    Args:
        row: ``(1,)`` float32, the probability of ``labels[0]``; that of ``labels[1]`` is the rest. NaN stays NaN.
        threshold: the score from which ``labels[0]`` is decided, as in the package.
    """
    positive = float(row[0])
    scores = (Score(0, labels[0], positive), Score(1, labels[1], 1.0 - positive))
    if positive < threshold:
        scores = (scores[1], scores[0])
    return scores[: max(1, min(top_k, 2))], abs(scores[0].confidence - scores[1].confidence)


def found_labels(
    row: npt.NDArray[np.float32], labels: Sequence[str], enters: npt.NDArray[np.float32], top: tuple[Score, ...]
) -> tuple[tuple[Score, ...], tuple[str, ...]]:
    """The best classes ``top`` and every label that the frame shows, and these labels in the order of the package.

    Args:
        row: ``(classes,)`` float32.
        enters: ``(classes,)`` float32, the confidence from which each label counts as found.
    """
    found = np.flatnonzero(row >= enters).tolist()
    missing = set(found) - {score.index for score in top}
    more = (Score(index, labels[index], float(row[index])) for index in missing)
    ranked = sorted((*top, *more), key=lambda score: (-score.confidence, score.index))
    return tuple(ranked), tuple(labels[index] for index in found)


def crop(image: Image | Planes, roi: tuple[float, float, float, float]) -> Image | Planes:
    """The region of interest as a view of ``image``, at least one pixel in each direction.

    Planes are cut where they share no colour, so the region may be a pixel larger on each side.
    """
    if roi == (0.0, 0.0, 1.0, 1.0):
        return image
    height, width = (image.y if isinstance(image, Planes) else image).shape[:2]
    x0, y0 = min(int(roi[0] * width), width - 1), min(int(roi[1] * height), height - 1)
    x1, y1 = max(round(roi[2] * width), x0 + 1), max(round(roi[3] * height), y0 + 1)
    return image.part(y0, y1, x0, x1) if isinstance(image, Planes) else image[y0:y1, x0:x1]
