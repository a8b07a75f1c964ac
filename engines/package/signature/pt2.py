"""The signature of a torch.export archive (.pt2), read without torch and without unpickling.

Source: torch/export/pt2_archive/constants.py (models/<name>.json in a zip); torch/_export/serde/schema.py (dtype
numbers, graph signature). Archives of torch before 2.8 hold serialized_exported_program.json with the same content.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from engines.errors import ModelRejected
from engines.package.signature.base import Shape, TensorFacts, layout_of, signature_from, the_input, the_output
from engines.package.specs import InputSpec, ModelSignature

_PROGRAM = re.compile(r"(?:[^/]+/)?(?:models/[^/]+\.json|serialized_exported_program\.json)\Z")
_MAX_PROGRAM_BYTES = 256 << 20
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
           12: "bool", 13: "bfloat16"}  # fmt: skip


def pt2_signature(path: Path, spec: InputSpec, *, name: str) -> ModelSignature:
    """Return the signature of the program in the archive at ``path``, checked against ``spec``.

    Raises:
        ModelRejected: not such an archive, damaged, or a model that does not fit; see ``onnx_signature``.
    """
    program = _program(path, name)
    try:
        inputs, outputs = _tensors(program)
    except (KeyError, TypeError, AttributeError, IndexError) as exc:
        raise ModelRejected(
            f"{name}: the program in the archive is not written as torch.export does ({type(exc).__name__}: {exc}). "
            "Export it with torch 2.6 or later",
            path=str(path),
        ) from exc
    source = the_input(inputs, name=name)
    target = the_output(outputs, name=name)
    layout = layout_of(source, spec, fallback="NCHW", name=name)
    return signature_from(source, target, layout, spec, name=name)


def _program(path: Path, name: str) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [entry for entry in archive.infolist() if _PROGRAM.match(entry.filename)]
            if len(found) != 1:
                names = ", ".join(entry.filename for entry in found) or "none"
                raise ModelRejected(f"{name} is a zip archive with {len(found)} programs ({names}), but "
                                    "torch.export.save writes one")  # fmt: skip
            # ZipFile reads no more than this announced size, so a zip bomb is limited too.
            if found[0].file_size > _MAX_PROGRAM_BYTES:
                raise ModelRejected(
                    f"{name}: its program has {found[0].file_size} bytes, but the limit is {_MAX_PROGRAM_BYTES}"
                )
            return json.loads(archive.read(found[0]))
    # NotImplementedError: unknown compression. RuntimeError: encrypted.
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError) as exc:
        raise ModelRejected(
            f"{name} is not a whole torch.export archive: {exc}. Copy it again", path=str(path)
        ) from exc


def _tensors(program: Any) -> tuple[list[TensorFacts], list[TensorFacts]]:
    module = program["graph_module"]
    known = module["graph"]["tensor_values"]
    signature = module["signature"]
    inputs = [_facts(each["user_input"]["arg"], known) for each in signature["input_specs"] if "user_input" in each]
    outputs = [
        _facts(each["user_output"]["arg"], known) for each in signature["output_specs"] if "user_output" in each
    ]
    return inputs, outputs


def _facts(argument: Any, known: Any) -> TensorFacts:
    if "as_tensor" not in argument:
        kind = next(iter(argument))
        return TensorFacts(kind.removeprefix("as_"), "no tensor", None)
    name = str(argument["as_tensor"]["name"])
    value = known[name]
    shape: Shape = tuple(size.get("as_int") for size in value["sizes"])
    return TensorFacts(name, _DTYPES.get(value["dtype"], f"dtype {value['dtype']}"), shape)
