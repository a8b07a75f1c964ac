"""`agent model`: import, check and list model packages."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from agent.cli.io.numbers import Whole
from agent.cli.io.options import MAX_FILE_OPTION
from agent.cli.io.signals import sigterm_as_ctrl_c
from agent.config.state_dir import default_cache_dir
from agent.runtime.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from engines import Activation, ModelPackage, PackageCheck

_MANIFEST = "model.yaml"
_WORDS = {"true": (1.0,), "false": (0.0,)}
_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})\Z")


@click.group()
def model() -> None:
    """Import, check and list model packages."""


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    match = _SIZE.match(value.lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size; write it like 224x224", ctx, param)
    return int(match[1]), int(match[2])


def _numbers(text: str) -> tuple[float, ...] | None:
    """Finite numbers between commas; None for anything else."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    return found if all(math.isfinite(one) for one in found) else None


def _floats(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    found = _numbers(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no list of numbers; write it like 0.485,0.456,0.406", ctx, param)
    return found


def _deviations(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    found = _floats(ctx, param, value)
    if found is not None and min(found) <= 0:
        raise click.BadParameter(
            f"{value!r} has {min(found):g}, but values are divided by it; give numbers above 0", ctx, param
        )
    return found


def _factor(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and (value == 0 or not math.isfinite(value)):
        raise click.BadParameter(f"{value:g} leaves nothing of an image; give a number like 0.00392157", ctx, param)
    return value


def _golden(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[Path, str], ...]:
    known: list[tuple[Path, str]] = []
    for value in values:
        image, _, label = value.partition("=")
        if not (image and label):
            raise click.BadParameter(f"{value!r} is not IMAGE=LABEL; write it like photo.jpg=cat", ctx, param)
        known.append((Path(image), label))
    return tuple(known)


def _constants(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    found: dict[str, tuple[float, ...]] = {}
    for value in values:
        # A tensor's name may itself have a "=".
        name, _, text = value.rpartition("=")
        numbers = _WORDS.get(text.strip().lower()) or _numbers(text)
        if not name or numbers is None:
            raise click.BadParameter(
                f"{value!r} is not NAME=VALUE; write it like training=false or size=224,224", ctx, param
            )
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice, but an input has one value", ctx, param)
        found[name] = numbers
    return tuple(found.items())


@model.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--labels", type=click.Path(path_type=Path),
    help="Label file, in any usual format.  [default: as in the model's files]",
)  # fmt: skip
@click.option(
    "--preset",
    type=click.Choice(["imagenet", "tf", "caffe", "raw01", "raw255"]),
    help="Preprocessing used in training; a wrong one lowers accuracy without an error."
    "  [default: as in the model's files]",
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Weights of a model of timm: import timm:resnet18."
)
@click.option("--name", help="Name of the package.  [default: name of FILE]")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the package.")
@click.option(
    "--size", metavar="WIDTHxHEIGHT", callback=_size, help="Input size of a model with dynamic width and height."
)
@click.option(
    "--color",
    type=click.Choice(["rgb", "bgr", "gray"]),
    help="Colours that the model was trained on.  [default: as in the preset]",
)
@click.option(
    "--resize",
    type=click.Choice(["stretch", "shorter_side", "letterbox"]),
    help="How an image gets the model's shape.  [default: as in the preset]",
)
@click.option("--resize-to", type=Whole(1), help="Shorter side in pixels before the centre crop.")
@click.option(
    "--interpolation",
    type=click.Choice(["linear", "area", "nearest", "linear_antialias", "cubic_antialias"]),
    help="How to resize; those with antialias as Pillow and torchvision do.  [default: as in the preset]",
)
@click.option(
    "--scale",
    type=float,
    callback=_factor,
    help="Factor of each value before mean and std.  [default: as in the preset]",
)
@click.option("--mean", metavar="VALUES", callback=_floats, help="Mean of each channel, like 0.485,0.456,0.406.")
@click.option("--std", metavar="VALUES", callback=_deviations, help="Standard deviation of each channel, like --mean.")
@click.option(
    "--activation",
    type=click.Choice(["auto", "none", "softmax", "sigmoid"]),
    default="auto",
    show_default=True,
    help="Activation that the graph lacks; auto runs the model to find out.",
)
@click.option(
    "--task",
    type=click.Choice(["single_label", "multi_label", "binary"]),
    help="What the scores decide; needed for sigmoids.  [default: single_label]",
)
@click.option("--output-name", metavar="NAME", help="The output that holds the scores, of a model with several.")
@click.option("--class-axis", type=Whole(0, 7), help="Axis of the classes in that output, where it is not the last.")
@click.option("--features", metavar="NAME", help="The tensor with each image's embedding, to publish it for drift.")
@click.option(
    "--batch-axis",
    type=click.IntRange(0, 3),
    help="Axis of the batch in the image's input, where it is not the first.",
)
@click.option(
    "--constant",
    "constants",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_constants,
    help="Value of an input beside the image, like training=false or size=224,224. May be repeated.",
)
@click.option("--positive", metavar="LABEL", help="The label that the score of a binary model speaks for.")
@click.option(
    "--offset",
    type=Whole(0, 1),
    default=0,
    show_default=True,
    help="1 if the first class is a background class.",
)
@click.option(
    "--golden",
    metavar="IMAGE=LABEL",
    multiple=True,
    callback=_golden,
    help="Known result, checked at every load. Repeat it for several.",
)
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of images for int8 calibration.")
@click.option("--evaluation", type=click.Path(path_type=Path), help="Folder of images that int8 is judged on.")
@click.option("--license", "license_name", help="The model's licence.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIRECTORY",
    help="Where the package is written.  [default: .]",
)
@MAX_FILE_OPTION
@click.option("--force", is_flag=True, help="Replace an existing package.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_(
    file: Path, *, as_json: bool, output: Path, activation: str, license_name: str | None, **options: object
) -> None:
    """Make a package from the ONNX or .pt2 model FILE, and check it.

    FILE may also be a folder of Hugging Face or timm; one without an ONNX file, and timm:NAME with --checkpoint, are
    exported first, which needs PyTorch. Size, layout and classes are read from
    the model; labels and preprocessing too, where its files state them. Nothing is written unless all checks pass.
    """
    from engines import ImportRequest, import_model

    declared = None if activation == "auto" else cast("Activation", activation)
    request = ImportRequest(model=file, activation=declared, license=license_name, out=output, **options)  # type: ignore[arg-type] # click has checked each option
    with sigterm_as_ctrl_c():
        result = import_model(request, _cache_dir())
    _print_check(result, as_json=as_json)


@model.command()
@click.argument("directory", type=click.Path(path_type=Path))
@MAX_FILE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(directory: Path, *, max_file_mib: int, as_json: bool) -> int:
    """Check the package in DIRECTORY: manifest, sha256, labels, serving graph, golden images.

    Exit code 1 if a golden image gets another label, 78 if the package cannot be served.
    """
    from engines import check_package, load_unknown_package

    with sigterm_as_ctrl_c():
        result = check_package(load_unknown_package(directory, None, max_bytes=max_file_mib << 20))
    _print_check(result, as_json=as_json)
    return 0 if result.has_passed else 1


@model.command("list")
@click.argument("directory", type=click.Path(path_type=Path))
@MAX_FILE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(directory: Path, *, max_file_mib: int, as_json: bool) -> int:
    """List the packages below DIRECTORY; exit code 1 if one of them cannot be used."""
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory; give the directory that contains the packages")
    cache_dir = _cache_dir()
    rows = [_row(path, cache_dir, max_file_mib << 20) for path in _packages_below(directory)]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_list(rows)
    return 1 if any("rejected" in row for row in rows) else 0


def _packages_below(directory: Path) -> Iterator[Path]:
    for manifest in sorted(directory.rglob(_MANIFEST)):
        if not any(part.startswith(".") for part in manifest.relative_to(directory).parts):
            yield manifest.parent


def _cache_dir() -> Path | None:
    """Where it is remembered which packages and models were read here; None without a home directory."""
    try:
        return default_cache_dir()
    except ConfigError:
        return None


def _row(directory: Path, cache_dir: Path | None, max_bytes: int) -> dict[str, object]:
    from engines import ModelRejected, SandboxFailed, load_unknown_package

    try:
        package = load_unknown_package(directory, cache_dir, max_bytes=max_bytes)
        return {**_facts(package), "directory": str(directory)}
    except (ModelRejected, SandboxFailed) as exc:
        return {"directory": str(directory), "rejected": exc.message}


def _facts(package: ModelPackage) -> dict[str, object]:
    signature, spec = package.signature, package.input
    return {
        "name": package.name,
        "version": package.version,
        "directory": str(package.directory),
        "sha256": package.sha256,
        "package_sha256": package.digest,
        "format": package.format,
        "input": f"{spec.width}x{spec.height} {spec.color}, {spec.resize}, {signature.layout} {signature.dtype}",
        "activation": package.output.activation,
        "task": package.output.task.value,
        "classes": signature.classes,
        "features": f"{package.output.features}, {signature.features} values" if signature.features else None,
        "golden": len(package.golden),
        "calibration": len(package.calibration),
        "evaluation": len(package.evaluation),
        "license": package.license,
    }


def _print_check(result: PackageCheck, *, as_json: bool) -> None:
    facts = _facts(result.package) | {
        "opset": result.opset,
        "batch": "dynamic" if result.max_batch is None else result.max_batch,
    }
    golden = [
        {
            "image": image.path.name,
            "expected": image.expected,
            "min_confidence": image.min_confidence,
            "got": image.got,
            "confidence": round(image.confidence, 4),
            "right": image.is_right,
        }
        for image in result.golden.results
    ]
    if as_json:
        document = {
            **facts,
            "passed": result.has_passed,
            "golden_results": golden,
            "taken": dict(result.taken),
            "warnings": list(result.warnings),
        }
        print(json.dumps(document, indent=2))
        return
    for name, value in facts.items():
        print(f"{name:<12} {'-' if value is None else value}")
    if golden:
        _print_table(
            ["image", "expected", "got", "confidence", "minimum", ""],
            [
                [
                    str(row["image"]),
                    str(row["expected"]),
                    str(row["got"]),
                    f"{row['confidence']:.4f}",
                    f"{row['min_confidence']:.2f}",
                    "right" if row["right"] else "WRONG",
                ]
                for row in golden
            ],
        )
    for place in sorted(set(result.taken.values())):
        names = ", ".join(name for name, source in result.taken.items() if source == place)
        print(f"{'taken':<12} {names} from {place}")
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    wrong = len(result.golden.wrong)
    print(f"{wrong} of {len(golden)} golden images are wrong" if wrong else "the package is valid")


def _print_list(rows: list[dict[str, object]]) -> None:
    good = [row for row in rows if "rejected" not in row]
    columns = ["name", "version", "input", "classes", "golden", "directory"]
    if good:
        _print_table(columns, [[str(row[column]) for column in columns] for row in good])
    for row in rows:
        if "rejected" in row:
            print(f"rejected: {row['directory']}\n  {row['rejected']}", file=sys.stderr)
    if not rows:
        print("no packages here", file=sys.stderr)


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table on a terminal, tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            print("\t".join(row))
        return
    from rich.table import Table
    from rich.text import Text

    from agent.cli.io.console import Console

    table = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, style="red" if cell == "WRONG" else "") for cell in row))
    Console().print(table)
