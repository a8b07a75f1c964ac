"""The environment of the programs that are measured."""

from __future__ import annotations

import os
from pathlib import Path

import agent


def child_environment() -> dict[str, str]:
    """The environment of a child, which finds this program even under another interpreter."""
    root = str(Path(agent.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, known]) if known else root, "PYTHONUNBUFFERED": "1"}
