"""`agent build`: build TensorRT engines ahead of time, list and delete plans."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from agent.cli.io.numbers import Whole
from agent.cli.io.options import ENGINE_OPTION, MAX_FILE_OPTION, PATH, package_directory
from agent.config.state_dir import cache_dir_in, default_cache_dir
from agent.runtime.errors import UsageError

if TYPE_CHECKING:
    from engines import BuildProgress, EngineInfo, EngineOptions, ModelPackage, PlanEntry, Precision

    Progress = Callable[[BuildProgress], None]

Built = Literal["tensorrt", "ort-tensorrt"]
_LINE_EVERY_S = 10.0
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class _BuildRequest:
    """One engine to build."""

    package: ModelPackage
    options: EngineOptions


@click.command()
@click.option("-c", "--config", "config", type=PATH, help="Build the engines that `agent run` with this file needs.")
@click.option("--package", help="Directory of a model package, or demo.")
@click.option(
    "--engine",
    type=click.Choice(["tensorrt", "ort-tensorrt"]),
    default="tensorrt",
    show_default=True,
    help="Engine to build; their plans are not interchangeable.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True, help="Precision."
)
@click.option(
    "--max-batch",
    type=Whole(1, 64),
    default=4,
    show_default=True,
    help="Largest batch: the value of batching.max_size in the configuration.",
)
@ENGINE_OPTION
@MAX_FILE_OPTION
@click.option("--force", is_flag=True, help="Build again even if the plan exists.")
@click.option("--list", "is_listing", is_flag=True, help="List the plans in the cache.")
@click.option("--prune", "is_pruning", is_flag=True, help="Delete plans, the least recently used first.")
@click.option("--keep-mib", type=Whole(0), default=0, show_default=True, help="With --prune: MiB to keep.")
@click.option("--cache", type=PATH, help="Folder for plans.  [default: the agent's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def build(
    *,
    config: Path | None,
    package: str | None,
    engine: Built,
    precision: str,
    max_batch: int,
    options: dict[str, object],
    max_file_mib: int,
    force: bool,
    is_listing: bool,
    is_pruning: bool,
    keep_mib: int,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Build TensorRT engines for this device ahead of time.

    A plan is valid for one TensorRT version, GPU, model, set of options and largest batch. Give the options that the
    agent will run with, or its configuration. A plan is kept only if it passes the accuracy check. Exit code 69 if it
    cannot be built here or fails the check.
    """
    from engines import EngineOptions, load_unknown_package

    chosen = [name for name, value in (("-c", config), ("--package", package)) if value]
    if is_listing or is_pruning:
        return _list_or_prune(_cache_of(config, cache), keep_mib if is_pruning else None, as_json=as_json)
    if len(chosen) != 1:
        raise UsageError("give either --package DIRECTORY (or demo) or -c CONFIGURATION")
    if config is not None:
        requests = _from_config(config, cache, engine)
        _warn_of_different_cache(config, requests[0].options.cache_dir)
    else:
        wanted = EngineOptions(
            cache_dir=cache or default_cache_dir(),
            engine=engine,
            precision=cast("Precision", precision),
            strict=True,
            max_batch=max_batch,
            options=options,
        )
        directory = package_directory(str(package))
        known = load_unknown_package(directory, wanted.cache_dir, max_bytes=max_file_mib << 20)
        requests = [_BuildRequest(known, wanted)]
    infos = [_build(request, force=force, is_quiet=as_json) for request in requests]
    if as_json:
        print(json.dumps([_facts(info) for info in infos], indent=2))
    return 0


def _from_config(path: Path, cache: Path | None, engine: Built) -> list[_BuildRequest]:
    """Return the engines of a configuration's models that need a build."""
    from agent.config.loader import load_config
    from engines import CHOOSERS, EngineOptions, canonical_name, options_for

    loaded = load_config(path)
    requests = []
    for key, model in loaded.config.models.items():
        wanted = canonical_name(model.engine)
        if wanted not in (*CHOOSERS, "tensorrt", "ort-tensorrt"):
            continue
        name = engine if wanted in CHOOSERS else wanted
        options = EngineOptions(
            cache_dir=cache or cache_dir_in(loaded.state_dir),
            engine=name,
            precision=model.precision,
            strict=True,
            max_batch=model.batching.engine_batch,
            options=options_for(name, model.options),
        )
        package = loaded.read_package(key, options.cache_dir)
        requests.append(_BuildRequest(package, options))
    if not requests:
        raise UsageError(
            f"no model of {path} uses an engine that needs a build: auto, fastest, tensorrt or ort-tensorrt"
        )
    return requests


def _warn_of_different_cache(config: Path, cache_dir: Path, root: Path = Path("/")) -> None:
    """Without STATE_DIRECTORY, which systemd sets, ``state_dir: auto`` differs from the directory of the service."""
    from agent.tools.doctor.service import service_of

    service = service_of(config, root)
    if service is None or cache_dir_in(service.state_dir).resolve() == cache_dir.resolve():
        return
    click.echo(
        f"warning: the engines are built into {cache_dir}, but the service ({service.unit}) looks for them in "
        f"{cache_dir_in(service.state_dir)} and would build them again. Run this as the service's user with "
        f"STATE_DIRECTORY={service.state_dir} in the environment",
        file=sys.stderr,
    )


