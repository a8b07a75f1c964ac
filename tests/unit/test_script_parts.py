"""The shell parts of the scripts, on machines that lack something: what is missing is named, and how to get it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

_PRELUDE = f"""
set -euo pipefail
root={_ROOT}
source "$root/scripts/lib/system.sh"
source "$root/scripts/lib/environment.sh"
source "$root/scripts/lib/steps.sh"
source "$root/scripts/lib/extra_environments.sh"
"""

# An ordinary user without sudo.
_NO_RIGHTS = "as_root() { return 1; }\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs: the whole PATH of a machine that has only what is put there."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cat", "awk", "rm", "touch", "env"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (programs / name).symlink_to(found)
    return programs


def _program(machine: Path, name: str, script: str) -> None:
    path = machine / name
    path.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def _bash(machine: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", _PRELUDE + script],
        env={"PATH": str(machine), **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("version", ["3.9", "2.7", "2.10"])
def test_interpreter_that_is_too_old_is_refused_with_its_version(machine: Path, version: str) -> None:
    _program(machine, "python3", f"echo {version}")
    result = _bash(machine, "select_python")
    assert result.returncode == 69
    assert f"runs on Python 3.10 or newer, found here: python3: Python {version}" in result.stderr
    assert "PYTHON=/usr/bin/python3.12" in result.stderr


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_interpreter_that_was_tried_is_taken_without_a_word(machine: Path, version: str) -> None:
    _program(machine, "python3", f"echo {version}")
    result = _bash(machine, "select_python")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{machine}/python3\n", "")


@pytest.mark.parametrize("version", ["3.15", "3.100", "4.0"])
def test_interpreter_newer_than_any_that_was_tried_is_taken_with_a_warning(
    machine: Path, tmp_path: Path, version: str
) -> None:
    _program(machine, "python3", f"echo {version}")
    result = _bash(machine, "select_python")
    assert (result.returncode, result.stdout) == (0, f"{machine}/python3\n")
    (machine / "python3").unlink()
    _program(machine, "python3", f'[ "$1" = - ] && exec {sys.executable} "$@"; echo {version}')
    (tmp_path / "a.lock").write_text("one", encoding="utf-8")
    script = f"new_environment() {{ :; }}; pip_install() {{ :; }}; have_environment {tmp_path} {tmp_path}/a.lock"
    result = _bash(machine, script)
    assert result.returncode == 0, result.stderr
    assert (
        f"Warning: Python {version} is newer than any that this project was tested on (3.10 to 3.14)" in result.stderr
    )


def test_interpreter_that_was_tried_goes_before_a_newer_one(machine: Path) -> None:
    _program(machine, "python3", "echo 3.15")
    _program(machine, "python3.13", "echo 3.13")
    result = _bash(machine, "select_python")
    assert (result.stdout, result.stderr) == (f"{machine}/python3.13\n", "")


def test_the_tried_interpreters_are_those_of_the_package_metadata() -> None:
    metadata = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = [int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', metadata)]
    result = subprocess.run(
        ["/bin/bash", "-c", _PRELUDE + "echo $oldest_python $newest_tested_python"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [f"3.{min(named)}", f"3.{max(named)}"]
    assert f'requires-python = ">=3.{min(named)}"' in metadata


def test_newer_interpreter_under_another_name_is_found(machine: Path) -> None:
    _program(machine, "python3", "echo 3.8")
    _program(machine, "python3.11", "echo 3.11")
    assert _bash(machine, "select_python").stdout == f"{machine}/python3.11\n"


def test_an_interpreter_that_is_found_by_a_sealed_path_is_named_by_its_own_place(
    machine: Path, tmp_path: Path
) -> None:
    """An environment that is made of it must live on when that folder goes."""
    _program(machine, "python3.12", "echo 3.12")
    sealed = tmp_path / ".venvs/sealed-0123456789abcdef"
    sealed.mkdir(parents=True)
    (sealed / "python3").symlink_to(machine / "python3.12")
    (sealed / "readlink").symlink_to(str(shutil.which("readlink")))
    result = _bash(machine, "select_python", PATH=f"{sealed}:{machine}")
    assert result.stdout == f"{machine}/python3.12\n"


def test_chosen_interpreter_that_does_not_run_is_not_replaced_by_another(machine: Path) -> None:
    _program(machine, "python3", "echo 3.12")
    result = _bash(machine, "folder=$(test_environment_folder); echo still here", PYTHON="no-such-python")
    assert result.returncode == 69
    assert result.stdout == ""
    assert "no-such-python: not found or does not run" in result.stderr


def test_chosen_interpreter_may_have_a_blank_in_its_path(machine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my programs"
    folder.mkdir()
    _program(folder, "python3", "echo 3.12")
    result = _bash(machine, "select_python; select_python python3.10", PYTHON=f"{folder}/python3")
    assert result.stdout == f"{folder}/python3\n" * 2, result.stderr


def test_missing_venv_module_is_named_with_its_package(machine: Path, tmp_path: Path) -> None:
    _program(machine, "python3", "case $* in *ensurepip*) exit 1 ;; esac; echo 3.10")
    result = _bash(machine, f"{_NO_RIGHTS} new_environment python3 {tmp_path}/new")
    assert result.returncode == 69
    assert "sudo apt-get install python3.10-venv" in result.stderr


def test_missing_programs_are_named_with_their_packages(machine: Path) -> None:
    script = f"{_NO_RIGHTS} need_system bash:bash no-such-broker:some-broker no-such-tool:some-tool"
    result = _bash(machine, script)
    assert result.returncode == 69
    assert "Missing system packages: some-broker some-tool." in result.stderr


def test_a_package_without_a_command_is_asked_for_by_what_it_brings(machine: Path) -> None:
    """gcc is there and compiles nothing: the C library's headers are in a package that it only recommends."""
    (machine / "mktemp").symlink_to(str(shutil.which("mktemp")))
    _program(machine, "gcc", "exit 1")
    script = f"{_NO_RIGHTS} need_system gcc:gcc can_compile:libc6-dev"
    result = _bash(machine, script)
    assert result.returncode == 69
    assert "Missing system packages: libc6-dev." in result.stderr
    (machine / "gcc").unlink()
    assert _bash(machine, script, PATH=f"{machine}:{os.environ['PATH']}").returncode == 0


