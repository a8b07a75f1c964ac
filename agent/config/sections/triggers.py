"""The section `trigger` of a camera."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agent.config.sections.base import Section


class GpioConfig(Section):
    """A line of a GPIO chip whose edges ask for frames."""

    chip: str = Field(default="/dev/gpiochip0", min_length=1, max_length=128)
    """Device file of the chip; `gpiodetect` lists them."""
    line: Annotated[int, Field(ge=0, le=65535)] | Annotated[str, Field(min_length=1, max_length=31)]
    """Number of the line on the chip, or its name such as PQ.05; `gpioinfo` lists them."""
    edge: Literal["rising", "falling", "both"] = "rising"
    """The edge that asks for a frame."""
    bias: Literal["as_is", "disabled", "pull_up", "pull_down"] = "as_is"
    """Resistor of the line; `as_is` leaves it as the board has set it."""
    debounce_ms: float = Field(default=5.0, ge=0.0, le=1000.0)
    """Time for which the line must be stable, in ms; 0 counts every edge."""


class TriggerConfig(Section):
    """Classify frames only when asked: by the command `capture`, or by an edge of a GPIO line."""

    delay_ms: float = Field(default=0.0, ge=0.0, le=10_000.0)
    """Time after the trigger, in ms, in which captured frames are ignored."""
    timeout_s: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the result, from the end of the trigger's delay."""
    gpio: GpioConfig | None = None
    """Line whose edges also ask for frames; null takes commands only."""
