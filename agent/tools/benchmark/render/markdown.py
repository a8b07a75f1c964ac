"""The report as Markdown, for a README."""

from __future__ import annotations

from agent.tools.benchmark.recommend import as_yaml
from agent.tools.benchmark.render.tables import (
    UNSURE,
    Table,
    accuracy_sentences,
    environment_rows,
    notes,
    pipeline_sentence,
    recommended,
    report_tables,
    soak_sentences,
)
from agent.tools.benchmark.report import Report


def to_markdown(report: Report) -> str:
    """A document with every table, warning and sentence of the report."""
    parts = [f"# Benchmark of {report.model.name} {report.model.version}", _verdict(report)]
    choice = report.recommendation
    if choice is not None and choice.engine is not None:
        yaml = as_yaml(choice, model=report.model.name, package=f"{report.model.name}-{report.model.version}")
        parts.append(f"{recommended(report)}: {choice.reason}.\n\n```yaml\n{yaml}```")
    elif choice is not None and report.engines:
        parts.append(f"Nothing can be recommended: {choice.reason}.")
    parts += [f"## {table.title}\n\n{_table(table)}" for table in report_tables(report)]
    parts += [pipeline_sentence(one) + "." for one in report.pipelines]
    if sentences := [*accuracy_sentences(report), *soak_sentences(report)]:
        parts.append("## In words\n\n" + "\n".join(f"- {one}" for one in sentences))
    said = [*notes(report), f"\\{UNSURE} after a percentile: too few runs for it"]
    parts.append("## Notes\n\n" + "\n".join(f"- {one}" for one in said))
    facts = Table("", ("what", "value"), tuple(environment_rows(report)), words=2)
    parts.append("## Measured on\n\n" + _table(facts))
    return "\n\n".join(parts) + "\n"


def _verdict(report: Report) -> str:
    if not report.invalid:
        return "Every figure below is valid by the rules of the benchmark."
    return "**Not valid**, do not use:\n\n" + "\n".join(f"- {one}" for one in report.invalid)


def _table(table: Table) -> str:
    rule = [":--" if place < table.words else "--:" for place in range(len(table.columns))]
    rows = [table.columns, rule, *table.rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
