"""Judges a measurement: warnings for readers, and reasons why it is not valid.

The figures of a text are in parentheses at its end, so that equal texts of several engines can be merged.
Source of the cautions: trtexec (enqueue above 0.8 of compute, transfers above compute, variation above 2.5 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from agent.tools.benchmark.conditions import Conditions
from agent.tools.benchmark.scenarios import Case
from agent.tools.benchmark.statistics import Spread

_UNSTABLE_RATIO = 0.025
_ENQUEUE_SHARE = 0.8
_DRIFT_RATIO = 0.15
"""Highest over lowest median of the rounds, less 1. Above it, conditions changed too much during the run."""
BUSY_RATIO = 0.05
TOO_BUSY_RATIO = 0.15
_MISSED_RATIO = 0.05
_SHORT = "short run, judged by p90; --full also measures p99"


def warnings_about(
    case: Case, spread: Spread, conditions: Conditions, stages: Mapping[str, Spread], *, missed: int
) -> tuple[str, ...]:
    """Warnings about figures that are still valid."""
    found = []
    if spread.variation_ratio > _UNSTABLE_RATIO:
        found.append(f"times vary (coefficient of variation {spread.variation_ratio:.1%})")
    unsure = [name for name in spread.too_few if name != case.headline]
    if unsure:
        found.append(f"too few runs for {', '.join(unsure)} ({spread.n} runs)")
    if BUSY_RATIO < conditions.others_ratio <= TOO_BUSY_RATIO:
        found.append(f"busy machine (other programs took {conditions.others_ratio:.0%})")
    if 0 < missed <= _MISSED_RATIO * spread.n:
        found.append(f"paced calls were skipped because the previous one was still running ({missed})")
    if case.is_short:
        found.append("quick: shorter than the scenario's rules require" if _is_mlperf(case) else _SHORT)
    found += _device_cautions(stages)
    return tuple(found)


def reasons_against(
    case: Case, spread: Spread, conditions: Conditions, rounds_ms: Sequence[Sequence[float]], *, missed: int
) -> tuple[str, ...]:
    """Reasons why the figures are not valid."""
    found = []
    if case.headline in spread.too_few:
        found.append(f"too few runs for {case.headline}, by which the case is judged ({spread.n} runs)")
    if conditions.others_ratio > TOO_BUSY_RATIO:
        found.append(f"busy machine (other programs took {conditions.others_ratio:.0%})")
    if conditions.stolen_ratio > BUSY_RATIO:
        found.append(f"the hypervisor gave the processor to others ({conditions.stolen_ratio:.0%})")
    if conditions.has_throttled and case.scenario != "soak":
        found.append(_throttled(conditions))
    if missed > _MISSED_RATIO * spread.n:
        found.append(f"cannot keep up with {case.fps or 0:g} fps ({missed} calls were skipped in {spread.n} runs)")
    medians = [median(one) for one in rounds_ms if one]
    if case.scenario != "soak" and len(medians) > 1 and max(medians) > min(medians) * (1 + _DRIFT_RATIO):
        found.append(f"the machine drifted (rounds have p50 {min(medians):.3f} to {max(medians):.3f} ms)")
    return tuple(found)


def _throttled(conditions: Conditions) -> str:
    causes = "; ".join(f"{cause.replace('_', ' ')}: {text}" for cause, text in conditions.throttle_causes.items())
    reason = "the board throttled: cool it, or lower the power mode, and measure again"
    return f"{reason} ({causes})" if causes else reason


def warnings_about_machine(
    *, clocks_locked: bool | None, power_mode: str | None, load: float, cores: int
) -> list[str]:
    """Warnings about the machine, for the whole run."""
    found = []
    if clocks_locked is False:
        found.append("clocks are not locked: on a Jetson `sudo jetson_clocks`, elsewhere the governor `performance`")
    if clocks_locked is None:
        found.append("the kernel does not show clock rates here, so it is unknown whether they are locked")
    if power_mode not in (None, "0"):
        found.append(f"power mode {power_mode} limits the board; mode 0 is the fastest")
    if load > 0.5 * cores:
        found.append(f"busy machine: load {load:.1f} on {cores} cores before the run")
    return found


def _device_cautions(stages: Mapping[str, Spread]) -> list[str]:
    compute = stages.get("compute")
    if compute is None:
        return []
    found = []
    enqueue = stages.get("enqueue")
    if enqueue is not None and enqueue.p50_ms > _ENQUEUE_SHARE * compute.p50_ms:
        found.append("may be bound by enqueue time: a CUDA graph would help")
    for name, words in (("h2d", "to the device"), ("d2h", "to the host")):
        copy = stages.get(name)
        if copy is not None and copy.p50_ms >= compute.p50_ms:
            found.append(f"copies {words} take longer than computing")
    if compute.variation_ratio > _UNSTABLE_RATIO:
        found.append(f"GPU compute time is unstable (coefficient of variation {compute.variation_ratio:.1%})")
    return found


def _is_mlperf(case: Case) -> bool:
    return case.scenario in ("single_stream", "multi_stream", "offline")
