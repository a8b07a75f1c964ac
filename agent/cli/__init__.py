"""The command line: one file per command, imported only when it is called."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Literal

import click

import agent

GROUPS: dict[str, dict[str, str]] = {
    "Run and watch": {
        "run": "Run the agent with a configuration file.",
        "reload": "Make the running service read its configuration again.",
        "serve": "Serve model packages to programs over HTTP, without cameras.",
        "demo": "Run a bundled clip, model and broker for a first look.",
        "watch": "Show live what agents publish over MQTT.",
        "explain": "Say why classifiers have decided a label, or none.",
        "health": "Check whether the agent is well, for a container's health check.",
    },
    "Prepare a device": {
        "doctor": "Check what can run on this machine, and how to fix what cannot.",
        "config": "Check a configuration file, or print its schema.",
        "plan": "Say whether this device carries a configuration, from measured figures.",
        "build": "Build TensorRT engines ahead of time.",
    },
    "Models and engines": {
        "model": "Import, check and list model packages.",
        "verify": "Compare an engine's results with the reference.",
        "benchmark": "Measure engines on this device, and compare reports.",
    },
}
COMMANDS: dict[str, str] = {name: text for group in GROUPS.values() for name, text in group.items()}
_WITHOUT_LOGS = frozenset({"config", "health", "reload"})

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
        """See click; the error for an unknown command lists those that exist."""
        if args and not args[0].startswith("-") and args[0] not in (known := self.list_commands(ctx)):
            ctx.fail(f"there is no command {args[0]!r}; there are {', '.join(known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The lists in `--help`, one per group."""
        known = self.list_commands(ctx)
        for title, commands in GROUPS.items():
            rows = [(name, text) for name, text in commands.items() if name in known]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 click's
    """Print release and commit; a checkout asks git for it, so no other command pays for that."""
    if value and not ctx.resilient_parsing:
        print(f"agent, version {agent.__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
@click.option("--debug", is_flag=True, help="Log at debug level, and show the traceback of an internal error.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="Format of log lines; auto is text on a terminal and JSON elsewhere.",
)
@click.pass_context
def root(ctx: click.Context, *, debug: bool, log_format: LogFormat) -> None:
    """Classify camera frames on the device and publish the results over MQTT."""
    ctx.ensure_object(Settings).debug = debug
    if ctx.invoked_subcommand not in _WITHOUT_LOGS:
        from agent.runtime import logs

        logs.configure(json=None if log_format == "auto" else log_format == "json", level="debug" if debug else "info")
