"""Runs the exported model in ONNX Runtime and counts its right answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from .scene import LABELS


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of one set of images; `confusion[truth, answer]` counts."""

    accuracy: float
    confusion: npt.NDArray[np.int64]
    confident_ratio: float

    def text(self, title: str) -> str:
        """Accuracy, accuracy per class and the confusion matrix as lines of text."""
        lines = [
            f"{title}: {100 * self.accuracy:.2f} % of {int(self.confusion.sum())} right",
            f"  {100 * self.confident_ratio:.2f} % right with a confidence above 0.8",
            " " * 16 + "".join(f"{label:>14}" for label in LABELS) + "   (answer)",
        ]
        for row, label in enumerate(LABELS):
            counts = self.confusion[row]
            share = 100 * counts[row] / max(1, int(counts.sum()))
            lines.append(f"  {label:<14}" + "".join(f"{int(count):>14}" for count in counts) + f"   {share:6.2f} %")
        return "\n".join(lines)


def open_model(path: Path) -> Any:
    """Open an ONNX file on the CPU provider."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def probabilities(
    session: Any,
    images: npt.NDArray[np.uint8],
    *,
    scale: float,
    mean_rgb: tuple[float, ...],
    std_rgb: tuple[float, ...],
) -> npt.NDArray[np.float32]:
    """Classify `(N, H, W, 3) uint8 BGR` images of the model's size: softmax `(N, classes)`."""
    name = session.get_inputs()[0].name
    answers = []
    for start in range(0, len(images), 64):
        rgb = images[start : start + 64, :, :, ::-1].astype(np.float32) * np.float32(scale)
        normal = (rgb - np.asarray(mean_rgb, np.float32)) / np.asarray(std_rgb, np.float32)
        logits = session.run(None, {name: np.ascontiguousarray(normal.transpose(0, 3, 1, 2))})[0]
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        answers.append(shifted / shifted.sum(axis=1, keepdims=True))
    probability: npt.NDArray[np.float32] = np.concatenate(answers).astype(np.float32)
    return probability


def score(probability: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> Score:
    """Compare answers with the true class indices."""
    answer = probability.argmax(axis=1)
    confusion = np.zeros((len(LABELS), len(LABELS)), np.int64)
    np.add.at(confusion, (truth, answer), 1)
    right = answer == truth
    return Score(
        accuracy=float(right.mean()),
        confusion=confusion,
        confident_ratio=float((right & (probability.max(axis=1) > 0.8)).mean()),
    )
