"""Reads cameras, classifies their frames and publishes the results over MQTT."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__: str
"""The release and the commit, such as ``0.1.0+gfbfbf4012``: see `agent.version`. Found at first use."""

if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> str:
        if name == "__version__":
            from agent.version import version

            return version()
        raise AttributeError(f"module 'agent' has no attribute {name!r}")
