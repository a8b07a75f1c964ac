"""`agent verify`: compare an engine's results with the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from agent.cli.io.numbers import Whole
from agent.cli.io.options import ENGINE_OPTION, MAX_FILE_OPTION, package_directory
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
    help="Folder of images; int8 leaves out those it is calibrated on.  [default: the package's own]",
)
@click.option("--max-batch", type=Whole(1, 64), default=4, show_default=True, help="Largest batch.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for graphs and plans.  [default: the agent's]",
)
@ENGINE_OPTION
@MAX_FILE_OPTION
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
    max_file_mib: int,
    as_json: bool,
) -> int:
    """Compare an engine's results with ONNX Runtime's CPU provider in fp32.

    Exit code 1 if the engine misses a bar, or if the images do not suffice for a proof; 69 if it cannot run here, or
    not in this precision.
    """
    from engines import EngineOptions, load_unknown_package
    from engines import verify as compare

    wanted = EngineOptions(
        cache_dir=cache or default_cache_dir(),
        engine=engine,
        precision=cast("Precision", precision),
        max_batch=max_batch,
        options=options,
    )
    try:
        known = load_unknown_package(package_directory(package), wanted.cache_dir, max_bytes=max_file_mib << 20)
        certificate = compare(known, wanted, images)
    except FileNotFoundError as exc:
        raise UsageError(str(exc)) from exc
    if as_json:
        print(json.dumps(certificate.as_dict(), indent=2))
    else:
        _print(certificate)
    return 0 if certificate.is_proven else 1


def _print(certificate: Certificate) -> None:
    from rich.table import Table
    from rich.text import Text

    from agent.cli.io.console import Console

    precision: str = certificate.precision
    if certificate.int8_form is not None:
        precision = f"{precision} ({certificate.int8_form})"
    if certificate.precision != certificate.requested_precision:
        precision = f"{precision} (this device computes the {certificate.requested_precision} graph in it)"
    facts = {
        "model": f"{certificate.model} ({certificate.model_sha256[:12]})",
        "engine": f"{certificate.engine}, {precision}",
        "reference": certificate.reference,
        **_figures(certificate),
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
    if not certificate.has_passed:
        console.print(Text(f"failed: {certificate.why_not}", style="red"))
    elif not certificate.is_proven:
        console.print(Text(f"not proven: {certificate.why_not_proven}", style="yellow"))
    elif certificate.is_of_reference:
        console.print(
            Text(
                f"nothing was compared: {certificate.engine} in {certificate.precision} is the reference itself, so "
                "its scores are equal whatever they are. Verify another engine or precision, or check answers with "
                "golden images: agent model check",
                style="yellow",
            )
        )
    else:
        console.print("passed", style="green")


def _figures(certificate: Certificate) -> dict[str, str]:
    found, bars = certificate.comparison, certificate.bars
    idle = f", {certificate.idle_images} more are flat or repeated" if certificate.idle_images else ""
    figures = {
        "images": f"{certificate.images} ({certificate.source}){idle}",
        "task": certificate.task,
        "agreement": f"{found.agreement:.4f}, the minimum is {bars.agreement:.2f}; {found.changed} images changed",
        "at least": f"{found.at_least:.4f} with 95 % confidence"
        + (f", the minimum is {bars.lower_bound:.2f}" if bars.lower_bound else ""),
        "shift": f"{found.mean_shift:.4f} mean, {found.p95_shift:.4f} at p95; "
        f"the maxima are {bars.mean_shift:g} and {bars.p95_shift:g}",
        "divergence": f"{found.divergence:.5f} bits, the maximum is {bars.divergence:g}",
        "difference": f"{certificate.max_abs_difference:.2e} at most, {certificate.mean_abs_difference:.2e} mean",
        "cosine": f"{certificate.cosine:.6f} at least",
        "NaN": str(certificate.non_finite),
    }
    for count in found.labels:
        figures[count.label] = f"detected in {count.engine} images, by the reference in {count.reference}"
    return figures
