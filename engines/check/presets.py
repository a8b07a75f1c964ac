"""Preprocessing by name, as in the common training pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines.package.specs import Color, ResizeMode

PresetName = Literal["imagenet", "tf", "caffe", "raw01", "raw255"]

CROP_RATIO = 256 / 224
"""Shorter side to crop, as in the training of ImageNet models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Values as in a manifest; ``mean`` and ``std`` have one entry if all channels share it."""

    color: Color
    resize: ResizeMode
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Source: torchvision.transforms (imagenet), keras.applications.imagenet_utils.preprocess_input mode "tf" (tf),
# BVLC Caffe models, mean pixel 104 117 123 in BGR (caffe).
PRESETS: dict[PresetName, Preset] = {
    "imagenet": Preset(
        color="rgb",
        resize="shorter_side",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "tf": Preset(color="rgb", resize="stretch", scale=1 / 127.5, mean=(1.0,), std=(1.0,)),
    "caffe": Preset(color="bgr", resize="shorter_side", scale=1.0, mean=(104.0, 117.0, 123.0), std=(1.0,)),
    "raw01": Preset(color="rgb", resize="stretch", scale=1 / 255, mean=(0.0,), std=(1.0,)),
    "raw255": Preset(color="rgb", resize="stretch", scale=1.0, mean=(0.0,), std=(1.0,)),
}
