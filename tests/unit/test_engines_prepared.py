"""What is known beforehand of the bundled package is true, and is believed of no other package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from agent.demo import demo_package
from engines.graph.serving import graph_address, serving_graph
from engines.package.load import load_package
from engines.sandbox.package_check import check_in_sandbox, facts_from
from engines.store import prepared
from engines.store.prepared import FACTS_NAME, GRAPH_NAME, folder_of, prepared_facts, prepared_graph
from scripts.dev.prepare_demo import prepare


def _known() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder_of(demo_package()) / FACTS_NAME).read_bytes())
    return found


def test_the_files_are_those_that_the_bundled_model_gives() -> None:
    made, folder = prepare(demo_package()), folder_of(demo_package())
    written, anew = _known(), json.loads(made[FACTS_NAME])
    # Another release of the onnx library may write the same graph in other bytes.
    graphs = written.pop("graph"), anew.pop("graph")
    assert written == anew, "run: python -m scripts.dev.prepare_demo"
    assert [(one["address"], one["max_batch"]) for one in graphs] == [(graphs[0]["address"], None)] * 2
    assert onnx.load_model_from_string((folder / GRAPH_NAME).read_bytes()) == onnx.load_model_from_string(
        made[GRAPH_NAME]
    )


def test_the_first_start_takes_facts_and_graph_from_the_files(tmp_path: Path) -> None:
    package = load_package(demo_package())
    assert check_in_sandbox(demo_package(), tmp_path) == package.facts
    assert (
        serving_graph(package, cache_dir=tmp_path).path.read_bytes()
        == (folder_of(demo_package()) / GRAPH_NAME).read_bytes()
    )


def test_facts_of_another_manifest_or_model_are_not_taken() -> None:
    hashes = _known()["hashes"]
    known = prepared_facts(demo_package(), hashes)
    assert known is not None
    assert facts_from(known) == load_package(demo_package()).facts
    assert prepared_facts(demo_package(), {**hashes, "model": "0" * 64}) is None
    assert prepared_graph(demo_package(), "0" * 64) is None


def _copy(tmp_path: Path) -> Path:
    root = tmp_path / demo_package().name
    shutil.copytree(demo_package(), root)
    shutil.copytree(folder_of(demo_package()), folder_of(root))
    return root


def test_such_files_beside_a_package_of_a_user_are_ignored(tmp_path: Path) -> None:
    root = _copy(tmp_path)
    address = graph_address(load_package(root))
    assert prepared_graph(demo_package(), address) is not None
    assert prepared_graph(root, address) is None
    assert prepared_facts(root, _known()["hashes"]) is None


@pytest.mark.parametrize("fault", ["graph changed", "graph absent", "facts no JSON", "facts absent"])
def test_damaged_files_are_as_if_absent(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _copy(tmp_path)
    monkeypatch.setattr(prepared, "_PROGRAM", (tmp_path,))
    address = graph_address(load_package(root))
    assert prepared_graph(root, address) is not None
    name, _, what = fault.partition(" ")
    file = folder_of(root) / {"graph": GRAPH_NAME, "facts": FACTS_NAME}[name]
    if what == "absent":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert prepared_graph(root, address) is None
