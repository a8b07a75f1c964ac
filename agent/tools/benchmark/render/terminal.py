"""Prints reports and comparisons on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from agent.tools.benchmark.compare import Comparison
from agent.tools.benchmark.recommend import as_yaml
from agent.tools.benchmark.render.tables import (
    UNSURE,
    Table,
    accuracy_sentences,
    comparison_table,
    cpu_sentence,
    notes,
    pipeline_sentence,
    recommended,
    report_tables,
    soak_sentences,
    summary_sentence,
)
from agent.tools.benchmark.report import Report


def print_report(report: Report, console: Console, *, package: str) -> None:
    """Print everything; the verdict comes last, where it is seen, and then one sentence to paste."""
    for table in report_tables(report):
        console.print(_rich(table))
    for result in report.pipelines:
        _say(console, pipeline_sentence(result))
    for sentence in (*accuracy_sentences(report), *soak_sentences(report)):
        _say(console, sentence)
    for note in notes(report):
        _say(console, f"note: {note}", style="yellow")
    if any(result.spread.too_few for engine in report.engines for result in engine.cases):
        _say(console, f"{UNSURE} too few runs for this percentile")
    choice = report.recommendation
    if choice is not None and choice.engine is not None:
        _say(console, f"\n{recommended(report)}: {choice.reason}\n", style="bold")
        _say(console, as_yaml(choice, model=report.model.name, package=package))
    elif choice is not None and report.engines:
        _say(console, f"\nNothing can be recommended: {choice.reason}", style="bold")
    for why in report.invalid:
        _say(console, f"not valid: {why}", style="red")
    if (by_cpu := cpu_sentence(report)) is not None:
        _say(console, by_cpu)
    if (summary := summary_sentence(report)) is not None:
        _say(console, f"\n{summary}")


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The ratios, what could not be compared, which report is not valid, and the gates that broke."""
    console.print(_rich(comparison_table(comparison)))
    for difference in comparison.differences:
        _say(console, f"different environments: {difference}", style="yellow")
    for side, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        if names:
            _say(console, f"only in the {side}: {'; '.join(names)}")
    for side, reasons in (("first", comparison.invalid_first), ("second", comparison.invalid_second)):
        for why in reasons:
            _say(console, f"the {side} report is not valid: {why}", style="red")
    if comparison.has_failed:
        _say(console, "failed", style="red")


def _say(console: Console, text: str, *, style: str = "") -> None:
    """Print as plain text: rich would read brackets as markup."""
    console.print(Text(text, style=style))


def _rich(table: Table) -> RichTable:
    rich = RichTable(title=Text(table.title, "bold"), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for place, column in enumerate(table.columns):
        is_word = place < table.words
        rich.add_column(column, justify="left" if is_word else "right", overflow="fold", no_wrap=not is_word)
    for row in table.rows:
        rich.add_row(*map(Text, row))
    return rich
