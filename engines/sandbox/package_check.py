"""A package that is new to this device is first read and checked in a limited child process.

    <cache>/checked_packages/<hash>.json    one package, or model for an import, whose files have been read here

Its model is parsed by libraries written in C++, and a small file can ask for much time or memory. In a child that
costs the child. Afterwards the same bytes are read in this process. A record holds the hashes of the manifest and the
model; when one of them changes, the package is new again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from engines.base import SandboxOptions
from engines.errors import SandboxFailed
from engines.host import installed_version
from engines.package.load import ModelPackage, load_package
from engines.package.manifest import MANIFEST_NAME, inside, read_manifest
from engines.package.model_file import read_model_bytes
from engines.sandbox.child import ChildLimits, ErrorTexts, run_in_sandbox
from engines.sandbox.load import error_from, is_part_of_program
from engines.sandbox.memory import default_memory_bytes
from engines.store.files import read_regular
from engines.store.records import JsonRecord, record_path

_CHILD = "engines.sandbox.package_child"


def load_unknown_package(directory: Path, cache_dir: Path | None) -> ModelPackage:
    """``load_package``, after a child process has read a package that is new to this device.

    Raises:
        ModelRejected, SandboxFailed: see ``check_in_sandbox``.
    """
    check_in_sandbox(directory, cache_dir)
    return load_package(directory)


def check_in_sandbox(directory: Path, cache_dir: Path | None, limits: SandboxOptions | None = None) -> None:
    """Load the package in ``directory`` in a child process, unless that has worked here before.

    Without ``cache_dir`` it is not known what has, and nothing is remembered.

    Raises:
        ModelRejected: the package does not fit, see ``load_package``.
        SandboxFailed: the child was killed by a signal or exceeded a limit.
    """
    root = directory.resolve()
    if is_part_of_program(root):
        return
    manifest = read_manifest(root)
    model = read_model_bytes(inside(root, manifest.file, what="file"))
    facts = {
        "manifest": hashlib.sha256(read_regular(root / MANIFEST_NAME)).hexdigest(),
        "model": hashlib.sha256(model).hexdigest(),
    }
    del model
    if not _is_known(facts, cache_dir):
        _run("package", root, f"{manifest.name}-{manifest.version}", limits or SandboxOptions())
        _remember(facts, cache_dir)


def check_model_in_sandbox(model: Path, cache_dir: Path | None, limits: SandboxOptions | None = None) -> None:
    """Read and check the ONNX file ``model``, which is in no package yet, as ``check_in_sandbox`` does a package.

    Raises:
        ModelRejected: it is not an ONNX model that can be served, see ``read_onnx``.
        SandboxFailed: the child was killed by a signal or exceeded a limit.
    """
    path = model.resolve()
    facts = {"model": hashlib.sha256(read_model_bytes(path)).hexdigest()}
    if not _is_known(facts, cache_dir):
        _run("model", path, model.name, limits or SandboxOptions())
        _remember(facts, cache_dir)


def _is_known(facts: Mapping[str, str], cache_dir: Path | None) -> bool:
    return cache_dir is not None and _record(facts, cache_dir).load() is not None


def _remember(facts: Mapping[str, str], cache_dir: Path | None) -> None:
    if cache_dir is not None:
        with contextlib.suppress(OSError):  # without a writable cache the package is new at every start
            _record(facts, cache_dir).save(datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _record(facts: Mapping[str, str], cache_dir: Path) -> JsonRecord[str]:
    known = {**facts, "onnx": installed_version("onnx")}
    path = record_path(cache_dir / "checked_packages", known)
    return JsonRecord(path, encode=str, decode=str, facts=known, is_owned=True)


def _run(kind: Literal["package", "model"], path: Path, model: str, limits: SandboxOptions) -> None:
    doubt = f"The {kind} {path} may be broken, hostile or too large for this machine: check where it comes from"
    result = run_in_sandbox(
        _CHILD,
        {kind: str(path)},
        texts=ErrorTexts(
            subject=f"the first reading of {model}",
            failed=doubt,
            too_long=doubt,
            too_large=doubt,
            no_memory_left=f"{doubt}, or free some memory",
            failure=SandboxFailed,
        ),
        limits=ChildLimits(
            timeout_s=limits.timeout_s,
            memory_bytes=default_memory_bytes() if limits.memory_bytes is None else limits.memory_bytes,
        ),
        report=lambda *_: None,
        is_cancelled=lambda: False,
    )
    error = result.get("error")
    if isinstance(error, dict):
        raise error_from(error)
