"""Tests and scripts find only the programs that scripts/lib/system.sh declares, whatever else this machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import sealed_path

_ROOT = Path(__file__).parents[2]
_PRELUDE = f'root={_ROOT}; source "$root/scripts/lib/system.sh"; '

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-query") is None, reason="dpkg-query is not installed: PATH is not sealed here"
)
pytestmark = needs_dpkg


@pytest.fixture
def planted(tmp_path: Path) -> str:
    """A PATH that has an undeclared program too."""
    program = tmp_path / "bin" / "undeclared-program"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    return f"{program.parent}:{os.environ[sealed_path.UNSEALED]}"


def _environment(path: str) -> dict[str, str]:
    """This one, not sealed yet."""
    return {name: text for name, text in os.environ.items() if name != sealed_path.UNSEALED} | {"PATH": path}


def test_an_undeclared_program_is_not_found_by_a_script(planted: str) -> None:
    def call(before: str) -> subprocess.CompletedProcess[str]:
        script = f"set -e; {_PRELUDE}{before} undeclared-program; strace --version >/dev/null; git --version"
        command = ["bash", "-c", script]
        return subprocess.run(command, env=_environment(planted), capture_output=True, text=True, check=False)

    assert call("").returncode == 0, "without the seal it is found"
    result = call(f"seal_path {sys.executable};")
    assert result.returncode == 127
    assert "undeclared-program" in result.stderr


def test_an_undeclared_program_is_not_found_by_a_test(planted: str, tmp_path: Path) -> None:
    """Also where pytest is called by hand."""
    test = tmp_path / "test_planted.py"
    test.write_text(
        "import subprocess\n\n"
        "def test_undeclared():\n    subprocess.run(['undeclared-program'], check=True)\n\n"
        "def test_declared():\n    subprocess.run(['git', '--version'], check=True)\n",
        encoding="utf-8",
    )
    options = [
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-n",
        "0",
        "--rootdir",
        str(_ROOT),
    ]
    command = [sys.executable, "-m", "pytest", "-c", str(_ROOT / "pyproject.toml"), *options, str(test)]
    result = subprocess.run(
        command, cwd=_ROOT, env=_environment(planted), capture_output=True, text=True, timeout=100, check=False
    )
    assert "No such file or directory: 'undeclared-program'" in result.stdout
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr


def test_this_very_run_is_sealed() -> None:
    assert sealed_path.is_sealed(os.environ["PATH"])
    assert shutil.which("python3") is not None
    for undeclared in ("wget", "cmake", "node"):
        assert shutil.which(undeclared) is None


def test_what_is_sealed_already_stays_as_it_is(tmp_path: Path) -> None:
    assert sealed_path.seal(os.environ, tmp_path) == {}
    extended = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert sealed_path.seal(extended, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_every_declared_command_is_there_and_leads_somewhere(tmp_path: Path) -> None:
    folder = sealed_path.make(tmp_path, os.environ[sealed_path.UNSEALED])
    assert folder is not None
    assert sealed_path.make(tmp_path, os.environ[sealed_path.UNSEALED]) == folder, "made once"
    commands = [need.partition(":")[0] for need in sealed_path.declared("test_needs")]
    commands.remove("can_compile")
    for name in [*commands, "sh", "awk", "mount", "python3", f"python3.{sys.version_info.minor}"]:
        assert os.access(folder / name, os.X_OK), name
    assert [link.name for link in folder.iterdir() if not link.exists()] == []
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


def test_a_compiler_works_from_there(tmp_path: Path) -> None:
    """gcc looks for its assembler and linker on PATH; they come with packages that it depends on."""
    script = f"{_PRELUDE}can_compile"
    assert subprocess.run(["bash", "-c", script], check=False).returncode == 0, tmp_path


def test_the_base_system_is_what_debian_12_calls_required() -> None:
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    if 'VERSION_ID="12"' not in release or "ID=debian" not in release:
        pytest.skip("this is not Debian 12, whose packages the list names")
    form = "${Package} ${Essential} ${Priority} ${db:Status-Status}\n"
    listing = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    installed = [line.split() for line in listing.splitlines() if line.endswith(" installed")]
    listed = sealed_path.declared("base_packages")
    assert listed == sorted(listed)
    assert set(listed) <= {name for name, *words in installed if "yes" in words or "required" in words}
    # dpkg calls two more required that the archive does not, and debootstrap leaves out.
    assert {name for name, *words in installed if "yes" in words} <= set(listed)


# They set the PATH of a different root, where nothing is sealed.
_IN_A_ROOT = {"scripts/container_check.py", "scripts/lib/try_deb.sh", "scripts/deb/postinst"}


def test_no_test_or_script_makes_a_path_of_its_own() -> None:
    """Such a PATH would not be sealed. What runs in another root, or on the machine of a user, has that one's own."""
    pattern = re.compile(r"""\bPATH["']?\s*[:=]\s*["']?/(usr/)?s?bin""")
    found = []
    for folder in ("tests", "scripts"):
        for path in sorted((_ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".sh", ""} and path.is_file() and path != Path(__file__):
                if str(path.relative_to(_ROOT)) in _IN_A_ROOT:
                    continue
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                found += [f"{path.relative_to(_ROOT)}: {line.strip()}" for line in lines if pattern.search(line)]
    assert found == []
