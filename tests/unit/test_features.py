"""`features: true` publishes numbers made from an embedding that find drift, and is refused where there is none."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from agent.config.checks.crosschecks import ENGINE_ALIASES, ENGINES
from agent.config.loader import LoadedConfig, load_config
from agent.inference.features import MAX_NUMBERS, projection, published_features
from agent.runtime.errors import ConfigError
from engines.errors import EngineUnavailable
from engines.package.load import ModelPackage, load_package
from engines.select.candidate import require_runnable
from engines.select.registry import CHOOSERS, Prober, canonical_name
from tests.fixtures.agent_process import write_config
from tests.fixtures.packages import PackageFiles, embedding_package

_DOCS = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def test_the_matrix_is_the_one_that_the_documentation_states() -> None:
    block = next(text for text in re.findall(r"```python\n(.*?)```", _DOCS, flags=re.DOTALL) if "matrix =" in text)
    embeddings = np.random.default_rng(2).standard_normal((6, 512)).astype(np.float32)
    names: dict[str, object] = {"embeddings": embeddings}
    exec(block, names)
    stated = np.asarray(names["features"])
    found = np.array(published_features(embeddings))
    assert found.shape == (6, MAX_NUMBERS)
    np.testing.assert_allclose(found, stated, atol=6e-3)  # rounded to two decimals
    # Pinned: numbers of an older version must stay comparable.
    np.testing.assert_allclose(projection(512)[0, :3], [0.1562517, 0.03462437, 0.06320412], rtol=1e-6)


def test_distances_survive_the_projection() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((2, 500, 512)).astype(np.float32)
    given = np.linalg.norm(np.array(published_features(first)) - np.array(published_features(second)), axis=1)
    ratio = given / np.linalg.norm(first - second, axis=1)
    assert abs(ratio.mean() - 1) < 0.02
    assert ratio.std() < 0.14, "docs/models.md says 12 %"


def test_a_short_embedding_is_published_as_it_is_with_four_digits() -> None:
    row = np.array([[123.456789, -0.0123456, 0.0]], np.float32)
    assert published_features(row) == [(123.5, -0.0, 0.0)]
    assert published_features(np.zeros((1, 3), np.float32)) == [(0.0, 0.0, 0.0)]
    assert published_features(np.array([[1.23456e-20, 0.0]], np.float32)) == [(1.235e-20, 0.0)]


@pytest.mark.parametrize("length", [3, 512])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3.4e38])
def test_an_embedding_that_is_not_finite_is_left_out_without_a_warning(length: int, bad: float) -> None:
    rows = np.ones((2, length), np.float32)
    rows[0] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = published_features(rows)
    assert second is not None
    assert (first is None) == (length == 512 or not math.isfinite(bad))


def _loaded(folder: Path, package: Path | str, **model: object) -> LoadedConfig:
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
    config = {"models": {"inspect": {"package": str(package), **model}}, "cameras": {"belt": camera}}
    return load_config(write_config(folder, config))


def test_a_package_gives_its_embedding_only_where_the_file_asks_for_it(tmp_path: Path) -> None:
    package = embedding_package().write(tmp_path)
    assert _loaded(tmp_path, package, features=True).read_package("inspect", tmp_path / "cache").gives_features
    assert not _loaded(tmp_path, package).read_package("inspect", tmp_path / "cache").gives_features


def test_features_of_a_package_without_an_embedding_are_refused_with_the_line(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, PackageFiles.of().write(tmp_path), features=True)
    with pytest.raises(ConfigError) as caught:
        loaded.read_package("inspect", None)
    for words in ("agent.yaml:", "models.inspect.features", "but the package of model inspect names no embedding"):
        assert words in caught.value.message
    assert "--features NAME" in caught.value.message


def _is_refused(folder: Path, engine: str) -> bool:
    try:
        _loaded(folder, "demo", engine=engine, features=True)
    except ConfigError as exc:
        assert f"the engine `{engine.lower()}` gives scores only" in exc.message
        return True
    return False


def _gives_scores_only(package: ModelPackage, engine: str) -> bool:
    try:
        require_runnable(package, engine, Prober())
    except EngineUnavailable as exc:
        return "gives scores only" in exc.message or engine == "torch"  # which takes no ONNX model either
    return False


def test_engines_that_give_scores_only_are_refused_by_the_file_as_by_the_engines(tmp_path: Path) -> None:
    package = load_package(embedding_package().write(tmp_path)).with_features()
    refused = {canonical_name(name) for name in (*ENGINES, *ENGINE_ALIASES, "TensorRT") if _is_refused(tmp_path, name)}
    # One engine of ONNX Runtime stands for all: the others would be probed.
    for name in {canonical_name(one) for one in ENGINES if not one.startswith("ort-")} - set(CHOOSERS) | {"ort-cpu"}:
        assert _gives_scores_only(package, name) == (name in refused), name
    assert refused == {"tensorrt", "torch", "triton"}
    assert _loaded(tmp_path, "demo", engine="tensorrt").config.models["inspect"].features is False


def test_the_recipe_of_the_documentation_finds_drift_and_nothing_else(tmp_path: Path) -> None:
    block = next(text for text in re.findall(r"```python\n(.*?)```", _DOCS, flags=re.DOTALL) if "# drift.py" in text)
    (tmp_path / "drift.py").write_text(block)
    rng = np.random.default_rng(4)
    base = rng.standard_normal(512)
    for name, shift in (("good", 0.0), ("same", 0.0), ("moved", 0.3)):
        rows = base + rng.standard_normal((300, 512)) + shift * np.ones(512)
        lines = [json.dumps({"features": one}) for one in published_features(rows.astype(np.float32))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*lines, '{"seq": 3}']))
    for name, verdict in (("same", "no drift"), ("moved", "drift")):
        done = subprocess.run(
            [sys.executable, "drift.py", "good.jsonl", f"{name}.jsonl"],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.splitlines()[1] == verdict, done.stdout
