"""The command line: one thin file per command, loaded only when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Literal

import click

import agent

COMMANDS: dict[str, str] = {
    "run": "Run the agent as a configuration file says.",
    "demo": "See it work: bundled clip, bundled model, broker included.",
    "watch": "Live view of what agents publish.",
    "doctor": "What can run here, what cannot, and what to do about it.",
    "benchmark": "Measure the engines on this device.",
    "build": "Build an engine ahead of time.",
    "verify": "Compare an engine's answers with the reference.",
    "model": "Import, check and list model packages.",
    "config": "Check a configuration file, print its schema.",
}
_WITHOUT_LOGS = frozenset({"config"})

LogFormat = Literal["auto", "json", "text"]


@dataclass(slots=True)
class Settings:
    """Options of `agent` itself, for the commands below it."""

    debug: bool = False


class LazyGroup(click.Group):
    """Lists the commands without importing any of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the library's signature
        """The commands that this installation has."""
        return [name for name in COMMANDS if importlib.util.find_spec(f"agent.cli.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(importlib.import_module(f"agent.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click; an unknown command is told together with those that exist."""
        if args and not args[0].startswith("-") and args[0] not in (known := self.list_commands(ctx)):
            ctx.fail(f"there is no command {args[0]!r}; there are {', '.join(known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from the table above."""
        rows = [(name, COMMANDS[name]) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 click's
    """Print release and commit; a checkout asks git for it, so no other command pays for that."""
    if value and not ctx.resilient_parsing:
        click.echo(f"agent, version {agent.__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
@click.option("--debug", is_flag=True, help="Log everything, and show where an internal error happened.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="How log lines look; auto is text on a terminal and JSON elsewhere.",
)
@click.pass_context
def root(ctx: click.Context, *, debug: bool, log_format: LogFormat) -> None:
    """Classifies camera frames on the device and publishes what it sees over MQTT."""
    ctx.ensure_object(Settings).debug = debug
    if ctx.invoked_subcommand not in _WITHOUT_LOGS:
        from agent.runtime import logs

        logs.configure(json=None if log_format == "auto" else log_format == "json", level="debug" if debug else "info")
