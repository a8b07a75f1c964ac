"""Write what is known beforehand of the bundled model: run it after scripts/dev/train-demo, and when a test says so.

python -m scripts.dev.prepare_demo
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from agent.demo import demo_package
from engines.graph.serving import graph_address
from engines.graph.serving_model import build_serving_model, max_batch_of
from engines.package.load import load_package
from engines.package.manifest import MANIFEST_NAME
from engines.store.prepared import FACTS_NAME, GRAPH_NAME, folder_of


def prepare(root: Path) -> dict[str, bytes]:
    """The content of each file for the package in ``root``, by name."""
    package = load_package(root)
    model = build_serving_model(package)
    graph = model.SerializeToString(deterministic=True)
    known = {
        "hashes": {
            "manifest": hashlib.sha256((root / MANIFEST_NAME).read_bytes()).hexdigest(),
            "model": hashlib.sha256(package.model_path.read_bytes()).hexdigest(),
        },
        "facts": asdict(package.facts),
        "graph": {
            "address": graph_address(package),
            "sha256": hashlib.sha256(graph).hexdigest(),
            "max_batch": max_batch_of(model),
        },
    }
    return {FACTS_NAME: json.dumps(known, indent=1).encode() + b"\n", GRAPH_NAME: graph}


def main() -> None:
    """Write the files of the bundled package."""
    root = demo_package()
    folder_of(root).mkdir(exist_ok=True)
    for name, content in prepare(root).items():
        (folder_of(root) / name).write_bytes(content)
        print(f"{folder_of(root) / name}: {len(content)} bytes")


if __name__ == "__main__":
    main()
