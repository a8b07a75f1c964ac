"""Probe: starts CUDA through the Python library that ``tensorrt`` would use, and prints the library as JSON.

Run with ``python -m``, and only after the CUDA driver has answered; a library that crashes ends this process alone.
"""

from __future__ import annotations

import json

from engines.backends.tensorrt.cuda.libraries import cuda_library
from engines.errors import EngineUnavailable


def main() -> None:
    """Print the library, or the reason why there is none and a remedy."""
    try:
        library = cuda_library()
    except EngineUnavailable as exc:
        answer = {"reason": exc.fields.get("reason", exc.message), "remedy": exc.fields.get("remedy", "")}
    else:
        answer = {"library": f"{library.name} {library.version}"}
    print(json.dumps(answer))  # noqa: T201 the answer


if __name__ == "__main__":
    main()
