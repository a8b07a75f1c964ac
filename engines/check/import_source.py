"""The model file of an import: which one it is, what it takes and gives, and its copy in the package."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engines.check.import_request import ImportRequest
from engines.errors import ModelRejected
from engines.package.activation import last_operator
from engines.package.load import refuse_features
from engines.package.model_bytes import read_model_bytes
from engines.package.model_file import check_model, read_onnx
from engines.package.signature.base import ImageInput
from engines.package.signature.onnx import onnx_image_input
from engines.package.signature.pt2 import last_operation, pt2_image_input, read_program
from engines.package.signature.selection import select

_SUFFIXES = (".onnx", ".pt2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSource:
    """A model to import. ``path`` is the user's file, ``file`` its name in the package, ``last`` what it ends in."""

    path: Path
    file: str
    takes: ImageInput
    last: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def model_file(given: Path) -> Path:
    """The model file: ``given``, or the one in the folder ``given``.

    Raises:
        ModelRejected: another kind of file, or a folder that does not hold exactly one model.
    """
    if given.is_dir():
        found = [file for file in (given / "model.onnx", given / "onnx" / "model.onnx") if file.is_file()]
        found = found[:1] or sorted(file for file in given.iterdir() if file.suffix.lower() in _SUFFIXES)
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            remedy = "Name the file" if found else "Export the model first: optimum-cli export onnx --model DIR OUT"
            raise ModelRejected(
                f"{given} is imported as a folder with one ONNX file, but it has {names}. {remedy}", path=str(given)
            )
        return found[0]
    if given.suffix.lower() not in _SUFFIXES:
        raise ModelRejected(
            f"{given} ends in {given.suffix!r}, but .onnx and .pt2 are imported. Export the model to ONNX",
            path=str(given),
        )
    return given


def copy_model(path: Path, request: ImportRequest, stage: Path) -> ImportSource:
    """Copy the model into ``stage`` as one file: unchanged, or with its external data inside.

    Raises:
        ModelRejected: it cannot be read, or its inputs and outputs are not those of an image classifier.
    """
    name = str(path)
    if path.suffix.lower() == ".pt2":
        refuse_features(request.features, name=name)
        (stage / "model.pt2").write_bytes(read_model_bytes(path, max_bytes=request.max_file_mib << 20))
        program = read_program(stage / "model.pt2", name=name)
        takes, output = pt2_image_input(program, output=request.output_name, constants=request.constants, name=name)
        return ImportSource(path=path, file="model.pt2", takes=takes, last=last_operation(program, output))
    model, digest = read_onnx(path.resolve(), root=path.resolve().parent, max_bytes=request.max_file_mib << 20)
    check_model(model, name=name)
    shutil.copyfile(path, stage / "model.onnx")
    if hashlib.sha256((stage / "model.onnx").read_bytes()).hexdigest() != digest:
        (stage / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    select(model, output=request.output_name, constants=request.constants, name=name, features=request.features)
    takes = onnx_image_input(model, name=name, features=request.features)
    return ImportSource(
        path=path,
        file="model.onnx",
        takes=takes,
        last=last_operator(model, model.graph.output[0].name),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )
