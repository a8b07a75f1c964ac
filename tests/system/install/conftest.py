"""Environments below a staging root, to copy from: one run of the installer's step takes 3 s of CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.installer import (
    agent_version,
    agent_wheel,
    copy_distribution,
    install_environment,
)


@pytest.fixture(scope="session")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the pip of the tests in it, to copy from."""
    folder = tmp_path_factory.mktemp("bare") / "staged/opt/agent"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=100)
    (site,) = folder.glob("lib/python*/site-packages")
    copy_distribution("pip", site)
    return folder


@pytest.fixture(scope="session")
def installed_environment(bare_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after an installation of the agent `good`, version 0.1.0, to copy from."""
    folder = tmp_path_factory.mktemp("installed")
    root = folder / "staged"
    shutil.copytree(bare_environment, root / "opt/agent", symlinks=True)
    result = install_environment(root, agent_wheel(folder / "good", "good"))
    assert result.returncode == 0, result.stderr
    return root / "opt/agent"


@pytest.fixture
def environment(bare_environment: Path, tmp_path: Path) -> Path:
    """The agent's environment below the staging root, before the agent is in it."""
    return Path(shutil.copytree(bare_environment, tmp_path / "staged/opt/agent", symlinks=True))


@pytest.fixture
def installed(installed_environment: Path, tmp_path: Path) -> Path:
    """The agent's environment below the staging root, with the agent `good` in it."""
    folder = Path(shutil.copytree(installed_environment, tmp_path / "staged/opt/agent", symlinks=True))
    program = folder / "bin/agent"
    program.write_text(program.read_text().replace(str(installed_environment), str(folder)))
    assert agent_version(folder) == "0.1.0"
    return folder


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that go before those of the machine."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder
