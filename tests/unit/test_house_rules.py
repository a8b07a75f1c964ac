"""scripts/check and scripts/dev/house_rules.py catch what they are for: every rule has a planted breach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

_CLEAN = {
    "agent/__init__.py": '"""The program."""\n',
    "agent/app.py": '"""Puts it together."""\n',
    "agent/runtime/errors.py": '"""Errors."""\n\nimport engines.base\n\nNAMES = [engines.base.__name__]\n',
    "engines/__init__.py": '"""The engines."""\n',
    "engines/base.py": '"""The seam."""\n\nprint("seam")  # noqa: T201 - the reason\n',
    "tests/unit/test_errors.py": '"""Tests."""\n\nimport pytest\n\npytest.importorskip("x", reason="x is not here")\n',
}

# What is planted: the file, its text, and what the breach must say. Joined strings keep this file itself clean.
_BREACHES = {
    "engines import agent": (
        "engines/x.py",
        "def f():\n    from agent.runtime.errors import E\n",
        "x.py:2: engines.x imports agent.runtime.errors: agent.runtime stands above it",
    ),
    "a room above": ("agent/publish/x.py", "from ..cli import run\n", "agent.publish.x imports agent.cli"),
    "app below the command line": ("agent/mqtt/x.py", "import agent.app\n", "agent.mqtt.x imports agent.app"),
    "a neighbour": ("agent/thermal/x.py", "from agent.publish import y\n", "agent.publish stands beside it"),
    "only for types": (
        "agent/config/x.py",
        "if TYPE_CHECKING:\n    from agent.mqtt import y\n",
        "x.py:2: agent.config.x imports agent.mqtt",
    ),
    "a word of its authors": ("agent/x.py", '"""Read an' + 'ew."""\n', "x.py:1: 'an" + "ew': docs/glossary.md"),
    "a name of its authors": ("agent/x.py", "MOS" + "T_BYTES = 1\n", "x.py:1: 'MOS" + "T_BYTES'"),
    "bare except": ("agent/x.py", "try:\n    pass\nexcept:\n    pass\n" * 3, "3 broad excepts"),
    "except among others": ("agent/x.py", "try:\n    1\nexcept (OSError, Exception):\n    2\n" * 3, "3 broad excepts"),
    "suppressed": ("engines/x.py", "with contextlib.suppress(Exception):\n    1\n" * 3, "3 broad excepts"),
    "long module": ("agent/x.py", "A = 1\n" * 801, "x.py:1: 801 lines, 800 are allowed"),
    "long test module": ("tests/test_x.py", "A = 1\n" * 801, "test_x.py:1: 801 lines, 800 are allowed"),
    "long function": ("engines/x.py", "def f():\n" + "    a = 1\n" * 50, "x.py:1: f has 51 lines"),
    "long method": ("engines/x.py", "class C:\n  def f(self):\n" + "    a = 1\n" * 50, "x.py:2: f has 51 lines"),
    "vague name": ("agent/utils.py", "", "utils.py:1: the name says nothing"),
    "type ignored whole": ("agent/x.py", "a = 1  # type: " + "ignore\n", "x.py:1: `type: ignore` names no rule"),
    "type ignored, why": ("agent/x.py", "a = 1  # type: " + "ignore[misc]\n", "`type: ignore` without a reason"),
    "lint off": ("agent/x.py", "a = 1  # no" + "qa\n", "x.py:1: `noqa` names no rule"),
    "lint off, why": ("agent/x.py", "a = 1  # no" + "qa: E501, F401\n", "`noqa` without a reason"),
    "skip": ("tests/test_x.py", "pytest.skip()\n", "test_x.py:1: a test is left out without a reason"),
    "skip mark": ("tests/test_x.py", "@pytest.mark.skip\ndef test_x(): pass\n", "x.py:1: a test is left out"),
    "skipif mark": ("tests/test_x.py", "m = pytest.mark.skipif(True)\n", "x.py:1: a test is left out"),
    "xfail mark": ("tests/test_x.py", "@pytest.mark.xfail()\ndef test_x(): pass\n", "x.py:1: a test is left out"),
    "import or skip": ("tests/test_x.py", "pytest.importorskip('x')\n", "x.py:1: a test is left out"),
    "home": (
        "docs/x.md",
        "see /ho" + "me/jane/model.onnx\n",
        "docs/x.md:1: a path of one machine, '/ho" + "me/jane/'",
    ),
    "root's home": ("configs/x.yaml", "a: 1\nmodel: /ro" + "ot/model\n", "x.yaml:2: a path of one machine"),
    "a name that anybody may take": (
        "docs/x.md",
        "pip install edge-inference-ag" + "ent[serve]\n",
        "docs/x.md:1: a package that no index has",
    ),
    "index option": ("scripts/x", "pip install --extra-ind" + "ex-url y\n", "x:1: an address of a package index"),
    "index address": (
        "README.md",
        "from https://example.org/sim" + "ple/\n",
        "README.md:1: an address of a package index",
    ),
}


def _plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _house_rules(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "scripts/dev/house_rules.py"), *options, str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_clean_tree_has_no_breach(tmp_path: Path) -> None:
    _plant(tmp_path, _CLEAN)
    result = _house_rules(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("breach", _BREACHES)
def test_planted_breach_is_named_with_its_file(breach: str, tmp_path: Path) -> None:
    name, text, message = _BREACHES[breach]
    _plant(tmp_path, {**_CLEAN, name: text})
    result = _house_rules(tmp_path)
    assert result.returncode == 1, result.stderr
    assert message in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_a_circle_of_imports_is_named_in_the_check_and_in_the_structure(tmp_path: Path) -> None:
    circle = {
        "agent/runtime/a.py": "import agent.runtime.b\n",
        "agent/runtime/b.py": "def f():\n    from agent.runtime.a import g\n",
    }
    _plant(tmp_path, {**_CLEAN, **circle})
    result = _house_rules(tmp_path)
    assert result.returncode == 1
    assert "a circle of imports, agent.runtime.a > agent.runtime.b" in result.stdout
    shown = _house_rules(tmp_path, "--structure")
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (1, "1 circles of imports")


def test_the_structure_counts_the_files_of_each_room(tmp_path: Path) -> None:
    _plant(tmp_path, _CLEAN)
    result = _house_rules(tmp_path, "--structure")
    rooms = {line.split()[0]: int(line.split()[1]) for line in result.stdout.splitlines() if " files " in line}
    assert (result.returncode, rooms) == (0, {"agent": 2, "agent/runtime": 1, "engines": 2})


def test_a_long_module_is_a_warning_before_it_is_a_breach(tmp_path: Path) -> None:
    _plant(tmp_path, {**_CLEAN, "agent/x.py": "A = 1\n" * 451})
    result = _house_rules(tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    assert "agent/x.py:1: 451 lines" in result.stderr


def test_files_that_git_ignores_are_not_read(tmp_path: Path) -> None:
    _plant(tmp_path, {".gitignore": "/secret.md\n", "secret.md": "/ro" + "ot/x\n", "read.md": "/ro" + "ot/y\n"})
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    result = _house_rules(tmp_path)
    assert result.stdout.startswith("read.md:1")
    assert "secret" not in result.stdout


def _check(root: Path) -> subprocess.CompletedProcess[str]:
    shutil.copytree(_ROOT / "scripts/lib", root / "scripts/lib")
    for name in ("scripts/check", "scripts/dev/house_rules.py", "pyproject.toml"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(_ROOT / name, root / name)
    command = [str(root / "scripts/check"), "--python", sys.executable]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=False)


def test_check_passes_a_clean_tree(tmp_path: Path) -> None:
    _plant(tmp_path, _CLEAN)
    result = _check(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_check_fails_and_runs_every_tool_though_the_first_has_failed(tmp_path: Path) -> None:
    mistakes = {
        "agent/x.py": "import os\n\n\ndef half(number: int) -> int:\n    return number / 2\n",
        "agent/y.py": "A = [ 1 ]\n",
        "agent/utils.py": "",
        "scripts/broken": "#!/usr/bin/env bash\nif true; then\n",
    }
    _plant(tmp_path, {**_CLEAN, **mistakes})
    result = _check(tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "FAILED: ruff lint, ruff format, mypy, house rules, shell syntax"
    assert "`os` imported but unused" in result.stdout
