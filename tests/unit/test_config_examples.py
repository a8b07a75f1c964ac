"""Every configuration that is shipped is a good one."""

from __future__ import annotations

from pathlib import Path

import pytest

import agent.demo
from agent.config.loader import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_a_shipped_configuration_is_accepted_without_a_warning(file: Path) -> None:
    loaded = load_config(file, check_files=False)
    assert loaded.warnings == ()
    assert loaded.config.cameras


def test_the_demonstration_needs_nothing_but_what_is_bundled() -> None:
    loaded = load_config(CONFIGS / "demo.yaml")
    assert loaded.package_dir("inspect").is_dir()
    assert loaded.config.mqtt.broker == "embedded"


def test_the_demonstration_is_the_shipped_file() -> None:
    bundled = Path(agent.demo.__file__).with_name("demo.yaml")
    assert bundled.read_bytes() == (CONFIGS / "demo.yaml").read_bytes()
