"""The bundled demo: a conveyor's classifier and a clip to classify (made by scripts/dev/train-demo)."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def demo_package() -> Path:
    """Return the directory of the bundled model package."""
    return _FOLDER / "conveyor-1.0.0"


def demo_clip() -> Path:
    """Return the bundled clip; `conveyor.truth.json` beside it has the answer for each frame."""
    return _FOLDER / "conveyor.mp4"
