"""The child process of a sandboxed load: ``python -m engines.select.load_child``.

See ``engines.sandbox.serve`` for the protocol. An engine's error is an answer too: ``{"result": {"error": ...}}``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from engines.base import Building, BuildProgress, EngineOptions
from engines.errors import EngineError, ModelRejected
from engines.package.load import load_package
from engines.sandbox.serve import Parent, serve_parent, stated
from engines.select.candidate import open_unchecked


def main() -> None:
    """Load, run and close the model; never returns."""
    parent = serve_parent()
    try:
        result = _open(parent)
    except EngineError as exc:
        result = {"error": stated(exc)}
    parent.say({"result": result})
    # A library that crashes while the interpreter shuts down says nothing about the model.
    os._exit(0)


def _open(parent: Parent) -> dict[str, object]:
    job = parent.job
    parent.say({"phase": "loading it in a sandbox"})
    package = load_package(Path(job["package"]), max_bytes=job["max_file_bytes"])
    if package.sha256 != job["sha256"]:
        raise ModelRejected(
            f"{package.model_path} has sha256 {package.sha256}, but a moment ago it was {job['sha256']}. Do not "
            "change the package while it is loaded",
            path=str(package.model_path),
        )
    package = replace(package, output=replace(package.output, activation=job["activation"]))
    if job["features"]:
        package = package.with_features()

    def pass_on(progress: BuildProgress) -> None:
        parent.say({"phase": progress.phase, "ratio": progress.done_ratio})

    options = EngineOptions(
        cache_dir=Path(job["cache_dir"]),
        engine=job["engine"],
        precision=job["precision"],
        strict=job["strict"],
        max_batch=job["max_batch"],
        options=job["options"],
        workers=job["workers"],
        building=Building(defer=job["defer"], force=job["force"], on_progress=pass_on),
        sandbox=None,
    )
    engine, _ = open_unchecked(package, options, job["engine"])
    with engine:  # loading has run the smallest and the largest batch
        return {"why_built": engine.info.details.get("why_built")}


if __name__ == "__main__":
    main()
