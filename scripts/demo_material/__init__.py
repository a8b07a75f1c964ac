"""Draws the demo's conveyor, trains its classifier and packs both (run by scripts/train-demo)."""
