"""Makes the ONNX file of an import where there is none yet: of a Hugging Face folder, or of timm's checkpoint.

PyTorch and the framework run in a child process with limits: weights are files from elsewhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engines.check.import_request import ImportRequest
from engines.check.import_source import model_file
from engines.check.training_facts import facts_from_folder
from engines.errors import ModelRejected, SandboxFailed
from engines.sandbox.child import ChildLimits, ErrorTexts, run_in_sandbox
from engines.sandbox.load import error_from
from engines.sandbox.memory import default_memory_bytes

_CHILD = "engines.check.export_child"
_TIMM = "timm:"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """The file to import, and the folder whose files state its training; None if there is none."""

    file: Path
    folder: Path | None


@contextmanager
def model_place(request: ImportRequest) -> Iterator[ModelPlace]:
    """The model file of ``request``, exported first if need be; an exported one is deleted afterwards.

    Raises:
        ModelRejected: there is no model, or its weights do not fit it.
        EngineUnavailable: PyTorch or the framework is not installed.
        SandboxFailed: the export crashed, or exceeded its limits.
    """
    given = request.model
    architecture = timm_architecture(given)
    if architecture is None and request.checkpoint is not None:
        raise ModelRejected(
            f"--checkpoint {request.checkpoint} is for a model of timm, but {given} is imported. Name the "
            "architecture: timm:resnet18"
        )
    if architecture is None and not _is_unexported(given):
        yield ModelPlace(model_file(given), given if given.is_dir() else None)
        return
    with tempfile.TemporaryDirectory(prefix="agent-export-") as work:
        target = Path(work)
        if architecture is None:
            _export(
                {"kind": "transformers", "folder": str(given.resolve()), "size": _size(request)}, given.name, target
            )
            yield ModelPlace(target / "model.onnx", given)
        else:
            _export({"kind": "timm", "name": architecture, "checkpoint": _checkpoint(request)}, str(given), target)
            yield ModelPlace(target / "model.onnx", target)


def timm_architecture(given: Path) -> str | None:
    """``resnet18`` for ``timm:resnet18``, else None."""
    text = str(given)
    return text.removeprefix(_TIMM) if text.startswith(_TIMM) else None


def _is_unexported(given: Path) -> bool:
    """A folder with a model's weights, its configuration and no ONNX file."""
    if not (given / "config.json").is_file() or any(given.glob("*.onnx")) or (given / "onnx").is_dir():
        return False
    return any((given / name).is_file() for name in _WEIGHTS)


def _size(request: ImportRequest) -> list[int]:
    size = request.size or facts_from_folder(request.model).size
    if size is None:
        raise ModelRejected(
            f"{request.model} is exported for one input size, but nothing in it states the size. Give --size "
            "WIDTHxHEIGHT"
        )
    return list(size)


def _checkpoint(request: ImportRequest) -> str:
    if request.checkpoint is None:
        raise ModelRejected(
            f"{request.model} names an architecture, but its weights are not given. Give --checkpoint FILE (.pth or "
            ".safetensors)"
        )
    if not request.checkpoint.is_file():
        raise ModelRejected(f"--checkpoint {request.checkpoint} is no file. Correct the path")
    return str(request.checkpoint.resolve())


def _export(job: dict[str, object], title: str, target: Path) -> None:
    doubt = "Is it a model of a framework version that is installed here?"
    result = run_in_sandbox(
        _CHILD,
        {**job, "target": str(target)},
        texts=ErrorTexts(
            subject=f"the export of {title} to ONNX",
            failed=f"{doubt} Else export it yourself and import the ONNX file",
            too_long="Export it on a faster machine and import the ONNX file",
            too_large="Export it on a machine with more memory and import the ONNX file",
            no_memory_left="Free some memory, or export it on another machine and import the ONNX file",
            failure=SandboxFailed,
        ),
        limits=ChildLimits(timeout_s=_TIMEOUT_S, memory_bytes=default_memory_bytes()),
        report=lambda *_: None,
        is_cancelled=lambda: False,
    )
    error = result.get("error")
    if isinstance(error, dict):
        raise error_from(error)
