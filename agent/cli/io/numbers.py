"""Numbers on the command line. Python's conversion takes ``1_0``, ``１``, ``nan`` and ``1e400`` too."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"-?[0-9]{1,18}")


def decimal(text: str) -> float | None:
    """The number that ``text`` writes, like ``2.5`` or ``1e-3``; None if it is none, or larger than a float."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


class Decimal(click.FloatRange):
    """An option with a decimal number from ``min`` to ``max``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is no plain decimal number."""
        if isinstance(value, str) and decimal(value) is None:
            self.fail(f"it needs a decimal number, but is {value!r}; write it like 2.5", param, ctx)
        return super().convert(value, param, ctx)


class Whole(click.IntRange):
    """An option with a whole number from ``min`` to ``max``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is no plain whole number."""
        if isinstance(value, str) and not _WHOLE.fullmatch(value):
            self.fail(f"it needs a whole number, but is {value!r}; write it like 10", param, ctx)
        return super().convert(value, param, ctx)
