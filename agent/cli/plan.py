"""`agent plan`: whether this device carries a configuration, from measured figures."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agent.cli.io.numbers import Whole
from agent.cli.io.options import PATH, plan_options


@click.command()
@click.option("-c", "--config", "path", type=PATH, required=True, help="The configuration to plan for.")
@plan_options
@click.option(
    "--keep-free", type=Whole(0, 90), default=20, show_default=True, metavar="PERCENT",
    help="Share of every resource to leave unused, for peaks.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    *,
    path: Path,
    reports: tuple[Path, ...],
    clips: dict[str, Path],
    figures: dict[str, float],
    accept_invalid: bool,
    keep_free: int,
    as_json: bool,
) -> int:
    """Compare what a configuration needs with what this device has, before it is mounted on a wall.

    Needed figures come from reports of `agent benchmark` of this device, from clips that are decoded here, or are
    stated. Nothing is guessed: a missing figure is named with the command that measures it (exit code 69).

    Exit code 1 if the device does not carry the configuration.
    """
    from agent.config.loader import load_config
    from agent.tools.benchmark.report import load_report
    from agent.tools.plan.load import plan as plan_of
    from agent.tools.plan.load import this_device
    from agent.tools.plan.words import as_dict, lines

    found = plan_of(
        load_config(path),
        device=this_device(),
        reports={str(report): load_report(report) for report in reports},
        clips=clips,
        stated=figures,
        keep_free=keep_free / 100,
        accepts_invalid=accept_invalid,
    )
    print(json.dumps(as_dict(found), indent=2) if as_json else "\n".join(lines(found)))
    return 0 if found.fits else 1
