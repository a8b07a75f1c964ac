"""The packages that speed is measured with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from engines.package.load import load_package
from scripts.performance.make_models import mobilenet, resnet, write_package


@pytest.mark.parametrize(("make", "name", "mib"), [(mobilenet, "mobilenet", 13.5), (resnet, "resnet", 44.6)])
def test_made_package_is_a_whole_one_of_the_known_size(
    make: Callable[[], onnx.ModelProto], name: str, mib: float, tmp_path: Path
) -> None:
    package = load_package(write_package(make(), name, tmp_path))
    assert (package.input.width, package.signature.classes, package.signature.batch) == (224, 1000, None)
    assert len(package.calibration) == 24
    assert package.model_path.stat().st_size / 2**20 == pytest.approx(mib, rel=0.05)
