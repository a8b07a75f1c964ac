"""Writes the table of docs/metrics.md from the code: ``python -m scripts.dev.metrics_reference``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from agent.web.metrics.families import FAMILIES, STAGE_HELP, STAGE_LABELS, STAGE_NAME
from agent.web.metrics.triton import TRITON_FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_MARK = "<!-- metrics -->\n"


def page() -> str:
    """The whole page: what stands before the mark, and the table."""
    return PAGE.read_text(encoding="utf-8").partition(_MARK)[0] + _MARK + "\n" + "\n".join(_rows()) + "\n"


def _rows() -> Iterator[str]:
    yield "| metric | type | labels | what |"
    yield "| --- | --- | --- | --- |"
    for family in FAMILIES:
        yield _row(family.name, family.kind, family.labels, family.help)
    yield _row(STAGE_NAME, "histogram", STAGE_LABELS, STAGE_HELP)
    for family in TRITON_FAMILIES:
        yield _row(family.name, family.kind, family.labels, family.help)


def _row(name: str, kind: str, labels: tuple[str, ...], text: str) -> str:
    named = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {kind} | {named} | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
