"""The plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from agent.tools.plan.load import CapacityPlan, Limit

SCHEMA = "plan/1"


def sentence(plan: CapacityPlan) -> str:
    """What is hit first, and whether it fits."""
    first, allowed = plan.first, 1.0 - plan.keep_free
    figures = f"{first.needed:.0f} of {first.available:.0f} {first.unit} ({first.ratio:.0%})"
    if plan.fits:
        return f"This device carries it. {first.name} is the first limit: it needs {figures}, and {allowed:.0%} may be"
    name, needed = max(first.parts.items(), key=lambda part: part[1])
    largest = f"the largest part is {name} with {needed:.0f} {first.unit}"
    return f"This device does not carry it: {first.name} needs {figures}, but {allowed:.0%} may be; {largest}"


def exceeded(plan: CapacityPlan) -> Iterator[str]:
    """One warning for each limit that is exceeded."""
    for limit in plan.limits:
        if limit.ratio > 1.0 - plan.keep_free:
            figures = f"{limit.needed:.0f} {limit.unit}, but this device has {limit.available:.0f}"
            yield f"{limit.name}: the configuration needs {figures}; lower rate_hz, or see: agent plan"


def lines(plan: CapacityPlan) -> Iterator[str]:
    """Each limit with its parts, the figures with their sources, warnings, and the sentence last."""
    for limit in plan.limits:
        yield f"{limit.name:24} {limit.needed:10.1f} of {limit.available:.0f} {limit.unit} ({limit.ratio:.0%})"
        yield from (f"  {name:30} {needed:10.1f} {limit.unit}" for name, needed in limit.parts.items())
    yield "figures"
    for name, figure in sorted(plan.figures.items()):
        yield f"  {name:36} {figure.value:10.3f}  {figure.source}"
    yield from (f"warning: {text}" for text in plan.warnings)
    yield sentence(plan)


def as_dict(plan: CapacityPlan) -> dict[str, object]:
    """The plan as JSON values."""
    return {
        "schema": SCHEMA,
        "fits": plan.fits,
        "first": plan.first.name,
        "keep_free": plan.keep_free,
        "sentence": sentence(plan),
        "limits": [_limit(limit) for limit in plan.limits],
        "figures": {name: {"value": one.value, "source": one.source} for name, one in sorted(plan.figures.items())},
        "warnings": list(plan.warnings),
    }


def _limit(limit: Limit) -> dict[str, object]:
    return {
        "name": limit.name,
        "unit": limit.unit,
        "needed": limit.needed,
        "available": limit.available,
        "ratio": limit.ratio,
        "parts": limit.parts,
    }
