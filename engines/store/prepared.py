"""What is known beforehand of a package that is a part of this program, so that its first start parses no model.

    <package>.prepared/facts.json    what its model states, and what its serving graph is made from
    <package>.prepared/graph.onnx    that graph

``python -m scripts.dev.prepare_demo`` writes both. Of any other package such files are ignored: they could be forged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.store.files import read_regular

FACTS_NAME, GRAPH_NAME = "facts.json", "graph.onnx"
_PROGRAM = tuple(Path(__file__).resolve().parents[2] / name for name in ("agent", "engines"))


@dataclass(frozen=True, slots=True)
class PreparedGraph:
    """The serving graph. ``max_batch`` is None if its batch dimension is dynamic."""

    content: bytes
    max_batch: int | None


def is_part_of_program(directory: Path) -> bool:
    """Whether a package, by its absolute path, is among the program's own files: who can change it can change the
    program as well."""
    return any(directory.is_relative_to(folder) for folder in _PROGRAM)


def folder_of(root: Path) -> Path:
    """Where the files for the package in ``root`` lie."""
    return root.with_name(f"{root.name}.prepared")


def prepared_facts(root: Path, hashes: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What the model states, if its manifest and model still have these ``hashes``; None if that is not known."""
    known = _known(root)
    return known["facts"] if known is not None and known["hashes"] == dict(hashes) else None


def prepared_graph(root: Path, address: str) -> PreparedGraph | None:
    """The serving graph with this content ``address``; None if there is none, or its file is damaged."""
    known = _known(root)
    if known is None or known["graph"]["address"] != address:
        return None
    try:
        content = read_regular(folder_of(root) / GRAPH_NAME)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(content).hexdigest() != known["graph"]["sha256"]:
        return None
    return PreparedGraph(content, known["graph"]["max_batch"])


def _known(root: Path) -> dict[str, Any] | None:
    if not is_part_of_program(root):
        return None
    try:
        known: dict[str, Any] = json.loads(read_regular(folder_of(root) / FACTS_NAME))
    except (OSError, ValueError):
        return None
    return known
