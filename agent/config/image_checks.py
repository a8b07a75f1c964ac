"""What counts as a picture that shows nothing of use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PictureConfig(BaseModel):
    """When the pictures of a live camera are marked in results and in the camera's health; none is dropped for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    enabled: bool = True
    """Look at a picture twice a second (a tenth of a millisecond each time)."""
    black_below: float = Field(default=4.0, ge=0.0, le=255.0)
    """`black`: mean brightness of 0 to 255 below this, and hardly any contrast; 0 never."""
    covered_below: float = Field(default=3.0, ge=0.0, le=127.0)
    """`covered`: contrast (standard deviation of brightness) below this in a picture that is not black; 0 never."""
    blurred_below: float = Field(default=0.09, ge=0.0, le=1.0)
    """`blurred`: sharpness below this; about 0.07 far out of focus, 0.15 and more where edges are edges; 0 never."""
    after_s: float = Field(default=5.0, ge=0.0, le=3600.0)
    """Seconds that a picture must be black, covered or blurred before it is marked; cleared within one."""
    frozen_after_s: float = Field(default=10.0, ge=0.0, le=3600.0)
    """`frozen`: seconds without a change in a single byte; 0 never."""
