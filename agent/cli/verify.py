"""`agent verify`: compare an engine's results with the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from agent.cli.options import ENGINE_OPTION, package_directory
from agent.config.state_dir import default_cache_dir
from agent.runtime.errors import UsageError

if TYPE_CHECKING:
    from engines import Certificate, Precision


@click.command()
@click.option("--package", required=True, help="Directory of the model package, or demo.")
@click.option("--engine", default="auto", show_default=True, help="Engine by name, see: agent doctor.")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True, help="Precision."
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of images to compare on.  [default: the package's golden and calibration images]",
)
@click.option("--max-batch", type=click.IntRange(1, 64), default=4, show_default=True, help="Largest batch.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for graphs and plans.  [default: the agent's]",
)
@ENGINE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    *,
    package: str,
    engine: str,
    precision: str,
    images: Path | None,
    max_batch: int,
    cache: Path | None,
    options: dict[str, object],
    as_json: bool,
) -> int:
    """Compare an engine's results with ONNX Runtime's CPU provider in fp32.

    Exit code 1 if top-1 agreement is below the minimum (0.99; 0.97 for int8), if a result is NaN, or if every image
    gets the same class; 69 if the engine cannot run here, or not in this precision.
    """
    from engines import EngineOptions, load_package
    from engines import verify as compare

    wanted = EngineOptions(
        cache_dir=cache or default_cache_dir(),
        engine=engine,
        precision=cast("Precision", precision),
        max_batch=max_batch,
        options=options,
    )
    try:
        certificate = compare(load_package(package_directory(package)), wanted, images)
    except FileNotFoundError as exc:
        raise UsageError(str(exc)) from exc
    if as_json:
        print(json.dumps(certificate.as_dict(), indent=2))
    else:
        _print(certificate)
    return 0 if certificate.has_passed else 1


def _print(certificate: Certificate) -> None:
    from rich.table import Table
    from rich.text import Text

    from agent.cli.console import Console

    precision: str = certificate.precision
    if certificate.int8_form is not None:
        precision = f"{precision} ({certificate.int8_form})"
    if certificate.precision != certificate.requested_precision:
        precision = f"{precision} (this device computes the {certificate.requested_precision} graph in it)"
    facts = {
        "model": f"{certificate.model} ({certificate.model_sha256[:12]})",
        "engine": f"{certificate.engine}, {precision}",
        "reference": certificate.reference,
        "images": f"{certificate.images} ({certificate.source})",
        "top-1 agreement": f"{certificate.agreement:.4f}, the minimum is {certificate.min_agreement:.2f}",
        "changed labels": str(certificate.changed_labels),
        "difference": f"{certificate.max_abs_difference:.2e} at most, {certificate.mean_abs_difference:.2e} mean",
        "cosine": f"{certificate.cosine:.6f} at least",
        "NaN": str(certificate.non_finite),
    }
    if certificate.kept_layers:
        facts["kept in fp32"] = ", ".join(certificate.kept_layers)
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console = Console(soft_wrap=True)
    console.print(table)
    if certificate.worst and certificate.max_abs_difference > 0:
        worst = Table("image", "reference", "engine", "difference", title="largest differences", title_justify="left")
        for one in certificate.worst:
            worst.add_row(Text(one.image), Text(one.reference), Text(one.engine), f"{one.difference:.2e}")
        console.print(worst)
    if certificate.has_passed:
        console.print("passed", style="green")
    else:
        console.print(Text(f"failed: {certificate.why_not}", style="red"))
