"""Where the model package and the clip lie that come with the agent."""

from __future__ import annotations

from pathlib import Path

import agent

DEMO = "demo"
"""How a configuration names them."""


def demo_dir() -> Path:
    """The folder with everything that the demonstration needs."""
    return Path(agent.__file__).parent / "demo"


def demo_package() -> Path:
    """The bundled model package; a path that does not exist where this installation left it out."""
    return next((found.parent for found in sorted(demo_dir().glob("*/model.yaml"))), demo_dir() / DEMO)


def demo_clip() -> Path:
    """The bundled clip; a path that does not exist where this installation left it out."""
    clips = sorted(found for kind in ("mp4", "mkv", "avi") for found in demo_dir().glob(f"*.{kind}"))
    return next(iter(clips), demo_dir() / "clip.mp4")
