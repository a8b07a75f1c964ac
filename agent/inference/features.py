"""From a model's embeddings to the few numbers of each that are published, from which a subscriber finds drift.

The numbers are a random projection: its matrix is the same on every device and in every version, so numbers of other
times and other devices can be compared. Distances and means survive it; docs/models.md says how well.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engines import Features

MAX_NUMBERS = 32
"""Numbers of a result: about 250 bytes, as long as the rest of a compact result."""

SEED = 20

_DIGITS = 4
"""Digits of the largest number; the others have as many decimals."""


@lru_cache(maxsize=16)
def projection(length: int) -> npt.NDArray[np.float32]:
    """The matrix ``(length, MAX_NUMBERS)`` float32, whose product with an embedding keeps distances on average.

    Its entries are normally distributed with mean 0 and variance ``1 / MAX_NUMBERS``. They come from numpy's legacy
    generator, whose numbers never change. Source: NEP 19, "Random number generator policy".
    """
    entries = np.random.RandomState(SEED).standard_normal((length, MAX_NUMBERS))
    matrix: npt.NDArray[np.float32] = (entries / math.sqrt(MAX_NUMBERS)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def published_features(features: Features) -> list[tuple[float, ...] | None]:
    """The numbers of each image in a batch of embeddings, ``(N, length)``; None where one is not finite.

    An embedding of at most ``MAX_NUMBERS`` values is published as it is.
    """
    length = features.shape[1]
    with np.errstate(all="ignore"):  # what is not finite is left out below
        rows = features if length <= MAX_NUMBERS else features @ projection(length)
    return [_rounded(row) for row in rows]


def _rounded(row: npt.NDArray[np.float32]) -> tuple[float, ...] | None:
    largest = float(np.abs(row).max())
    if not math.isfinite(largest):
        return None
    decimals = _DIGITS - 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    return tuple(np.round(row.astype(np.float64), decimals).tolist())
