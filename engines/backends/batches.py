"""Checks of every engine's input and output."""

from __future__ import annotations

import math

import numpy as np

from engines.base import Images, Scores
from engines.errors import InferenceFailed


def check_batch(batch: Images, *, height: int, width: int, max_batch: int) -> None:
    """Refuse a batch that the serving graph cannot take.

    Raises:
        ValueError: wrong shape, dtype or number of images.
    """
    dtype: object = getattr(batch, "dtype", type(batch).__name__)
    if dtype != np.uint8:
        raise ValueError(f"a batch is {dtype}, but the engine takes uint8: hand over resized BGR images as uint8")
    if batch.ndim != 4 or batch.shape[1:] != (height, width, 3):
        raise ValueError(
            f"a batch has shape {batch.shape}, but the engine takes (N, {height}, {width}, 3) BGR: resize the images "
            "first"
        )
    if not 1 <= batch.shape[0] <= max_batch:
        raise ValueError(
            f"a batch has {batch.shape[0]} images, but the engine takes 1 to {max_batch}: split it, or open the "
            "engine with a larger max_batch"
        )


def check_scores(scores: Scores, *, engine: str) -> None:
    """Refuse a batch of which every row has NaN or infinity; single bad rows are left to the caller.

    Raises:
        InferenceFailed: every row has NaN or infinity.
    """
    if math.isfinite(float(scores.sum())):
        return
    bad = ~np.isfinite(scores).all(axis=1)
    if bad.all():
        raise InferenceFailed(
            f"{engine} gave NaN or infinity for all {len(scores)} images of a batch, but probabilities are finite. "
            "Use a safer precision or another engine, and check the model: agent verify",
            engine=engine,
            images=len(scores),
        )
