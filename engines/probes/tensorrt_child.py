"""Creates TensorRT's runtime and builder and prints its version as JSON.

Run it only after the CUDA driver has answered: without one TensorRT 8.6 crashes.
"""

from __future__ import annotations

import json
import sys

import tensorrt


def main() -> int:
    """Print the version; if a runtime or builder cannot be created, print TensorRT's error and return 3."""
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    if tensorrt.Runtime(logger) is None or tensorrt.Builder(logger) is None:
        print("TensorRT gave no runtime or builder", file=sys.stderr)  # noqa: T201 the answer
        return 3
    print(json.dumps({"version": tensorrt.__version__}))  # noqa: T201 the answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
