"""The section `thermal`: sensors and governor."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.config.sections.base import Section

ThermalSource = Literal["auto", "jtop", "sysfs", "simulated", "none"]


class GovernorConfig(Section):
    """How the governor reduces heat: larger batches, a cooler engine, lower clocks if allowed, and the rate of the
    cameras. It never changes the power mode."""

    enabled: bool = True
    """Whether the governor acts."""
    soft_celsius: Literal["auto"] | Annotated[float, Field(ge=30.0, le=115.0)] = "auto"
    """Temperature to keep every zone below; `auto` derives it from the board's trip points."""
    hard_celsius: Literal["auto"] | Annotated[float, Field(ge=35.0, le=120.0)] = "auto"
    """Temperature at which inference pauses; `auto` derives it from the board's trip points."""
    margin_celsius: float = Field(default=4.0, ge=2.0, le=50.0)
    """Largest margin of `auto` below the temperature at which the board throttles; it shrinks while the governor's
    predictions are right."""
    hysteresis_celsius: float = Field(default=0.5, ge=0.5, le=20.0)
    """Height of the band below the soft limit in which the rate stays unchanged."""
    recover_after_s: float = Field(default=60.0, ge=60.0, le=3600.0)
    """Shortest time from a cut to the next increase, so that the rate swings at most once a minute."""
    min_rate_ratio: float = Field(default=0.1, gt=0.0, le=1.0)
    """Smallest share of the configured rate below the hard limit."""
    silence_s: float = Field(default=30.0, ge=5.0, le=600.0)
    """Seconds without a temperature after which the rate is capped."""
    silent_rate_ratio: float = Field(default=0.5, gt=0.0, le=1.0)
    """Cap on the rate, as a share of the configured one, while there is no temperature."""
    clocks: bool = False
    """Whether the governor may also lower the maximum clocks of GPU and CPU, and restore them at the end. The unit
    needs write access to the kernel's files: systemd/drop-ins/clocks.conf."""
    power_budget_watts: float | None = Field(default=None, gt=0.0, le=1000.0)
    """Power limit for the board, on the total that its sensors report; null sets none."""

    @model_validator(mode="after")
    def _hard_is_above_soft(self) -> GovernorConfig:
        soft, hard = self.soft_celsius, self.hard_celsius
        if soft != "auto" and hard != "auto" and hard < soft + 1.0:
            raise ValueError(
                f"hard_celsius {hard} must be at least 1 above soft_celsius {soft}: raise one or lower the other"
            )
        return self


class SimulatedBoardConfig(Section):
    """The simulated board, heated by the agent's real rate of classification."""

    board: Literal["orin", "thor"] = "orin"
    """Kind of board."""
    ambient_celsius: float = Field(default=35.0, ge=-20.0, le=60.0)
    """Temperature of the air around the board."""
    start_celsius: float | None = Field(default=None, ge=-20.0, le=90.0)
    """Temperature of the whole board at the start; null is the ambient."""
    full_rate_hz: float = Field(default=15.0, gt=0.0, le=10000.0)
    """Inferences per second at full load."""
    speed: float = Field(default=1.0, ge=1.0, le=20.0)
    """How much faster than real time the board heats and cools."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sensors' noise."""


class ThermalConfig(Section):
    """Temperature and power, and the governor that slows down before the silicon throttles."""

    source: ThermalSource = "auto"
    """`jtop`, `sysfs`, `simulated` or `none`; `auto` uses jtop while it answers, else sysfs."""
    interval_s: float = Field(default=1.0, ge=0.2, le=5.0)
    """Time between two readings."""
    jtop_python: str | None = Field(default=None, min_length=1)
    """Python interpreter that has jetson-stats; null is the agent's own."""
    governor: GovernorConfig = GovernorConfig()
    simulated: SimulatedBoardConfig = SimulatedBoardConfig()
