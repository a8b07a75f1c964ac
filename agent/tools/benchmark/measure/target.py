"""What one child process measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from engines import Precision

BARE: Final = "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An engine in a precision, or the bare session that it is compared with."""

    engine: str
    precision: Precision
    kind: Literal["engine", "bare"] = "engine"

    @property
    def label(self) -> str:
        """The name shown until the engine reports what really runs."""
        return f"{'bare session' if self.kind == BARE else self.engine} {self.precision}"
