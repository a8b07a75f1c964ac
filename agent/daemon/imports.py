"""Imports at the start of a daemon, which cost most of its time until the first result."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_THREADS = "OPENBLAS_NUM_THREADS"


def load_with_one_blas_thread() -> None:
    """Import numpy and OpenCV, whose OpenBLAS would each start a thread for every further core.

    Each of those computes for a tenth of a second until it sleeps, while the imports need the cores, and the agent's
    products are too small for them. The variable of OpenBLAS in the environment goes before. Libraries that bring one
    of their own, such as PyTorch, load it later with as many threads as they like.
    """
    if _THREADS in os.environ:
        return
    os.environ[_THREADS] = "1"
    try:
        import cv2  # noqa: F401 - loaded for what it does then
        import numpy as np  # noqa: F401 - the same
    finally:
        del os.environ[_THREADS]


@contextmanager
def without_garbage_search() -> Iterator[None]:
    """Import modules in the block: they make many objects that all stay, so a search for garbage finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
