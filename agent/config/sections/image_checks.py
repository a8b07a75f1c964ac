"""When a frame counts as black, frozen, covered or blurred."""

from __future__ import annotations

from pydantic import Field

from agent.config.sections.base import Section


class ImageChecksConfig(Section):
    """Checks on the frames of a live camera; faults are reported in results and in its health, no frame is dropped."""

    enabled: bool = True
    """Check a frame twice a second (0.1 ms each)."""
    black_below: float = Field(default=4.0, ge=0.0, le=255.0)
    """`black`: mean brightness (0 to 255) below this, with hardly any contrast; 0 switches the check off."""
    covered_below: float = Field(default=3.0, ge=0.0, le=127.0)
    """`covered`: contrast (standard deviation of brightness) below this, not black; 0 switches the check off."""
    blurred_below: float = Field(default=0.09, ge=0.0, le=1.0)
    """`blurred`: sharpness below this (0.07 far out of focus, 0.15 and more in focus); 0 switches the check off."""
    after_s: float = Field(default=5.0, ge=0.0, le=3600.0)
    """Seconds that a frame must be black, covered or blurred before it is reported; cleared within one second."""
    frozen_after_s: float = Field(default=10.0, ge=0.0, le=3600.0)
    """`frozen`: seconds without a single changed byte; 0 switches the check off."""
