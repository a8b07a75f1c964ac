"""What one child process measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from engines import Precision

BARE: Final = "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An engine in a precision, or the bare session that it is held against."""

    engine: str
    precision: Precision
    kind: Literal["engine", "bare"] = "engine"

    @property
    def label(self) -> str:
        """As it stands in tables while it is not known yet what really runs."""
        return f"{'bare session' if self.kind == BARE else self.engine} {self.precision}"
