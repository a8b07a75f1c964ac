"""`agent serve`: model packages for programs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent.cli.io.numbers import Whole
from agent.cli.io.options import MAX_FILE_OPTION, package_directory


@click.command()
@click.option("--package", "packages", required=True, multiple=True, help="Model package, or demo; may be repeated.")
@click.option("--http", default="127.0.0.1:8000", show_default=True, help="Address, as serve.http in a configuration.")
@click.option("--grpc", help="Address of gRPC, as serve.grpc.  [default: none]")
@click.option("--tokens", type=click.Path(path_type=Path), help="Tokens file, as serve.tokens_file.")
@click.option("--engine", default="auto", show_default=True, help="Engine by name, see: agent doctor.")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True, help="Precision."
)
@click.option("--max-batch", type=Whole(1, 64), help="Most images of a request.  [default: 4]")
@MAX_FILE_OPTION
def serve(
    *,
    packages: tuple[str, ...],
    http: str,
    grpc: str | None,
    tokens: Path | None,
    engine: str,
    precision: str,
    max_batch: int | None,
    max_file_mib: int,
) -> None:
    """Serve model packages to programs over HTTP and gRPC, without cameras.

    Each package is served under its own name, until SIGTERM or SIGINT. For cameras beside it, write an address under
    `serve` in the agent's configuration instead.
    """
    from agent.daemon.imports import load_with_one_blas_thread, without_garbage_search

    with without_garbage_search():
        load_with_one_blas_thread()
        from agent.tools.serve import ServeOptions, serve_packages

    stop_signals: list[int] = []
    # A handler only appends to a list: anything that takes a lock could deadlock.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stop_signals.append(number))

    def on_ready(address: str, names: Sequence[str]) -> None:
        print(f"Serving {', '.join(names)} on http://{address}", file=sys.stderr)

    serve_packages(
        [package_directory(one) for one in packages],
        ServeOptions(
            http=http,
            grpc=grpc,
            tokens_file=tokens,
            engine=engine,
            precision=precision,
            max_batch=max_batch,
            max_file_mib=max_file_mib,
        ),
        is_stopping=lambda: bool(stop_signals),
        on_ready=on_ready,
    )
