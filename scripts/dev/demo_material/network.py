"""The classifier: six convolutions in PyTorch, trained on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .dataset import ImageSet
from .scene import LABELS

SCALE = 1.0 / 255.0
MEAN_RGB = (0.288, 0.299, 0.291)
STD_RGB = (0.176, 0.173, 0.176)
LABEL_SMOOTHING = 0.02
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 4e-3
LAYERS: tuple[tuple[int, int], ...] = ((16, 2), (32, 2), (48, 2), (64, 1), (96, 2), (96, 1))
"""Channels and stride of each 3x3 convolution."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with its batch norm folded in: weight `(out, in, 3, 3)`, bias `(out,)`, float32."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    stride: int


@dataclass(frozen=True, slots=True)
class Weights:
    """All of the trained network; the head is `scores = features @ weight.T + bias`."""

    convolutions: tuple[Convolution, ...]
    head_weight: npt.NDArray[np.float32]
    head_bias: npt.NDArray[np.float32]


def build_network() -> Any:
    """Return the untrained network: normalised RGB `(N, 3, H, W)` to logits `(N, classes)`."""
    layers: list[Any] = []
    channels_in = 3
    for channels, stride in LAYERS:
        layers += [
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        channels_in = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels_in, len(LABELS)))


def tensor_of(images: npt.NDArray[np.uint8]) -> Any:
    """Normalise `(N, H, W, 3) uint8 BGR` images to the network's `(N, 3, H, W)` float32."""
    rgb = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).permute(0, 3, 1, 2).float() * SCALE
    return (rgb - torch.tensor(MEAN_RGB).view(3, 1, 1)) / torch.tensor(STD_RGB).view(3, 1, 1)


def _vary(batch: Any) -> Any:
    """Change each image's contrast, colour and noise a little (normalised units)."""
    count = batch.shape[0]
    contrast = 1 + 0.12 * (torch.rand(count, 1, 1, 1) * 2 - 1)
    tone = 0.12 * (torch.rand(count, 3, 1, 1) * 2 - 1) + 0.12 * (torch.rand(count, 1, 1, 1) * 2 - 1)
    return batch * contrast + tone + torch.randn_like(batch) * 0.06 * torch.rand(count, 1, 1, 1)


def train(examples: ImageSet, *, epochs: int, seed: int, on_epoch: Callable[[int, float, float], None]) -> Any:
    """Return the trained network; `on_epoch(epoch, mean loss, seconds so far)` is called after each epoch."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True)
    network = build_network().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.02)
    steps = len(examples.images) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=PEAK_LEARNING_RATE, total_steps=steps * epochs, pct_start=0.2
    )
    targets = torch.from_numpy(examples.targets)
    targets = targets * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / len(LABELS)
    started_s = time.monotonic()
    for epoch in range(1, epochs + 1):
        network.train()
        order = torch.randperm(len(targets))
        total = 0.0
        for step in range(steps):
            chosen = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            batch = _vary(tensor_of(examples.images[chosen.numpy()])).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(network(batch), targets[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        on_epoch(epoch, total / steps, time.monotonic() - started_s)
    return network


def weights_of(network: Any) -> Weights:
    """Fold each batch norm into its convolution and copy the weights out."""
    modules = list(network.eval().children())
    folded = []
    for place in range(0, 3 * len(LAYERS), 3):
        convolution, norm = modules[place], modules[place + 1]
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = convolution.weight * factor.view(-1, 1, 1, 1)
        bias = norm.bias - norm.running_mean * factor
        folded.append(
            Convolution(
                weight=np.ascontiguousarray(weight.detach().numpy()),
                bias=bias.detach().numpy().copy(),
                stride=convolution.stride[0],
            )
        )
    head = modules[-1]
    return Weights(tuple(folded), head.weight.detach().numpy().copy(), head.bias.detach().numpy().copy())


def logits_of(network: Any, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Run the network in PyTorch, to compare the exported graph with it."""
    with torch.no_grad():
        return np.asarray(network.eval()(tensor_of(images)).numpy(), np.float32)


def use_cores(count: int) -> None:
    """Limit PyTorch to `count` threads: the figures in the docs were taken with two."""
    torch.set_num_threads(count)
