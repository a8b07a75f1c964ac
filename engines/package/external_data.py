"""Tensors that an ONNX model keeps in other files: read once, hashed, and cut from the bytes that were hashed.

The sizes are added up by tensor, because many tensors can name the same bytes of one file, and a sparse file needs no
disk. Source: onnx.proto, TensorProto.external_data; its keys location, offset, length and checksum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx

from engines.errors import ModelRejected
from engines.package.model_bytes import limit_advice
from engines.store.files import read_regular

_KEYS = frozenset({"location", "offset", "length", "checksum"})
_BITS_OF = {
    getattr(onnx.TensorProto, name): bits
    for bits, names in {
        2: ("UINT2", "INT2"),
        4: ("UINT4", "INT4", "FLOAT4E2M1"),
        8: ("UINT8", "INT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"),
        16: ("UINT16", "INT16", "FLOAT16", "BFLOAT16"),
        32: ("UINT32", "INT32", "FLOAT"),
        64: ("UINT64", "INT64", "DOUBLE", "COMPLEX64"),
        128: ("COMPLEX128",),
    }.items()
    for name in names
    if hasattr(onnx.TensorProto, name)
}


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of one tensor are."""

    tensor: onnx.TensorProto
    location: str
    offset: int
    length: int


def read_external_data(
    tensors: Sequence[onnx.TensorProto],
    *,
    find: Callable[[str], Path],
    digest: _Digest,
    allowed_bytes: int,
    size_before: int,
    name: str,
) -> None:
    """Put the bytes of ``tensors`` into them, and update ``digest`` with each file, in the order of the names.

    ``find`` gives the path of a location, or raises ModelRejected. ``size_before`` is the size in bytes of the model's
    own file, which no longer counts in ``allowed_bytes``.

    Raises:
        ModelRejected: a tensor states its place twice or not at all, its size differs from its shape, it lies outside
            its file, or all of them together have more than ``allowed_bytes``.
    """
    places = [_place_of(tensor, name) for tensor in tensors]
    wanted = sum(place.length for place in places)
    if wanted > allowed_bytes:
        raise ModelRejected(
            f"{name} keeps {len(places)} tensors of {wanted} bytes in other files, but {allowed_bytes} is the limit "
            f"beside its own {size_before}. {limit_advice(size_before + wanted)}",
            size=wanted,
        )
    # By name, because the order of tensors in the file depends on the exporter.
    for location in sorted({place.location for place in places}):
        path = find(location)
        data = _read(path, allowed_bytes, size_before, name)
        digest.update(data)
        for place in places:
            if place.location == location:
                _fill(place, data, path, name)


def _place_of(tensor: onnx.TensorProto, name: str) -> _Place:
    what = f"{name}: external data of tensor {tensor.name!r}"
    given = [entry.key for entry in tensor.external_data]
    values = {entry.key: entry.value for entry in tensor.external_data}
    repeated = sorted({key for key in given if given.count(key) > 1})
    if repeated:
        raise ModelRejected(
            f"{what} states {', '.join(repeated)} more than once, but each has one value. Export it again"
        )
    if "location" not in values or not set(values) <= _KEYS:
        raise ModelRejected(
            f"{what} states {sorted(values)}, but location, offset and length are what it has. Export it again"
        )
    if tensor.raw_data or len(tensor.string_data):
        raise ModelRejected(f"{what}: the tensor also has data of its own, but only one can be right. Export it again")
    needed = _bytes_of(tensor, what)
    offset, length = _number(values.get("offset", "0"), what), _number(values.get("length", str(needed)), what)
    if length != needed:
        raise ModelRejected(f"{what} has {length} bytes, but its shape and type need {needed}. Export it again")
    return _Place(tensor, values["location"], offset, length)


def _bytes_of(tensor: onnx.TensorProto, what: str) -> int:
    bits = _BITS_OF.get(tensor.data_type)
    if bits is None or any(dim < 0 for dim in tensor.dims):
        raise ModelRejected(
            f"{what} has type {tensor.data_type} and shape {list(tensor.dims)}, but its bytes cannot be counted from "
            "them. Export it again"
        )
    return (math.prod(tensor.dims) * bits + 7) // 8


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelRejected(f"{what} states {text[:40]!r}, but a number of bytes was expected. Export it again")
    return int(text)


def _read(path: Path, allowed_bytes: int, size_before: int, name: str) -> bytes:
    try:
        size = path.stat().st_size
        data = b"" if size > allowed_bytes else read_regular(path, max_bytes=allowed_bytes)
    except ValueError as exc:
        raise ModelRejected(f"external data of {name} cannot be read: {exc}", path=str(path)) from exc
    except OSError as exc:
        raise ModelRejected(
            f"external data {path} of {name} cannot be read: {exc.strerror or exc}", path=str(path)
        ) from exc
    if size > allowed_bytes:
        raise ModelRejected(
            f"external data {path} of {name} has {size} bytes, but {allowed_bytes} is the limit for the "
            f"model's external data beside its own {size_before}. {limit_advice(size_before + size)}",
            size=size,
        )
    return data


def _fill(place: _Place, data: bytes, path: Path, name: str) -> None:
    tensor, end = place.tensor, place.offset + place.length
    if end > len(data):
        raise ModelRejected(
            f"{name}: tensor {tensor.name!r} ends at byte {end} of {path}, but that has {len(data)}. Copy it again",
            path=str(path),
        )
    tensor.raw_data = data[place.offset : end]
    # The data is in the model now; the reference would be followed again by the checker and on saving.
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
