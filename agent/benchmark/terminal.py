"""The report on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable

from agent.benchmark.compare import Comparison
from agent.benchmark.recommend import as_yaml
from agent.benchmark.report import Report
from agent.benchmark.tables import (
    UNSURE,
    Table,
    accuracy_sentences,
    comparison_table,
    notes,
    pipeline_sentence,
    report_tables,
    soak_sentences,
)


def print_report(report: Report, console: Console, *, package: str) -> None:
    """Everything, the verdict last where it is seen."""
    for table in report_tables(report):
        console.print(_rich(table), highlight=False)
    for result in report.pipelines:
        console.print(pipeline_sentence(result), highlight=False)
    for sentence in (*accuracy_sentences(report), *soak_sentences(report)):
        console.print(sentence, highlight=False)
    for note in notes(report):
        console.print(f"note: {note}", style="yellow", highlight=False)
    if any(result.spread.too_few for engine in report.engines for result in engine.cases):
        console.print(f"{UNSURE} too few runs for this percentile", highlight=False)
    choice = report.recommendation
    if choice is not None and choice.engine is not None:
        condition = ", if the figures could be used" if report.invalid else ""
        console.print(f"\nRecommended{condition}: {choice.reason}\n", style="bold", highlight=False)
        console.print(as_yaml(choice, model=report.model.name, package=package), highlight=False)
    elif choice is not None and report.engines:
        console.print(f"\nNothing can be recommended: {choice.reason}", style="bold", highlight=False)
    for why in report.invalid:
        console.print(f"not valid: {why}", style="red", highlight=False)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The ratios, what could not be compared, and the gates that broke."""
    console.print(_rich(comparison_table(comparison)), highlight=False)
    for difference in comparison.differences:
        console.print(f"different environments: {difference}", style="yellow", highlight=False)
    for side, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        if names:
            console.print(f"only in the {side}: {'; '.join(names)}", highlight=False)
    if comparison.has_failed:
        console.print("failed", style="red")


def _rich(table: Table) -> RichTable:
    rich = RichTable(title=table.title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0))
    for place, column in enumerate(table.columns):
        is_word = place < table.words
        rich.add_column(column, justify="left" if is_word else "right", overflow="fold", no_wrap=not is_word)
    for row in table.rows:
        rich.add_row(*row)
    return rich
