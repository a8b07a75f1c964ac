"""The section `thermal`: what is read about heat and power, and how the governor reacts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.config.section import Section

ThermalSource = Literal["auto", "jtop", "sysfs", "simulated", "none"]


class GovernorConfig(Section):
    """How much inference gives way to heat: by larger batches, an engine that is cooler, clocks where allowed, and the
    rate of the cameras. Never by the power mode."""

    enabled: bool = True
    """Whether rates give way to heat at all."""
    soft_celsius: Literal["auto"] | Annotated[float, Field(ge=30.0, le=115.0)] = "auto"
    """Temperature that every zone is kept under; `auto` takes it from the board's trip points."""
    hard_celsius: Literal["auto"] | Annotated[float, Field(ge=35.0, le=120.0)] = "auto"
    """Temperature at which inference pauses; `auto` takes it from the board's trip points."""
    margin_celsius: float = Field(default=4.0, ge=2.0, le=50.0)
    """Most that `auto` stays below the temperature at which the board throttles; less, down to 2, where the governor's
    predictions prove right."""
    hysteresis_celsius: float = Field(default=0.5, ge=0.5, le=20.0)
    """Height of the band below the soft limit in which the rate is left alone."""
    recover_after_s: float = Field(default=60.0, ge=60.0, le=3600.0)
    """Shortest time from a cut to the next step up, so the rate swings once a minute at most."""
    min_rate_ratio: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share of the configured rate that is kept up to the hard limit."""
    silence_s: float = Field(default=30.0, ge=5.0, le=600.0)
    """Seconds without a temperature after which the rate is capped."""
    silent_rate_ratio: float = Field(default=0.5, gt=0.0, le=1.0)
    """That cap."""
    clocks: bool = False
    """Whether the highest clocks of GPU and CPU may be lowered, too: the kernel's files, put back at the end. The unit
    must be allowed to write them: systemd/drop-ins/clocks.conf."""
    power_budget_watts: float | None = Field(default=None, gt=0.0, le=1000.0)
    """Most power the board may draw, by the total that its sensors give; null sets no budget."""

    @model_validator(mode="after")
    def _hard_is_above_soft(self) -> GovernorConfig:
        soft, hard = self.soft_celsius, self.hard_celsius
        if soft != "auto" and hard != "auto" and hard < soft + 1.0:
            raise ValueError(
                f"hard_celsius {hard} must be at least 1 above soft_celsius {soft}: raise one or lower the other"
            )
        return self


class SimulatedBoardConfig(Section):
    """The simulated board, heated by the rate at which this agent really classifies."""

    board: Literal["orin", "thor"] = "orin"
    """Whose heat it has."""
    ambient_celsius: float = Field(default=35.0, ge=-20.0, le=60.0)
    """Air around the board."""
    start_celsius: float | None = Field(default=None, ge=-20.0, le=90.0)
    """Temperature of the whole board at the start; the ambient where null."""
    full_rate_hz: float = Field(default=15.0, gt=0.0, le=10000.0)
    """Inferences a second at which the board carries its full load."""
    speed: float = Field(default=1.0, ge=1.0, le=20.0)
    """How much faster than real time the board heats and cools."""
    seed: int = Field(default=0, ge=0)
    """Choice of the sensors' noise."""


class ThermalConfig(Section):
    """Watching temperature and power, and acting before the silicon does."""

    source: ThermalSource = "auto"
    """`jtop`, `sysfs`, `simulated` or `none`; `auto` takes jtop while it answers, else sysfs."""
    interval_s: float = Field(default=1.0, ge=0.2, le=5.0)
    """Time between two readings."""
    jtop_python: str | None = Field(default=None, min_length=1)
    """Python interpreter that has jetson-stats; the agent's own where null."""
    governor: GovernorConfig = GovernorConfig()
    simulated: SimulatedBoardConfig = SimulatedBoardConfig()
