"""What a model takes and gives, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Color = Literal["rgb", "bgr", "gray"]
ResizeMode = Literal["stretch", "shorter_side", "letterbox"]
Interpolation = Literal["linear", "area", "nearest", "linear_antialias", "cubic_antialias"]
Activation = Literal["none", "softmax", "sigmoid"]
Layout = Literal["NCHW", "NHWC"]
InputDtype = Literal["float32", "float16", "uint8"]
ModelFormat = Literal["onnx", "pt2"]

Constants = tuple[tuple[str, tuple[float, ...]], ...]
"""Inputs beside the image, each with its values in the order of its shape, or one value for all of it."""

THRESHOLD = 0.5
"""The score from which on a label is detected, unless the manifest gives the label another one."""


class Task(str, Enum):
    """What the scores of an image decide.

    ``SINGLE_LABEL``: the label with the highest score. ``MULTI_LABEL``: every label whose score reaches its threshold.
    ``BINARY``: one of two labels, by the one score of the model.
    """

    SINGLE_LABEL = "single_label"
    MULTI_LABEL = "multi_label"
    BINARY = "binary"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """How an image becomes the model's input.

    ``resize_to`` is the length of the shorter side in pixels before the centre crop, None for the other modes. A value
    v of channel c becomes ``(v * scale - mean[c]) / std[c]``; channels are in the model's own colour order, and
    ``mean`` and ``std`` have one entry per channel (three, or one for gray). ``constants`` are the values of the
    model's other inputs.
    """

    width: int
    height: int
    color: Color = "rgb"
    resize: ResizeMode = "stretch"
    resize_to: int | None = None
    interpolation: Interpolation = "linear"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    constants: Constants = ()

    @property
    def channels(self) -> int:
        """Channels of the model's input: 1 for gray, else 3."""
        return 1 if self.color == "gray" else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """``activation`` is what the graph lacks to give probabilities.

    ``thresholds`` has one entry per score (0 to 1), which counts where the task is not to choose one of several
    labels. ``positive`` is the label that the score of a binary model speaks for, else None. ``stated`` has the labels
    whose threshold stands in the manifest, with it; the others have the usual one. ``name`` is the output that holds
    the scores, None for the only one; ``class_axis`` the axis of the classes where it is not the last. ``features`` is
    the tensor with an image's embedding, None if the manifest names none.
    """

    activation: Activation = "none"
    task: Task = Task.SINGLE_LABEL
    positive: str | None = None
    thresholds: tuple[float, ...] = ()
    stated: tuple[tuple[str, float], ...] = ()
    name: str | None = None
    class_axis: int | None = None
    features: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSignature:
    """What the model file states. ``batch`` is None if it is dynamic.

    ``output_shape`` is the model's own, with None for a dynamic dimension; ``classes`` is the class count in it, found
    on ``class_axis`` if that is stated. A model without ``has_batch_axis`` takes one image without a batch dimension.
    ``features`` is the length of an image's embedding, 0 if the manifest names none.
    """

    input_name: str
    output_name: str
    layout: Layout
    dtype: InputDtype
    batch: int | None
    height: int
    width: int
    channels: int
    classes: int
    output_shape: tuple[int | None, ...]
    class_axis: int | None = None
    has_batch_axis: bool = True
    features: int = 0
