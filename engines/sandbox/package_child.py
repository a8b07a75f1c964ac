"""The child process that reads a package, or a model, which is new to this device.

See ``engines.sandbox.serve`` for the protocol. A refusal is an answer too: ``{"result": {"error": ...}}``.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from engines.errors import EngineError
from engines.package.load import load_package
from engines.package.model_file import check_model, read_onnx
from engines.sandbox.serve import serve_parent, stated


def main() -> None:
    """Load the package, or read the model; never returns."""
    parent = serve_parent()
    result: dict[str, object] = {}
    try:
        if "package" in parent.job:
            result = {
                "facts": asdict(load_package(Path(parent.job["package"]), max_bytes=parent.job["max_bytes"]).facts)
            }
        else:
            path = Path(parent.job["model"])
            model, _ = read_onnx(path, root=path.parent, max_bytes=parent.job["max_bytes"])
            check_model(model, name=str(path))
    except EngineError as exc:
        result = {"error": stated(exc)}
    parent.say({"result": result})
    os._exit(0)


if __name__ == "__main__":
    main()
