"""The installer's environment: upgrade, failure, interruption and what is left after each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.installer import (
    MAIN,
    ROOT,
    agent_version,
    agent_wheel,
    copy_distribution,
    install_environment,
    installed_texts,
    other_wheel,
    write_program,
)

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed; only a systemd machine has it"
)


def test_a_wheel_of_the_same_version_replaces_what_is_installed(tmp_path: Path, installed: Path) -> None:
    assert installed_texts(installed) == ["good"]
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "wheels of today", "better"))
    assert result.returncode == 0, result.stderr
    assert installed_texts(installed) == ["better"]


def test_an_upgrade_and_a_downgrade_print_both_versions(tmp_path: Path, installed: Path) -> None:
    before = "0.1.0"
    for version in ("0.2.0+g222222222.dirty", "0.1.0+g111111111"):
        result = install_environment(
            tmp_path / "staged", agent_wheel(tmp_path / f"{version} after {before}", version=version)
        )
        assert result.returncode == 0, result.stderr
        assert f"agent {version} runs (before: {before})" in result.stderr
        assert agent_version(installed) == version
        before = version
    assert [entry.name for entry in installed.parent.iterdir()] == ["agent"]
    # The programs name the place where they are, not the one where they were made.
    assert "agent.new" not in (installed / "bin/agent").read_text() + (installed / "pyvenv.cfg").read_text()


def test_a_first_installation_has_nothing_before_it(tmp_path: Path, environment: Path) -> None:
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "wheels", version="0.1.0+g111111111"))
    assert result.returncode == 0, result.stderr
    assert "agent 0.1.0+g111111111 runs (before: none)" in result.stderr
    assert agent_version(environment) == "0.1.0+g111111111"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"version": "0.2.0", "says": "0.1.0"}, "the new agent reports version 0.1.0, 0.2.0 was installed"),
        ({"version": "0.2.0", "main": "raise RuntimeError('broken')\n"}, "RuntimeError: broken"),
        ({"version": "0.2.0", "refuses": "version: 1"}, "the new agent refuses"),
    ],
)
def test_a_new_agent_that_fails_leaves_the_one_that_works(
    fault: dict[str, str], words: str, tmp_path: Path, installed: Path
) -> None:
    root = tmp_path / "staged"
    (root / "etc/agent").mkdir(parents=True)
    (root / "etc/agent/agent.yaml").write_text("version: 1\n")
    result = install_environment(root, agent_wheel(tmp_path / "bad", "bad", **fault))
    assert result.returncode == 1
    assert words in result.stderr
    assert "Done" not in result.stderr
    assert agent_version(installed) == "0.1.0"
    assert installed_texts(installed) == ["good"]
    assert [entry.name for entry in installed.parent.iterdir()] == ["agent"]


def test_a_first_installation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "bad", says="9.9.9"))
    assert result.returncode == 1
    assert list((tmp_path / "staged/opt").iterdir()) == []


def test_a_package_without_a_name_is_never_taken_for_the_agent(tmp_path: Path, environment: Path) -> None:
    # What the setuptools of Ubuntu 22.04 makes of a pyproject.toml, in a folder without the agent's wheel.
    (environment / "mine").touch()
    other_wheel(tmp_path / "wheels", "UNKNOWN", "0.0.0", {})
    result = install_environment(tmp_path / "staged", tmp_path / "wheels")
    assert result.returncode == 1
    assert "NOT installed" in result.stderr
    assert (environment / "mine").exists()


def test_two_wheels_of_the_agent_are_refused(tmp_path: Path, environment: Path) -> None:
    wheels = agent_wheel(tmp_path / "wheels", version="0.1.0")
    next(agent_wheel(tmp_path / "more", version="0.2.0").iterdir()).rename(
        wheels / "edge_inference_agent-0.2.0-py3-none-any.whl"
    )
    result = install_environment(tmp_path / "staged", wheels)
    assert result.returncode == 1
    assert "2 wheels of the agent" in result.stderr
    assert environment.exists()


def test_an_environment_without_pip_is_made_again(tmp_path: Path, environment: Path) -> None:
    shutil.rmtree(next(environment.glob("lib/python*/site-packages/pip")))
    (environment / "mine").touch()
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "wheels"))
    assert result.returncode == 0, result.stderr
    assert not (environment / "mine").exists()


def test_an_installation_killed_between_its_two_renames_is_undone_by_the_next(tmp_path: Path, installed: Path) -> None:
    installed.rename(installed.parent / "agent.before")
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "bad", says="9.9.9"))
    assert result.returncode == 1
    assert "its previous environment is restored" in result.stderr
    assert agent_version(installed) == "0.1.0"


@pytest.mark.parametrize("moved", [("lib",), ("mine",), ("lib", "bin", "pyvenv.cfg", "mine")])
def test_an_installation_killed_while_entries_of_a_mount_point_are_moved_is_undone_by_the_next(
    moved: tuple[str, ...], tmp_path: Path, installed: Path, programs: Path
) -> None:
    write_program(programs, "mountpoint", "exit 0")
    (installed / "mine").touch()
    shutil.copytree(installed, installed / ".new", symlinks=True)
    (installed / ".before").mkdir()
    for name in moved:
        (installed / name).rename(installed / ".before" / name)
    if len(moved) > 1:
        # Killed later: the new one has begun to take the place.
        (installed / ".new/bin").rename(installed / "bin")
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "bad", says="9.9.9"))
    assert result.returncode == 1
    assert "its previous environment is restored" in result.stderr
    assert agent_version(installed) == "0.1.0"
    assert (installed / "mine").exists()
    assert not {".new", ".before"} & {entry.name for entry in installed.iterdir()}


def test_a_new_agent_on_a_mount_point_that_fails_in_its_place_leaves_the_one_that_works(
    tmp_path: Path, installed: Path, programs: Path
) -> None:
    write_program(programs, "mountpoint", "exit 0")
    # Works beside the old environment, and not in its place.
    main = "import sys\nif '.new' not in sys.prefix:\n    sys.exit('lost')\n" + MAIN
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "bad", main=main))
    assert result.returncode == 1
    assert "bin/agent says lost" in result.stderr
    assert agent_version(installed) == "0.1.0"
    assert installed_texts(installed) == ["good"]
    assert not {".new", ".before"} & {entry.name for entry in installed.iterdir()}


def test_a_disk_that_is_full_is_named_with_the_needed_and_the_free_space(
    tmp_path: Path, installed: Path, programs: Path
) -> None:
    fault = "cp: error copying 'a' to 'b': No space left on device"
    copy = f'{shutil.which("cp")} "$@"; for file in 1 2 3 4 5 6 7 8 9; do echo "{fault}" >&2; done; exit 1'
    write_program(programs, "cp", f'case $* in *reflink*) {copy} ;; esac; exec {shutil.which("cp")} "$@"')
    result = install_environment(tmp_path / "staged", agent_wheel(tmp_path / "wheels", "better"))
    assert result.returncode == 1
    needs = f"begins as a copy of {re.escape(str(installed))}, which needs [1-9]\\d* MB, and \\d+ MB are free in "
    assert re.search(needs + re.escape(str(installed.parent)), result.stderr), result.stderr
    assert "Free some space there" in result.stderr
    assert "error copying" not in result.stderr
    assert installed_texts(installed) == ["good"]
    assert [entry.name for entry in installed.parent.iterdir()] == ["agent"]


def test_the_checkout_stays_as_it_is_and_what_a_build_left_there_is_not_installed(
    tmp_path: Path, environment: Path
) -> None:
    checkout, root = tmp_path / "checkout", tmp_path / "staged"
    for name in ("agent", "engines", "scripts", "systemd", "configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    (checkout / "agent/commit.txt").write_text("0123456789abcdef\n")
    (checkout / "build/lib/agent").mkdir(parents=True)
    (checkout / "build/lib/agent/gone.py").touch()
    # The setuptools of the tests instead of one from the index; no dependencies, which this test does not need.
    site = next(environment.glob("lib/python*/site-packages"))
    copy_distribution("setuptools", site)
    pip = site / "pip/__main__.py"
    text = pip.read_text()
    pip.write_text(
        "import sys\n"
        "if sys.argv[1] == 'install' and not sys.argv[-1].endswith('.whl'):\n    sys.exit(0)\n"
        "if sys.argv[1] == 'install':\n    sys.argv.append('--no-deps')\n" + text
    )
    before = sorted(checkout.rglob("*"))
    command = [
        str(checkout / "scripts/install-jetson"),
        "--root",
        str(root),
        "--only",
        "environment",
        "--extras",
        "dev",
    ]
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ""}
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=env)
    # The agent cannot run without click; what was built is in the message.
    assert "0.1.0+g012345678 was installed" in result.stderr
    assert result.returncode == 1
    assert sorted(checkout.rglob("*")) == before
    assert "No module named 'click'" in result.stderr
