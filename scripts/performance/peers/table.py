"""The figures of all contenders as one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

_MORE_IS_BETTER = "results/s"


@dataclass(slots=True)
class Seen:
    """Figures of one contender, one entry for each turn; ``faults`` by scene."""

    rows: dict[str, list[float]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add the figure of one turn."""
        self.rows.setdefault(name, []).append(value)


def table_of(found: Mapping[str, Seen]) -> Iterator[str]:
    """Markdown: medians, the range over the turns in brackets, and the agent's figure over the best of the others."""
    measured = {kind: seen for kind, seen in found.items() if seen.rows}
    has_rivals = "agent" in measured and len(measured) > 1
    last = " agent over the best other |" if has_rivals else ""
    yield f"| median (range over the turns) | {' | '.join(measured)} |{last}"
    yield "| --- |" + " --: |" * (len(measured) + has_rivals)
    names = dict.fromkeys(name for seen in measured.values() for name in seen.rows)
    for name in names:
        cells = [_cell(seen.rows.get(name, ())) for seen in measured.values()]
        yield f"| {name} | {' | '.join(cells)} |{f' {_beside(name, measured)} |' if has_rivals else ''}"
    for kind, seen in found.items():
        for scene, fault in seen.faults.items():
            yield f"\nNot measured: {kind}, {scene}: {fault}"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    digits = 0 if median(values) >= 100 else 2
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):.{digits}f}{spread}"


def _beside(name: str, measured: Mapping[str, Seen]) -> str:
    medians = {kind: median(seen.rows[name]) for kind, seen in measured.items() if seen.rows.get(name)}
    own = medians.pop("agent", None)
    if own is None or not medians:
        return "–"
    choose = max if name.endswith(_MORE_IS_BETTER) else min
    best = choose(medians, key=lambda kind: medians[kind])
    return f"{own / medians[best]:.2f} × {best}" if medians[best] else "–"
