"""Reads cameras, classifies their frames and publishes what it sees over MQTT."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("edge-inference-agent")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"
