"""One model file with everything that a comparison needs.

Imports nothing of the agent, because the makers run in other environments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 64
CLASSES = 10
IMAGES = 4

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``options`` are those of ``agent model import``; ``refusal`` is a part of the message where it must refuse.

    ``tool`` names library and version. ``tolerance``: largest allowed difference of a probability.
    """

    name: str
    tool: str
    file: str
    options: list[str] = field(default_factory=list)
    refusal: str | None = None
    labels: int = CLASSES
    side: int = SIDE
    channels: int = 3
    tolerance: float = 1e-4


def images(side: int = SIDE, channels: int = 3) -> Pixels:
    """Different images, ``(IMAGES, side, side, channels)`` RGB; the same in every process."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (IMAGES, 8, 8, channels), np.uint8)
    scaled = coarse.repeat(-(-side // 8), 1).repeat(-(-side // 8), 2)[:, :side, :side]
    noise = random.integers(-20, 21, scaled.shape)
    return np.clip(scaled.astype(int) + noise, 0, 255).astype(np.uint8)


def planes(pixels: Pixels, scale: float = 1 / 255) -> Floats:
    """NCHW floats."""
    found: Floats = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) * np.float32(scale)
    return found


def softmax(logits: Any) -> Floats:
    """Over the last axis."""
    values = np.asarray(logits, np.float64)
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def save(folder: Path, kind: Kind, scores: Any) -> None:
    """Write the record and the scores ``(IMAGES, labels)`` beside the file."""
    (folder / f"{kind.name}.json").write_text(json.dumps(asdict(kind), indent=1), encoding="utf-8")
    rows = np.zeros((0, kind.labels), np.float32) if scores is None else np.asarray(scores, np.float32)
    np.save(folder / f"{kind.name}.npy", rows.reshape(-1, rows.shape[-1]))


def run_all(makers: dict[str, Callable[[Path, str], None]], folder: Path, beginnings: list[str]) -> None:
    """Make each kind whose name begins so, all without any; one that its tool cannot make is printed and left out."""
    for name, make in makers.items():
        if beginnings and not name.startswith(tuple(beginnings)):
            continue
        print(f"{name}: {_made(make, folder, name)}", flush=True)


def _made(make: Callable[[Path, str], None], folder: Path, name: str) -> str:
    try:
        make(folder, name)
    except Exception as exc:  # noqa: BLE001 a developer's script, and each tool raises its own
        return f"not made: {type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
    return "made"


def kinds(folder: Path) -> Iterator[tuple[Kind, Floats]]:
    """The kinds in a folder with their scores, by name."""
    for path in sorted(folder.glob("*.json")):
        yield Kind(**json.loads(path.read_text(encoding="utf-8"))), np.load(path.with_suffix(".npy"))
