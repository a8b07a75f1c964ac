"""Every public name of engines exists, and is imported only on first use."""

from __future__ import annotations

import subprocess
import sys

import engines


def test_every_public_name_can_be_imported() -> None:
    assert {name for name in engines.__all__ if not hasattr(engines, name)} == set()
    assert set(engines.__all__) <= set(dir(engines))


def test_importing_engines_loads_no_heavy_library() -> None:
    code = "import sys, engines; sys.exit(str({'numpy', 'cv2', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == "set()\n"
