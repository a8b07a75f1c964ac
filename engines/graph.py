"""The serving graph: the package's model with its preprocessing and its missing activation inside.

Input ``images`` uint8 ``(N, H, W, 3)`` BGR at the model's size; output ``scores`` float32 ``(N, classes)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from engines.base import Precision
from engines.package import ModelPackage


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGraph:
    """A serving graph on disk. ``max_batch`` is None where the batch dimension is dynamic."""

    path: Path
    sha256: str
    precision: Precision
    max_batch: int | None
    input_name: str = "images"
    output_name: str = "scores"


def serving_graph(package: ModelPackage, *, cache_dir: Path, precision: Precision = "fp32") -> ServingGraph:
    """The serving graph of ``package`` from the cache, made first where it is not there.

    Raises:
        ModelRejected: the model cannot be served.
        PrecisionRejected: the model cannot be converted to ``precision``.
    """
    raise NotImplementedError(package, cache_dir, precision)


def build_serving_model(package: ModelPackage) -> onnx.ModelProto:
    """The fp32 serving graph of ``package``, in memory and not cached.

    Raises:
        ModelRejected: the model cannot be served.
    """
    raise NotImplementedError(package)