def _build(request: _BuildRequest, *, force: bool, is_quiet: bool) -> EngineInfo:
    from engines import Building, Prober, open_candidate

    with _progress(is_quiet=is_quiet) as on_progress:
        building = Building(force=force, on_progress=on_progress)
        options = replace(request.options, building=building)
        # Not open_engine, whose strict also refuses a precision that is not proven: it is built and reported.
        with open_candidate(request.package, options, options.engine, Prober()) as engine:
            info = engine.info
    if not is_quiet:
        _print_built(request, info)
    return info


@contextlib.contextmanager
def _progress(*, is_quiet: bool) -> Iterator[Progress]:
    """A progress bar on a terminal, log lines elsewhere; both on standard error."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from agent.cli.io.console import Console

    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield _Lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=None)

        def show(progress: BuildProgress) -> None:
            ratio = progress.done_ratio
            bar.update(
                task,
                description=f"{progress.engine} for {progress.model}: {progress.phase}",
                total=None if ratio is None else 1.0,
                completed=ratio or 0.0,
            )

        yield show


class _Lines:
    """Logs each new phase immediately, and every 10 s that it continues."""

    def __init__(self) -> None:
        from agent.runtime.logs import get_logger

        self._log = get_logger(__name__)
        self._phase = ""
        self._due_s = 0.0

    def __call__(self, progress: BuildProgress) -> None:
        now_s = time.monotonic()
        if progress.phase == self._phase and now_s < self._due_s:
            return
        self._phase, self._due_s = progress.phase, now_s + _LINE_EVERY_S
        self._log.info(
            "engine.building",
            engine=progress.engine,
            model=progress.model,
            phase=progress.phase,
            elapsed_s=round(progress.elapsed_s),
            done_ratio=progress.done_ratio,
        )


def _facts(info: EngineInfo) -> dict[str, object]:
    return {
        "engine": info.name,
        "precision": info.precision,
        "device": info.device,
        "max_batch": info.max_batch,
        "versions": dict(info.versions),
        "accuracy": None if info.accuracy is None else dict(info.accuracy),
        "details": dict(info.details),
        "load_ms": round(info.load_ms, 1),
    }


def _print_built(request: _BuildRequest, info: EngineInfo) -> None:
    why = info.details.get("why_built")
    # ONNX Runtime reads its plans itself, so for ort-tensorrt the cache is not visible here.
    origin = f"built ({why})" if why else "from the cache" if info.name == "tensorrt" else "ready"
    print(
        f"{request.package.name}-{request.package.version}: {info.name} {info.precision} for {info.device}: {origin}"
    )
    if info.accuracy is not None:
        print(
            f"  agreement with {info.accuracy['reference']} {float(info.accuracy['top1_agreement']):.4f} on "
            f"{float(info.accuracy['images']):.0f} images (with 95 % confidence at least "
            f"{float(info.accuracy['agreement_at_least']):.4f}), largest difference "
            f"{float(info.accuracy['max_abs_difference']):.1e}"
        )
    if info.degraded is not None:
        print(f"  degraded: {info.degraded}")
    print(f"  cache: {request.options.cache_dir}")
    memory = info.details.get("device_memory_bytes")
    if memory is not None:
        print(
            f"  device memory {int(memory) // 1024} KiB, CUDA graphs for batches {info.details['cuda_graphs'] or '-'}"
        )


def _cache_of(config: Path | None, cache: Path | None) -> Path:
    if cache is not None or config is None:
        return cache or default_cache_dir()
    from agent.config.loader import load_config

    return cache_dir_in(load_config(config).state_dir)


def _list_or_prune(cache_dir: Path, keep_mib: int | None, *, as_json: bool) -> int:
    from engines import PlanCache

    cache = PlanCache(cache_dir)
    gone = [] if keep_mib is None else cache.prune(max_bytes=keep_mib * _MIB)
    entries = cache.entries()
    if as_json:
        whole = {"plans": list(map(_entry_facts, entries)), "deleted": list(map(_entry_facts, gone))}
        json.dump(whole, sys.stdout, indent=2)
        print()
        return 0
    for entry in gone:
        print(f"deleted {entry.name}, {entry.size_bytes / _MIB:.1f} MiB")
    if not entries:
        print(f"no plans in {cache.root}")
        return 0
    _print_entries(entries)
    return 0


def _entry_facts(entry: PlanEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "engine": entry.engine,
        "model": entry.model,
        "precision": entry.precision,
        "facts": dict(entry.facts),
        "size_bytes": entry.size_bytes,
        "built_at": entry.built_at,
        "used_at": entry.used_at,
        "notes": dict(entry.notes),
    }


def _print_entries(entries: list[PlanEntry]) -> None:
    from rich.table import Table

    from agent.cli.io.console import Console

    table = Table("model", "engine", "precision", "TensorRT", "GPU", "batch", "MiB", "built", "used")
    for entry in entries:
        facts: Mapping[str, object] = entry.facts
        batch = facts.get("batch")
        table.add_row(
            entry.model,
            entry.engine,
            entry.precision,
            str(facts.get("tensorrt")),
            str(facts.get("gpu") or facts.get("gpus")),
            str(batch[-1] if isinstance(batch, list) else batch),
            f"{entry.size_bytes / _MIB:.1f}",
            entry.built_at[:16].replace("T", " "),
            entry.used_at[:16].replace("T", " "),
        )
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table, highlight=False)
