"""Starts CUDA through the Python library that the engine ``tensorrt`` would use and prints which it is, as JSON.

Started only after the driver has answered; a library that crashes takes this process with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Run by its path, it would find the other probe scripts and not the package.
sys.path[0] = str(Path(__file__).parents[2])

from engines.backends.tensorrt.cuda.choice import cuda_library  # noqa: E402 after the path
from engines.errors import EngineUnavailable  # noqa: E402 after the path


def main() -> None:
    """Print the library, or why there is none and what to do."""
    try:
        library = cuda_library()
    except EngineUnavailable as exc:
        answer = {"reason": exc.fields.get("reason", exc.message), "remedy": exc.fields.get("remedy", "")}
    else:
        answer = {"library": f"{library.name} {library.version}"}
    print(json.dumps(answer))  # noqa: T201 the answer


if __name__ == "__main__":
    main()
