"""Prints the doctor's report in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agent.tools.doctor.findings import Finding, Report

_MARKS = {"ok": ("✔", "green"), "absent": ("–", "dim"), "warning": ("!", "yellow"), "failed": ("✘", "bold red")}


def render(report: Report) -> RenderableType:
    """The whole report."""
    parts: list[RenderableType] = []
    width = max((len(one.name) for section in report.sections for one in section.findings), default=0)
    for section in report.sections:
        parts.append(Text(section.name, style="bold"))
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=min(width, 24), overflow="ellipsis")
        table.add_column(overflow="fold")
        for finding in section.findings:
            _add(table, finding)
        parts.append(Padding(table, (0, 0, 1, 2)))
    parts.append(_verdict(report))
    return Group(*parts)


def _add(table: Table, finding: Finding) -> None:
    # Something absent that is not needed is no alarm.
    mark, style = _MARKS[finding.state]
    detail = Text(finding.detail, style="dim" if finding.state == "absent" else "")
    if finding.remedy:
        detail.append(f"\n→ {finding.remedy}", style="dim" if finding.state == "absent" else "yellow")
    table.add_row(
        Text(mark, style=style), Text(finding.name, style=style if finding.state == "failed" else ""), detail
    )


def _verdict(report: Report) -> Text:
    if not report.failures and report.reservations:
        text = f"! Everything that {report.subject} needs can run, but not as configured: see "
        return Text(text + ", ".join(report.reservations), style="bold yellow")
    if not report.failures:
        return Text(f"✔ Everything that {report.subject} needs can run.", style="bold green")
    count = len(report.failures)
    things = "one thing" if count == 1 else f"{count} things"
    return Text(f"✘ {report.subject} needs {things} that cannot run: {', '.join(report.failures)}", style="bold red")
