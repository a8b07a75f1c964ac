"""Writing a recommendation into a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.benchmark.apply import apply_to, remember_for
from agent.benchmark.report import Recommendation
from agent.config.loader import load_config
from agent.demo import demo_package
from agent.runtime.errors import ConfigError, UsageError
from engines.base import EngineOptions, Measurement
from engines.choices import ChoiceMemory, key_here
from engines.package import load_package

INT8 = Recommendation(engine="ort-cpu", precision="int8", reason="measured")
CONFIG = """\
# the line's camera
version: 1
models:
  inspect:   # looks for scratches
    package: demo
    engine: auto        # was tensorrt once
    # fp16 blurs the small scratches
    strict: false
cameras:
  front:
    source: {type: pattern}
    classify: [{model: inspect}]
mqtt: {broker: mqtt://127.0.0.1:1883}
state_dir: state
"""


def _write(tmp_path: Path, text: str = CONFIG) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_bytes(text.encode())
    return path


def test_comments_and_everything_else_stay(tmp_path: Path) -> None:
    path = _write(tmp_path)
    path.chmod(0o640)
    assert apply_to(path, INT8, load_package(demo_package())) == ["inspect"]
    expected = CONFIG.replace(
        "engine: auto        # was tensorrt once\n",
        "engine: ort-cpu        # was tensorrt once\n    precision: int8\n",
    )
    assert path.read_text() == expected
    assert path.stat().st_mode & 0o777 == 0o640
    assert load_config(path, check_files=False).config.models["inspect"].precision == "int8"
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent.yaml"]


def test_applying_twice_changes_nothing(tmp_path: Path) -> None:
    path, package = _write(tmp_path), load_package(demo_package())
    apply_to(path, INT8, package)
    once = path.read_bytes()
    apply_to(path, INT8, package)
    assert path.read_bytes() == once


def test_line_ends_of_windows_stay(tmp_path: Path) -> None:
    path = _write(tmp_path, CONFIG.replace("\n", "\r\n"))
    apply_to(path, INT8, load_package(demo_package()))
    assert b"\n" not in path.read_bytes().replace(b"\r\n", b"")


def test_model_in_one_line_is_left_alone(tmp_path: Path) -> None:
    text = CONFIG.replace(
        "  inspect:   # looks for scratches\n    package: demo\n    engine: auto        # was tensorrt once\n"
        "    # fp16 blurs the small scratches\n    strict: false\n",
        "  inspect: {package: demo}\n",
    )
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"agent\.yaml:4: the model inspect is written in one line"):
        apply_to(path, INT8, load_package(demo_package()))
    assert path.read_text() == text


def test_unknown_model_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no model 'other', it has inspect"):
        apply_to(_write(tmp_path), INT8, load_package(demo_package()), model="other")


def test_nothing_to_recommend_changes_nothing(tmp_path: Path) -> None:
    path, nothing = _write(tmp_path), Recommendation(engine=None, precision=None, reason="all too slow")
    with pytest.raises(UsageError, match="nothing to apply: all too slow"):
        apply_to(path, nothing, load_package(demo_package()))
    assert path.read_text() == CONFIG


def test_auto_finds_what_was_measured(tmp_path: Path) -> None:
    path, package = _write(tmp_path), load_package(demo_package())
    measured = Measurement(engine="ort-cpu", precision="int8", runs=700, p50_ms=1.0, p90_ms=1.1)
    remember_for(path, ["inspect"], package, [measured])
    most = load_config(path).config.models["inspect"].batching.most
    options = EngineOptions(cache_dir=tmp_path / "state" / "cache", engine="auto", precision="int8", max_batch=most)
    choice = ChoiceMemory(options.cache_dir).load(key_here(package, options))
    assert choice is not None
    assert choice.engine == "ort-cpu"