def test_an_installation_that_brings_nothing_is_not_taken_for_success(machine: Path) -> None:
    _program(machine, "apt-get", "exit 0")
    result = _bash(machine, 'as_root() { "$@"; }; need_system no-such-broker:some-broker')
    assert result.returncode == 69
    assert "Installed, but still not usable: some-broker" in result.stderr


def test_missing_programs_are_installed_where_that_is_allowed(machine: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    # As in a fresh container: nothing can be found before the lists are fetched.
    success = f"ln -s /bin/true {machine}/no-such-broker"
    (machine / "ln").symlink_to(str(shutil.which("ln")))
    _program(
        machine,
        "apt-get",
        f'echo "$*" >>{asked}; [ "$1" = update ] || {{ [ "$(wc -l <{asked})" -gt 1 ] && {success}; }}',
    )
    (machine / "wc").symlink_to("/usr/bin/wc")
    result = _bash(machine, 'as_root() { "$@"; }; need_system no-such-broker:some-broker')
    assert result.returncode == 0, result.stderr
    calls = asked.read_text(encoding="utf-8").splitlines()
    assert [call.split()[0] for call in calls] == ["install", "update", "install"]
    assert calls[0].endswith("--no-install-recommends some-broker")


def test_environment_is_made_once_and_again_when_the_lock_changes(machine: Path, tmp_path: Path) -> None:
    """The interpreter is real; making the environment and filling it are noted and left out."""
    (machine / "python3").symlink_to(sys.executable)
    lock = tmp_path / "a.lock"
    script = f"""
        new_environment() {{ mkdir -p "$2/bin"; ln -sf "$1" "$2/bin/python"; echo new; }}
        pip_install() {{ echo "install ${{*:2}}"; }}
        more() {{ echo "more $2"; }}
        have_environment {tmp_path}/env {lock} more torch
    """
    (machine / "mkdir").symlink_to("/bin/mkdir")
    (machine / "ln").symlink_to("/bin/ln")
    lock.write_text("one", encoding="utf-8")
    made = _bash(machine, script)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines() == [
        "new",
        f"install --require-hashes -r {lock}",
        f"install --no-deps --no-index --no-build-isolation --editable {_ROOT}",
        "more torch",
    ]
    assert _bash(machine, script).stdout == ""
    lock.write_text("two", encoding="utf-8")
    assert _bash(machine, script).stdout == made.stdout


@pytest.mark.parametrize("damage", ["rm -r {site}/numpy", "rm -r {site}/numpy {site}/numpy-2.0.dist-info"])
def test_environment_that_lost_a_package_is_made_again(machine: Path, tmp_path: Path, damage: str) -> None:
    (machine / "python3").symlink_to(sys.executable)
    lock = tmp_path / "a.lock"
    lock.write_text(
        "numpy==2.0 ; python_version > '3' \\\n    --hash=sha256:0\ncolorama==1 ; sys_platform == 'win32'\n"
    )
    folder = tmp_path / "env"
    site = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    script = f"""
        new_environment() {{ echo new; "$1" -m venv --clear --without-pip "$2"; }}
        pip_install() {{
          mkdir -p {site}/numpy {site}/numpy-2.0.dist-info
          echo "numpy/__init__.py,," >{site}/numpy-2.0.dist-info/RECORD
          [ -e {site}/pip ] || {sys.executable} -c 'import os, pip; os.symlink(pip.__path__[0], "{site}/pip")'
        }}
        have_environment {folder} {lock}
    """
    (machine / "mkdir").symlink_to("/bin/mkdir")
    assert _bash(machine, script).stdout == "new\n"
    assert _bash(machine, script).stderr == ""
    subprocess.run(["/bin/sh", "-c", damage.format(site=site)], check=True)
    made = _bash(machine, script)
    assert made.returncode == 0, made.stderr
    assert "Making " in made.stderr
    # pip itself installs what has no metadata, and nothing else.
    assert made.stdout == ("new\n" if "dist-info" not in damage else "")
    assert (site / "numpy").exists()


def test_a_file_where_the_environment_has_to_be_is_named_and_a_dead_link_replaced(
    machine: Path, tmp_path: Path
) -> None:
    (machine / "python3").symlink_to(sys.executable)
    folder = tmp_path / "my env"
    folder.touch()
    script = f"""
        new_environment() {{ mkdir "$2"; }}
        pip_install() {{ :; }}
        have_environment "{folder}" {_ROOT}/pyproject.toml
    """
    (machine / "mkdir").symlink_to("/bin/mkdir")
    result = _bash(machine, script)
    assert result.returncode == 69
    assert result.stderr.startswith(
        f"{folder} is a file, and the environment has to be made in a folder of that name."
    )
    assert f"mv {str(folder).replace(' ', chr(92) + ' ')} " in result.stderr
    folder.unlink()
    folder.symlink_to(tmp_path / "gone")
    result = _bash(machine, script)
    assert result.returncode == 0, result.stderr
    assert folder.is_dir()
    assert not folder.is_symlink()


def test_failed_installation_leaves_no_mark_of_success(machine: Path, tmp_path: Path) -> None:
    (machine / "python3").symlink_to(sys.executable)
    script = f"""
        new_environment() {{ :; }}
        pip_install() {{ return 1; }}
        have_environment {tmp_path} {_ROOT}/pyproject.toml
    """
    result = _bash(machine, script)
    assert result.returncode == 69
    assert "The packages of pyproject.toml could not be installed" in result.stderr
    assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR" in result.stderr
    assert not (tmp_path / ".complete").exists()


def _with_pip(folder: Path) -> Path:
    """This interpreter with its packages. A link to it would lead to the base interpreter, which may have no pip."""
    script = folder / "interpreter"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return script


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_environment_that_two_scripts_want_at_once_is_made_by_one_of_them(machine: Path, tmp_path: Path) -> None:
    (machine / "python3").symlink_to(sys.executable)
    for name in ("flock", "mkdir", "ln", "sleep"):
        (machine / name).symlink_to(str(shutil.which(name)))
    lock = tmp_path / "a.lock"
    lock.write_text("one", encoding="utf-8")
    interpreter = _with_pip(tmp_path)
    # The first waits until the second says that it waits.
    script = f"""
        say() {{ echo "$1" >&2; case $1 in Waiting*) touch {tmp_path}/waits ;; esac; }}
        new_environment() {{
          echo new
          until [ -e {tmp_path}/waits ]; do sleep 0.05; done
          mkdir -p "$2/bin"; ln -sf {interpreter} "$2/bin/python"
        }}
        pip_install() {{ :; }}
        have_environment {tmp_path}/env {lock} & first=$!
        have_environment {tmp_path}/env {lock} & second=$!
        wait $first && wait $second
    """
    result = _bash(machine, script)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "new\n"
    assert "Waiting for another script" in result.stderr


def test_environment_that_another_script_has_just_made_is_not_made_again(machine: Path, tmp_path: Path) -> None:
    (machine / "python3").symlink_to(sys.executable)
    for name in ("mkdir", "ln"):
        (machine / name).symlink_to(str(shutil.which(name)))
    lock = tmp_path / "a.lock"
    lock.write_text("one", encoding="utf-8")
    interpreter = _with_pip(tmp_path)
    # The other one is done between the first look and the lock, which is then free.
    script = f"""
        flock() {{ mkdir -p "$folder/bin"; ln -sf {interpreter} "$folder/bin/python"; printf %s "$key" >"$stamp"; }}
        new_environment() {{ echo new; }}
        pip_install() {{ echo installed; }}
        have_environment {tmp_path}/env {lock}
    """
    result = _bash(machine, script)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_environment_in_a_checkout_of_somebody_else_is_refused_with_a_way_out(machine: Path, tmp_path: Path) -> None:
    (machine / "python3").symlink_to(sys.executable)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(_ROOT / "pyproject.toml", checkout)
    checkout.chmod(0o555)
    result = _bash(machine, f"root={checkout}; have_environment {checkout}/.venv {checkout}/pyproject.toml")
    assert result.returncode == 69
    assert f".venv has to be made in {checkout}, where this user may not write" in result.stderr
    assert f"cp -r {checkout} DIR" in result.stderr


def test_steps_all_run_and_their_failures_are_counted(machine: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "= 1 failed, 27 passed, 2 skipped, 1 error in 80.89s (0:01:20) =\nnot 5 passed\n3 passed in 0.10s\n",
        encoding="utf-8",
    )
    script = f"""
        inner() {{ false; echo "not reached"; }}
        step check inner
        step pytest false
        step wheel echo built
        finish {log}
    """
    result = _bash(machine, script)
    assert result.returncode == 1
    assert "not reached" not in result.stdout
    assert result.stdout.startswith("built\n")
    assert "failed steps: check, pytest\n" in result.stdout
    assert result.stdout.splitlines()[-1] == "30 passed, 3 failed, 2 skipped"


def test_steps_without_a_failure_end_with_success(machine: Path, tmp_path: Path) -> None:
    result = _bash(machine, f'step a true; echo "3 passed in 0.10s" >{tmp_path}/log; finish {tmp_path}/log')
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"


def test_broken_off_run_counts_as_a_failure(machine: Path, tmp_path: Path) -> None:
    result = _bash(machine, f"step pytest false; finish {tmp_path}/log")
    assert result.stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--with", "abacus"],
        ["--only"],
        ["--only", "check,pytset"],
        ["--only=pytest"],
        ["tests/unit", "--without-soak"],
    ],
)
def test_wrong_arguments_of_test_are_refused_before_anything_is_made(arguments: list[str]) -> None:
    command = [str(_ROOT / "scripts/test"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2
    assert arguments[-1].rpartition(",")[2] in result.stderr
