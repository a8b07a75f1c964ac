"""Draws the demo's conveyor, trains its classifier and packs both (run by scripts/dev/train-demo)."""

from __future__ import annotations

import os

# Read when ONNX Runtime is imported, which otherwise writes below the home directory.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
