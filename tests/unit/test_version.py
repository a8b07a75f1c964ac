"""The version names the commit, wherever the code comes from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import agent
from agent.version import RELEASE, version_of

_ROOT = Path(__file__).parents[2]
_AUTHOR = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")


def _git(folder: Path, *arguments: str) -> str:
    # The checkout that the tests are started from by a hook must not be mistaken for this one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *_AUTHOR, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ, timeout=60).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of two commits that holds what the version is made from."""
    folder = tmp_path / "checkout"
    (folder / "agent").mkdir(parents=True)
    (folder / "engines").mkdir()
    for name in ("agent/version.py", "agent/__init__.py", "engines/errors.py", "engines/py.typed"):
        shutil.copy(_ROOT / name, folder / name)
    (folder / "agent/commit.txt").write_text("$Format:%H$\n")
    (folder / "engines/__init__.py").touch()
    (folder / "scripts").mkdir()
    for name in ("pyproject.toml", "scripts/build_commands.py", "README.md", "LICENSE", ".gitattributes"):
        shutil.copy(_ROOT / name, folder / name)
    _git(folder, "init", "--quiet")
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "-m", "first")
    _git(folder, "commit", "--quiet", "--allow-empty", "-m", "second")
    return folder


def _named(checkout: Path) -> str:
    return f"{RELEASE}+g{_git(checkout, 'rev-parse', 'HEAD')[:9]}"


def test_a_checkout_names_its_commit_and_whether_files_differ(checkout: Path) -> None:
    assert version_of(checkout / "agent") == _named(checkout)
    with (checkout / "engines/errors.py").open("a") as file:
        file.write("# changed\n")
    assert version_of(checkout / "agent") == f"{_named(checkout)}.dirty"


def test_a_hook_of_another_checkout_changes_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(_ROOT / ".git"))
    assert version_of(checkout / "agent") == _named(checkout)


def test_a_shallow_clone_without_tags_names_its_commit(checkout: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    _git(tmp_path, "clone", "--quiet", "--depth", "1", "--no-tags", f"file://{checkout}", str(clone))
    assert version_of(clone / "agent") == _named(checkout)


def test_a_worktree_names_its_own_commit(checkout: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    _git(checkout, "worktree", "add", "--quiet", "--detach", str(tree), "HEAD~1")
    assert version_of(tree / "agent") == _named(tree) != _named(checkout)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["checkout", "worktree", "detached"])
def test_where_git_is_not_installed_the_commit_is_read_and_said_to_be_unchecked(
    kind: str, packed: bool, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout
    if kind == "worktree":
        folder = tmp_path / "tree"
        _git(checkout, "worktree", "add", "--quiet", "-b", "other/branch", str(folder))
    if kind == "detached":
        _git(checkout, "checkout", "--quiet", "--detach")
    if packed:
        _git(checkout, "pack-refs", "--all")
    named = _named(folder)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert version_of(folder / "agent") == f"{named}.unchecked"


def test_without_a_commit_it_says_unknown_and_not_a_wrong_one(checkout: Path, tmp_path: Path) -> None:
    # A copy inside another checkout, as a vendored one or an environment is.
    inside = checkout / "vendor/copy"
    shutil.copytree(_ROOT / "agent", inside / "agent", ignore=shutil.ignore_patterns("__pycache__", "demo"))
    assert version_of(inside / "agent") == f"{RELEASE}+unknown"
    (tmp_path / "broken/agent").mkdir(parents=True)
    (tmp_path / "broken/.git").write_text("gitdir: ../gone\n")
    assert version_of(tmp_path / "broken/agent") == f"{RELEASE}+unknown"


def _unpack(archive: Path, into: Path) -> None:
    """With tar, because ``extractall(filter=)`` is missing in Python 3.11.2 and required in 3.14."""
    into.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(into)], check=True, timeout=60)


def test_an_archive_that_git_made_names_its_commit(checkout: Path, tmp_path: Path) -> None:
    _git(checkout, "archive", "--format=tar", "-o", str(tmp_path / "archive.tar"), "HEAD")
    _unpack(tmp_path / "archive.tar", tmp_path / "unpacked")
    assert version_of(tmp_path / "unpacked/agent") == _named(checkout)


def _build(folder: Path, what: str, target: Path) -> Path:
    script = f"import sys; from setuptools.build_meta import build_{what}; print(build_{what}(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(target)]
    built = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=100)
    return target / built.stdout.splitlines()[-1]


def test_a_wheel_built_from_the_source_archive_of_a_changed_checkout_says_all_of_it(
    checkout: Path, tmp_path: Path
) -> None:
    with (checkout / "README.md").open("a") as file:
        file.write("changed\n")
    named = f"{_named(checkout)}.dirty"
    archive = _build(checkout, "sdist", tmp_path)
    assert archive.name == f"edge_inference_agent-{named}.tar.gz"
    assert (checkout / "agent/commit.txt").read_text() == "$Format:%H$\n"
    _unpack(archive, tmp_path / "sources")
    wheel = _build(next((tmp_path / "sources").iterdir()), "wheel", tmp_path)
    assert wheel.name == f"edge_inference_agent-{named}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "installed")
    assert version_of(tmp_path / "installed/agent") == named


def test_the_copy_that_scripts_build_from_is_complete_and_names_the_commit(checkout: Path, tmp_path: Path) -> None:
    script = """
        set -euo pipefail
        root=$1 scripts=$2
        source "$scripts/lib/system.sh"
        source "$scripts/lib/environment.sh"
        copy_sources "$3" "$4"
    """
    command = [
        "bash",
        "-c",
        script,
        "bash",
        str(checkout),
        str(_ROOT / "scripts"),
        str(tmp_path / "copy"),
        sys.executable,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert not (tmp_path / "copy/.git").exists()
    assert (
        _build(tmp_path / "copy", "wheel", tmp_path).name
        == f"edge_inference_agent-{_named(checkout)}-py3-none-any.whl"
    )


def test_an_editable_installation_is_not_frozen_at_its_first_commit(checkout: Path) -> None:
    script = "from setuptools.build_meta import build_editable; build_editable('.')"
    subprocess.run([sys.executable, "-c", script], cwd=checkout, check=True, capture_output=True, timeout=100)
    assert (checkout / "agent/commit.txt").read_text() == "$Format:%H$\n"
    _git(checkout, "commit", "--quiet", "--allow-empty", "-m", "third")
    assert version_of(checkout / "agent") == _named(checkout)


def test_the_program_prints_the_version_of_its_own_code() -> None:
    command = [sys.executable, "-m", "agent", "--version"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=_ROOT).stdout
    assert printed == f"agent, version {agent.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+\+(g[0-9a-f]{9}(\.dirty|\.unchecked)?|unknown)", agent.__version__)
