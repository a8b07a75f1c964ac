"""Cameras: a thread each, its sources, pacing and image checks."""
