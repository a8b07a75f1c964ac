"""Top-1 and top-5 on labelled images."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.demo import demo_package
from agent.tools.benchmark.measure.accuracy import accuracy_of
from engines.base import Images, Scores
from engines.package.load import load_package


@pytest.mark.parametrize("answer", [0, 1])
def test_either_of_two_classes_with_one_label_is_right(tmp_path: Path, answer: int) -> None:
    package = load_package(demo_package())
    package = replace(package, labels=("crane", "crane", *package.labels[2:]))
    (tmp_path / "crane").mkdir()
    shutil.copy(package.golden[0].path, tmp_path / "crane")

    def infer(batch: Images) -> Scores:
        return np.eye(len(package.labels), dtype=np.float32)[[answer] * len(batch)]

    assert accuracy_of(infer, 4, package, tmp_path).top1_ratio == 1.0
