"""Imports one package and prints its version as JSON; an import error ends the process with its text."""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    """Import the package named by the first argument."""
    module = importlib.import_module(sys.argv[1])
    answer: dict[str, object] = {"version": str(getattr(module, "__version__", "unknown"))}
    if sys.argv[1] == "onnxruntime":
        answer["providers"] = module.get_available_providers()
    print(json.dumps(answer))  # noqa: T201 the answer


if __name__ == "__main__":
    main()
