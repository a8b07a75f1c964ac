"""`agent config`: check a configuration without running it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.io.options import plan_options
from agent.config.dump import public_config, public_yaml
from agent.config.loader import LoadedConfig, load_config
from agent.config.model import ModelConfig
from agent.config.problems import Problem, at, error_of
from agent.config.state_dir import OVERRIDES_FILE
from agent.runtime.errors import Unavailable, UsageError
from agent.runtime.secrets import redact

if TYPE_CHECKING:
    from agent.tools.profile_checks import ProfileReport


@click.group()
def config() -> None:
    """Check a configuration file, or print its schema."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path, readable=False), required=False)
@click.option("-c", "--config", "path", type=click.Path(path_type=Path, readable=False), help="The same as FILE.")
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    file: Path | None,
    *,
    path: Path | None,
    reports: tuple[Path, ...],
    clips: dict[str, Path],
    figures: dict[str, float],
    accept_invalid: bool,
    as_json: bool,
) -> None:
    """Check FILE and print the resulting configuration with all defaults, and what kept commands change of it.

    With --report, --clip or --figure, as in `agent plan`, it also warns of each limit of this device that the
    configuration exceeds.

    Exit code 78 if it is not valid; each error is printed with its line.
    """
    loaded = load_config(_one_of(file, path))
    profile = _profile_report(loaded)
    problems = [*_refused_options(loaded), *_serve_problems(loaded), *(() if profile is None else profile.errors)]
    if problems:
        raise error_of(problems, loaded.document.name)
    if profile is not None:
        found = tuple(problem.text(loaded.document.name) for problem in profile.warnings)
        loaded = replace(loaded, warnings=(*loaded.warnings, *found))
    if reports or clips or figures:
        exceeded = _exceeded(loaded, reports, clips, figures, accepts_invalid=accept_invalid)
        loaded = replace(loaded, warnings=(*loaded.warnings, *exceeded))
    overrides = _overrides(loaded)
    if as_json:
        resolved = {**_resolved(loaded), "overrides": overrides}
        print(redact(json.dumps({**resolved, "config": public_config(loaded.config)}, indent=2)))
    else:
        _print_text(loaded, overrides)


def _one_of(file: Path | None, path: Path | None) -> Path:
    """The file of a command that takes it as an argument, and as the option ``-c`` of the other commands."""
    if file is not None and path is not None:
        raise click.UsageError(f"two files are given, {file} and with -c {path}; name one")
    found = path if file is None else file
    if found is None:
        raise click.UsageError("no file is given; name the configuration to check")
    return found


def _exceeded(
    loaded: LoadedConfig,
    reports: tuple[Path, ...],
    clips: dict[str, Path],
    figures: dict[str, float],
    *,
    accepts_invalid: bool,
) -> list[str]:
    """The limits of this device that the configuration exceeds, or which figures are missing to know that."""
    from agent.runtime import logs
    from agent.tools.benchmark.report import load_report
    from agent.tools.plan.load import KEEP_FREE, plan, this_device
    from agent.tools.plan.words import exceeded

    logs.configure(level="error")  # libraries that decode clips have much to say
    try:
        found = plan(
            loaded,
            device=this_device(),
            reports={str(report): load_report(report) for report in reports},
            clips=clips,
            stated=figures,
            keep_free=KEEP_FREE,
            accepts_invalid=accepts_invalid,
        )
    except Unavailable as exc:
        return [exc.message]
    return [*found.warnings, *exceeded(found)]


def _overrides(loaded: LoadedConfig) -> list[str]:
    """What kept commands change of the configuration, and which of them do not any more."""
    if not (loaded.state_dir / OVERRIDES_FILE).exists():
        return []
    from agent.commands.overrides import kept_changes  # the room of commands takes a tenth of a second

    kept = kept_changes(loaded)
    return [*kept.in_force(), *kept.edited, *kept.unfit]


def _profile_report(loaded: LoadedConfig) -> ProfileReport | None:
    """The configuration compared with the limits of ``mqtt.profile``; None if it names none."""
    if loaded.config.mqtt.profile is None:
        return None
    from agent.tools.profile_checks import compare_with_profile  # takes half a second

    return compare_with_profile(loaded)


