"""Writes docs/commands.md from the commands themselves: ``python -m scripts.dev.command_reference``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli import GROUPS, root

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_WIDTH = 100

_HEAD = """\
# Commands

Written by `python -m scripts.dev.command_reference` from the commands' own help; a test compares the two.

`agent` is `.venv/bin/agent` in a checkout and `/opt/agent/bin/agent` after an installation. An option means the same
in every command: `-c FILE` is a configuration, `--json` prints JSON on standard output, `--output FILE` writes a file
in the form that its extension names.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | a check or a gate failed; the output says which |
| 2 | the command line is wrong |
| 69 | something needed is not available |
| 70 | internal error |
| 75 | another agent holds the state directory |
| 78 | the configuration or the package cannot be used |
"""


def page() -> str:
    """The whole page."""
    context = click.Context(root, info_name="agent", max_content_width=_WIDTH)
    parts = [_HEAD, "## agent\n", *_options(root, context)]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in names:
            command = root.get_command(context, name)
            if command is None:
                raise SystemExit(f"agent has no command {name}, but the help lists it")
            parts += _command(command, click.Context(command, info_name=name, parent=context))
    return "\n".join(parts).rstrip() + "\n"


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### {context.command_path}\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```\n{usage}\n```\n"
    yield _text(command.help or "")
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from _command(below, click.Context(below, info_name=name, parent=context))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    options = [one for one in command.params if isinstance(one, click.Option)]
    rows = [record for one in options if (record := one.get_help_record(context)) is not None]
    if rows:
        yield "| option | meaning |\n| --- | --- |"
        yield "\n".join(f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in rows) + "\n"


def _text(help_text: str) -> str:
    """Paragraphs of a docstring, each on one line."""
    paragraphs = help_text.replace("\b", "").strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
