"""Every configuration that is shipped is a good one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import agent.demo
from agent.config.loader import load_config
from agent.config.reference import reference_markdown

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_a_shipped_configuration_is_accepted_as_it_comes_wherever_it_is_copied(file: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(file, tmp_path))
    loaded = load_config(copied, environ={"HOME": str(tmp_path)})
    assert loaded.warnings == ()
    assert loaded.config.cameras


@pytest.mark.parametrize("name", ["rtsp-cameras-4", "rtsp-hardware"])
def test_the_lines_to_uncomment_in_a_shipped_configuration_are_valid(name: str, tmp_path: Path) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    uncommented, count = re.subn(r"^( +)# (?=(username|password_file|tls): )", r"\1", text, flags=re.MULTILINE)
    assert count >= 2
    file = tmp_path / "agent.yaml"
    file.write_text(uncommented)
    for secret in ("camera-password", "mqtt-password"):
        (tmp_path / secret).write_text("long-secret\n")
        (tmp_path / secret).chmod(0o600)
    (tmp_path / "broker-ca.pem").touch()
    assert load_config(file, environ={"HOME": str(tmp_path)}).warnings == ()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_no_shipped_configuration_leads_out_of_its_folder(file: Path) -> None:
    assert "../" not in file.read_text(encoding="utf-8")


def test_the_demonstration_needs_nothing_but_what_is_bundled() -> None:
    loaded = load_config(CONFIGS / "demo.yaml")
    assert loaded.package_dir("inspect").is_dir()
    assert loaded.config.mqtt.broker == "embedded"


def test_the_demonstration_is_the_shipped_file() -> None:
    bundled = Path(agent.demo.__file__).with_name("demo.yaml")
    assert bundled.read_bytes() == (CONFIGS / "demo.yaml").read_bytes()


def test_the_reference_of_the_documentation_is_that_of_the_program() -> None:
    text = (CONFIGS.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    _, reference = text.split("<!-- reference -->\n\n")
    assert reference == reference_markdown(), "write it again below the mark: python -m agent.config.reference"


def test_each_row_of_the_reference_is_one_line_and_ends_in_a_whole_sentence() -> None:
    rows = [line for line in reference_markdown().splitlines() if line.startswith("| `")]
    assert [row for row in rows if not row.endswith(". |")] == []


def test_every_key_has_a_line_of_documentation() -> None:
    undocumented = [
        line for line in reference_markdown().splitlines() if line.startswith("| `") and line.endswith("| |")
    ]
    assert undocumented == []


def test_the_package_of_the_readme_is_made_where_its_configuration_looks() -> None:
    readme = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    (package,) = re.findall(r"inspect: \{package: (\S+?),", readme)
    folder, name = package.rsplit("/", 1)
    assert f"--name {name.rsplit('-', 1)[0]} " in readme
    assert f"--output {folder}\n" in readme
    assert f"agent model check {package}\n" in readme
