"""The report as one page that needs nothing else: no script, no font and no image from elsewhere."""

from __future__ import annotations

from html import escape

from agent.tools.benchmark.recommend import as_yaml
from agent.tools.benchmark.render.svg import charts_of
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

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2933; --faint: #5b6773; --line: #e3e7eb; --shade: #f6f8fa;
  --good: #f3f9ea; --bad: #fdf1ef; }
@media (prefers-color-scheme: dark) { :root { --paper: #14191f; --ink: #e4e9ee; --faint: #a3afba; --line: #333d47;
  --shade: #1d242c; --good: #1c2a12; --bad: #331a17; } }
body { margin: 2.5rem auto; max-width: 80rem; padding: 0 1.5rem; color: var(--ink); background: var(--paper);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.quiet { color: var(--faint); } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .34rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; } .word { text-align: left; }
td.word:first-child { white-space: nowrap; font-weight: 600; }
tr:hover td { background: var(--shade); }
.good, .bad { padding: .8rem 1.1rem; border-left: 4px solid; margin: 1rem 0; overflow-wrap: anywhere; }
.good { border-color: #5a9e00; background: var(--good); } .bad { border-color: #c0392b; background: var(--bad); }
pre { background: var(--shade); padding: .8rem 1.1rem; margin: .6rem 0 0; overflow-x: auto; }
ul { padding-left: 1.2rem; } li { margin: .15rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1.5rem 2rem; }
figure { margin: 0; display: flex; flex-direction: column; } figcaption { font-weight: 600; order: -2; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0;
  margin: .3rem 0 0; order: -1; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
figure { overflow-x: auto; } svg { width: 100%; min-width: 30rem; height: auto; }
svg .ink { fill: var(--ink); } svg .faint { fill: var(--faint); }
svg .grid, svg .whisker { fill: none; stroke: var(--line); } svg .whisker { stroke: var(--ink); stroke-width: 1.6; }
@media (max-width: 40rem) { body { margin: 1rem auto; padding: 0 1rem; } }
"""


def to_html(report: Report) -> str:
    """The whole page."""
    title = escape(f"Benchmark of {report.model.name} {report.model.version}")
    env = report.environment
    known = [env.get("board"), env.get("cpu"), report.started_at, f"agent {report.agent}"]
    where = escape(" · ".join(str(one) for one in known if one))
    parts = [f"<h1>{title}</h1>", f'<p class="quiet">{where}</p>', *_verdict(report), charts_of(report)]
    parts += [f"<h2>{escape(table.title)}</h2>{_table(table)}" for table in report_tables(report)]
    parts += [f"<p>{escape(pipeline_sentence(one))}.</p>" for one in report.pipelines]
    if sentences := [*accuracy_sentences(report), *soak_sentences(report)]:
        parts.append(f"<h2>In words</h2>{_list(sentences)}")
    parts.append(f"<h2>Notes</h2>{_list([*notes(report), f'{UNSURE} after a percentile: too few runs for it'])}")
    facts = Table("", ("what", "value"), tuple(environment_rows(report)), words=2)
    parts.append(f"<h2>Measured on</h2>{_table(facts)}")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _verdict(report: Report) -> list[str]:
    parts = []
    if report.invalid:
        parts.append(f'<div class="bad"><b>Not valid, do not use.</b>{_list(report.invalid)}</div>')
    choice = report.recommendation
    if choice is not None and choice.engine is not None:
        yaml = as_yaml(choice, model=report.model.name, package=f"{report.model.name}-{report.model.version}")
        words = f"<b>{recommended(report)}:</b> {escape(choice.reason)}.<pre>{escape(yaml)}</pre>"
        parts.append(f'<div class="{"bad" if report.invalid else "good"}">{words}</div>')
    elif choice is not None:
        parts.append(f'<div class="bad"><b>Nothing can be recommended:</b> {escape(choice.reason)}.</div>')
    return parts


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        kinds = [' class="word"' if place < table.words else "" for place in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for c, k in zip(cells, kinds, strict=True)) + "</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return f'<div class="wide"><table><thead>{row(table.columns, "th")}</thead><tbody>{body}</tbody></table></div>'


def _list(items: list[str] | tuple[str, ...]) -> str:
    return "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in items) + "</ul>"
