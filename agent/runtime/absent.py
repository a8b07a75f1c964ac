"""Keeps a library from loading another one that it only would like to have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Within the block the module ``name`` cannot be imported, unless it is loaded already. For the import of a module
    alone: threads that import meanwhile miss it too."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # so the import system marks what cannot be imported
    try:
        yield
    finally:
        del sys.modules[name]
