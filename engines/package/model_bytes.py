"""Model files as bytes, read once and bounded in size. Imports no library that parses models."""

from __future__ import annotations

from pathlib import Path

from engines.errors import ModelRejected
from engines.store.files import read_regular

DEFAULT_MAX_BYTES = 512 << 20
"""Largest model with its external data, where no other limit is given."""
MAX_FILE_MIB = 2000
"""The highest limit: an ONNX message ends at 2 GiB, and the serving graph has preprocessing beside the model."""
_MIB = 1 << 20
# Measured: the peak of `agent model import` of 302 MiB was 1,934 MiB, where the reference runs the model.
_MEMORY_FACTOR = 6

_ZIP = b"PK\x03\x04"
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the model itself. Run git lfs pull"),
    (0, b"version https://hawser.github.com/spec/", "a Git LFS pointer, not the model itself. Run git lfs pull"),
    (0, b"\x89HDF", "an HDF5 (Keras) file. Export the model to ONNX"),
    (0, b"\x1f\x8b", "gzip data. Unpack it"),
    (0, b"\x80\x02", "a Python pickle. Export the model to ONNX or with torch.export"),
    (0, b"ftrt", "a TensorRT plan. A package holds the ONNX file; plans are built from it on the device"),
    (0, b"ptrt", "a TensorRT plan. A package holds the ONNX file; plans are built from it on the device"),
    (4, b"TFL3", "a TensorFlow Lite model. Convert it to ONNX"),
)


def read_model_bytes(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
    """Read the whole file, at most ``max_bytes``.

    Raises:
        ModelRejected: it is missing, empty, too large or plainly not a model.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelRejected(
                f"{path} has {size} bytes, but the limit is {max_bytes} ({max_bytes // _MIB} MiB). "
                f"{limit_advice(size)}",
                path=str(path),
                size=size,
            )
        data = read_regular(path, max_bytes=max_bytes)
    except ValueError as exc:
        raise ModelRejected(f"model file {path} cannot be read: {exc}", path=str(path)) from exc
    except OSError as exc:
        raise ModelRejected(f"model file {path} cannot be read: {exc.strerror or exc}", path=str(path)) from exc
    if not data:
        raise ModelRejected(
            f"{path} is empty (0 bytes), but a model was expected. Copy it again", path=str(path), size=0
        )
    foreign = _foreign_kind(data, path.suffix.lower())
    if foreign:
        raise ModelRejected(f"{path} is {foreign}", path=str(path), size=len(data))
    return data


def limit_advice(size: int) -> str:
    """What to do about a model of ``size`` bytes, external data included, that exceeds the limit."""
    needed_mib = -(-size // _MIB)
    if needed_mib > MAX_FILE_MIB:
        return f"Use a smaller model: the limit (max_file_mib) can be {MAX_FILE_MIB} MiB at most"
    return (
        f"Raise models.NAME.max_file_mib in the configuration, or the command's --max-file-mib, to {needed_mib} if "
        f"about {needed_mib * _MEMORY_FACTOR} MiB of memory are free, which reading it takes; else use a smaller model"
    )


def _foreign_kind(data: bytes, suffix: str) -> str | None:
    for start, magic, kind in _FOREIGN:
        if data[start : start + len(magic)] == magic:
            return kind
    # A byte order mark or blank lines may come before the first tag.
    head = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page, probably a download error or a login page. Download the file itself"
    if data[:4] == _ZIP and suffix != ".pt2":
        return "a zip archive. Unpack it; a torch.export archive is named .pt2"
    if data[:4] != _ZIP and suffix == ".pt2":
        return "not a torch.export archive (no zip header). Save it with torch.export.save"
    return None
