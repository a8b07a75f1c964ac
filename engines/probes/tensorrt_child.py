"""Makes TensorRT's runtime and builder once and prints its version as JSON.

Started only after the CUDA driver has answered: TensorRT 8.6 ends the process by a segmentation fault without one.
"""

from __future__ import annotations

import json
import sys

import tensorrt


def main() -> int:
    """End with the library's own words on standard error where a runtime or a builder cannot be made."""
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    if tensorrt.Runtime(logger) is None or tensorrt.Builder(logger) is None:
        print("TensorRT gave no runtime or builder", file=sys.stderr)  # noqa: T201 the answer
        return 3
    print(json.dumps({"version": tensorrt.__version__}))  # noqa: T201 the answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
