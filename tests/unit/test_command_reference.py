"""docs/commands.md is what the commands say of themselves."""

from __future__ import annotations

import click

from agent.cli import COMMANDS, root
from scripts.dev.command_reference import PAGE, page


def test_the_page_is_that_of_the_program() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m scripts.dev.command_reference"


def test_the_page_has_every_command_and_option() -> None:
    text = PAGE.read_text(encoding="utf-8")
    context = click.Context(root, info_name="agent")
    for name in COMMANDS:
        assert f"### agent {name}\n" in text
        command = root.get_command(context, name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[-1] in text
