"""The table and the JSON of a run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One job in one root; ``found`` is what its log shows, ``log`` where that is."""

    root: str
    title: str
    job: str
    is_ok: bool
    seconds: float
    found: str
    python: str
    log: str


def table(results: Sequence[Result]) -> list[str]:
    """A row for each job of each root, in Markdown."""
    lines = ["| root | Python | what | verdict | time | found |", "| --- | --- | --- | --- | --- | --- |"]
    for one in results:
        verdict = "ok" if one.is_ok else "FAILED"
        found = one.found.replace("|", "/")
        lines.append(f"| {one.title} | {one.python} | {one.job} | {verdict} | {one.seconds:.0f} s | {found} |")
    return lines


def document(results: Sequence[Result], *, commit: str, arch: str | None, began_at: str) -> dict[str, object]:
    """The same for a program, with the commit and the machine."""
    return {
        "began_at": began_at,
        "commit": commit,
        "arch": arch or platform.machine(),
        "kernel": platform.release(),
        "is_ok": bool(results) and all(one.is_ok for one in results),
        "results": [asdict(one) for one in results],
    }
