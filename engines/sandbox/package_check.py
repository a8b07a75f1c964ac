"""A package that is new to this device is first read and checked in a limited child process.

    <cache>/checked_packages/<hash>.json    one package, or model for an import, whose files have been read here

Its model is parsed by libraries written in C++, and a small file can ask for much time or memory. In a child that
costs the child. The record holds what the child has found in the model, and the hashes of the manifest and the model:
while they stay the same, this process neither parses the model nor loads the library for it. A model whose manifest
states another hash than that of its one file (it keeps tensors in other files) is parsed here too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeVar

from engines.base import SandboxOptions
from engines.errors import SandboxFailed
from engines.host import installed_version
from engines.package.load import ModelFacts, ModelPackage, ModelSignature, load_package
from engines.package.manifest import MANIFEST_NAME, inside, read_manifest
from engines.package.model_bytes import DEFAULT_MAX_BYTES, read_model_bytes
from engines.sandbox.child import ChildLimits, ErrorTexts, run_in_sandbox
from engines.sandbox.load import error_from
from engines.sandbox.memory import default_memory_bytes
from engines.store.files import read_regular
from engines.store.prepared import is_part_of_program, prepared_facts
from engines.store.records import JsonRecord, record_path

_CHILD = "engines.sandbox.package_child"
_READER = 1
"""Raised when the same package gives other facts, so that its model is read again."""

T = TypeVar("T")


def load_unknown_package(
    directory: Path, cache_dir: Path | None, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> ModelPackage:
    """``load_package``, after a child process has read a package that is new to this device.

    Raises:
        ModelRejected, SandboxFailed: see ``check_in_sandbox``.
    """
    known = check_in_sandbox(directory, cache_dir, max_bytes=max_bytes)
    return load_package(directory, known=known, max_bytes=max_bytes)


def check_in_sandbox(
    directory: Path,
    cache_dir: Path | None,
    limits: SandboxOptions | None = None,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> ModelFacts | None:
    """Load the package in ``directory`` in a child process, unless that has worked here before; without a child if it
    is a part of the program.

    Without ``cache_dir`` it is not known what has, and nothing is remembered. Returns what the model file states; None
    if it keeps tensors in other files, which no record covers.

    Raises:
        ModelRejected: the package does not fit, see ``load_package``.
        SandboxFailed: the child was killed by a signal or exceeded a limit.
    """
    root = directory.resolve()
    manifest = read_manifest(root)
    model = read_model_bytes(inside(root, manifest.file, what="file"), max_bytes=max_bytes)
    facts = {
        "manifest": hashlib.sha256(read_regular(root / MANIFEST_NAME)).hexdigest(),
        "model": hashlib.sha256(model).hexdigest(),
    }
    del model
    record = _record(facts, cache_dir, encode=asdict, decode=facts_from)
    found = None if record is None else record.load()
    if found is None:
        if (known := prepared_facts(root, facts)) is not None:
            found = facts_from(known)
        elif is_part_of_program(root):
            found = load_package(root, max_bytes=max_bytes).facts
        else:
            job: dict[str, object] = {"package": str(root), "max_bytes": max_bytes}
            result = _run("package", job, f"{manifest.name}-{manifest.version}", limits or SandboxOptions())
            found = facts_from(result["facts"])
        _remember(record, found)
    return found if facts["model"] == manifest.sha256 else None


def check_model_in_sandbox(
    model: Path,
    cache_dir: Path | None,
    limits: SandboxOptions | None = None,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> None:
    """Read and check the ONNX file ``model``, which is in no package yet, as ``check_in_sandbox`` does a package.

    Raises:
        ModelRejected: it is not an ONNX model that can be served, see ``read_onnx``.
        SandboxFailed: the child was killed by a signal or exceeded a limit.
    """
    path = model.resolve()
    facts = {"model": hashlib.sha256(read_model_bytes(path, max_bytes=max_bytes)).hexdigest()}
    record = _record(facts, cache_dir, encode=str, decode=str)
    if record is None or record.load() is None:
        _run("model", {"model": str(path), "max_bytes": max_bytes}, model.name, limits or SandboxOptions())
        _remember(record, datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _record(
    facts: Mapping[str, str], cache_dir: Path | None, *, encode: Callable[[T], object], decode: Callable[[Any], T]
) -> JsonRecord[T] | None:
    if cache_dir is None:
        return None
    known = {**facts, "onnx": installed_version("onnx"), "reader": str(_READER)}
    path = record_path(cache_dir / "checked_packages", known)
    return JsonRecord(path, encode=encode, decode=decode, facts=known, is_owned=True)


def _remember(record: JsonRecord[T] | None, value: T) -> None:
    if record is not None:
        with contextlib.suppress(OSError):  # without a writable cache the package is new at every start
            record.save(value)


def facts_from(stated: Mapping[str, Any]) -> ModelFacts:
    """The facts that ``dataclasses.asdict`` and JSON have made plain.

    Raises:
        KeyError, TypeError: they are not those of a model.
    """
    signature = {**stated["signature"], "output_shape": tuple(stated["signature"]["output_shape"])}
    return ModelFacts(signature=ModelSignature(**signature), last_operator=stated["last_operator"])


def _run(
    kind: Literal["package", "model"], job: dict[str, object], model: str, limits: SandboxOptions
) -> Mapping[str, Any]:
    doubt = f"The {kind} {job[kind]} may be broken, hostile or too large for this machine: check where it comes from"
    result = run_in_sandbox(
        _CHILD,
        job,
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
    return result