def _serve_problems(loaded: LoadedConfig) -> Iterator[Problem]:
    """Tokens and certificates that the server would refuse."""
    if loaded.config.serve.is_on:
        from agent.web.inputs import input_faults

        for key, fault in input_faults(loaded):
            yield at(loaded.document, ("serve", key), fault)


def _refused_options(loaded: LoadedConfig) -> Iterator[Problem]:
    """Options that their engine would refuse."""
    for name, model in loaded.config.models.items():
        if model.options:
            yield from _option_problems(loaded, name, model)


def _option_problems(loaded: LoadedConfig, name: str, model: ModelConfig) -> Iterator[Problem]:
    from engines import EngineError, canonical_name, check_options  # takes half a second

    try:
        check_options(canonical_name(model.engine), model.options)
    except EngineError as exc:
        option = exc.fields.get("option")
        path = ("models", name, "options", option) if isinstance(option, str) else ("models", name)
        yield at(loaded.document, path, exc.message)


def _resolved(loaded: LoadedConfig) -> dict[str, object]:
    return {
        "file": str(loaded.path),
        "sha256": loaded.sha256,
        "device": {"id": loaded.device_id, "name": loaded.device_name},
        "state_dir": str(loaded.state_dir),
        "packages": {name: str(loaded.package_dir(name)) for name in loaded.config.models},
        "passwords": [
            *(["mqtt"] if loaded.mqtt_password else []),
            *(f"cameras.{name}" for name in loaded.camera_passwords),
        ],
        "warnings": list(loaded.warnings),
    }


def _print_text(loaded: LoadedConfig, overrides: Sequence[str]) -> None:
    from rich.syntax import Syntax

    from agent.cli.io.console import Console

    text = redact(public_yaml(loaded.config))
    console = Console(soft_wrap=True)
    if console.is_terminal:
        console.print(Syntax(text, "yaml", theme="ansi_dark", background_color="default"))
    else:
        print(text)
    for name, value in _resolved(loaded).items():
        if name not in {"warnings", "file"}:
            console.print(f"# {name:<10} {_in_words(value)}", highlight=False, markup=False, style="dim")
    for text in overrides:
        console.print(f"# kept: {text} ({loaded.state_dir / OVERRIDES_FILE})", highlight=False, markup=False)
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    console.print(f"# {loaded.path} is valid", style="green", highlight=False, markup=False)


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {below}" for name, below in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


@config.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def profiles(name: str | None, *, as_json: bool) -> None:
    """Print the limits of the services that `mqtt.profile` can name, or of one."""
    from agent.config.profiles import PROFILES

    chosen = {key: asdict(profile) for key, profile in PROFILES.items() if name in {None, key}}
    if not chosen:
        raise UsageError(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    if as_json:
        print(json.dumps(chosen, indent=2))
        return
    for key, profile in chosen.items():
        print(key)
        for field, value in profile.items():
            if value not in (None, (), ""):
                print(f"  {field:22} {_in_words(list(value) if isinstance(value, tuple) else value)}")


@config.command()
@click.option("--messages", is_flag=True, help="Print the schemas of the MQTT messages.")
@click.option("--asyncapi", is_flag=True, help="Print the AsyncAPI document of the MQTT topics.")
def schema(*, messages: bool, asyncapi: bool) -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    if messages and asyncapi:
        raise UsageError("--messages and --asyncapi print different documents; give one of them")
    print(json.dumps(_schema(messages=messages, asyncapi=asyncapi), indent=2))


def _schema(*, messages: bool, asyncapi: bool) -> object:
    if messages:
        from agent.commands.requests import request_schemas
        from agent.commands.schemas import message_schemas

        return {**message_schemas(), **request_schemas()}
    if asyncapi:
        from agent.commands.schemas import asyncapi_document

        return asyncapi_document()
    from agent.config.model import AgentConfig
    from agent.config.sections.field_docs import DescribedJsonSchema

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **AgentConfig.model_json_schema(schema_generator=DescribedJsonSchema),
        "title": "Configuration of the edge inference agent",
    }
