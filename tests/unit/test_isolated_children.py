"""No child imports from the current directory, however it is started."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import module_command, script_command
from engines.sandbox.isolated import import_path

_ROOT = Path(__file__).resolve().parents[2]
_PLANTED = "import os, pathlib\npathlib.Path(__file__).with_name('RAN').touch()\nos._exit(99)\n"
_NAMES = (
    "onnx.py", "numpy.py", "onnxruntime.py", "cv2.py", "json.py", "runpy.py", "sitecustomize.py", "usercustomize.py",
    "pydantic.py", "click.py", "yaml.py", "jtop.py", "engines/__init__.py", "agent/__init__.py",
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, where a module of every name lies that the program imports."""
    folder = tmp_path / "hostile"
    for name in _NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_PLANTED)
    monkeypatch.chdir(folder)
    # As Python does for `python -m` and `python -c`.
    monkeypatch.syspath_prepend("")
    return folder


def _ran(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("RAN")]


def _output(command: list[str], **environ: str) -> str:
    environment = {**os.environ, **environ}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("environ", [{}, {"PYTHONPATH": ""}, {"PYTHONPATH": "."}, {"PYTHONPATH": f":{os.curdir}/:x"}])
def test_a_module_is_run_without_the_current_directory(
    hostile: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    command = module_command("engines.probes.import_child", "onnx")
    assert json.loads(_output(command, PYTHONPATH=str(hostile)))["version"]
    script = script_command(_ROOT / "engines/probes/import_child.py", "numpy")
    assert json.loads(_output(script, PYTHONPATH=str(hostile)))["version"]
    assert _ran(hostile) == []


def test_the_control_runs_what_lies_there(hostile: Path) -> None:
    assert subprocess.run([sys.executable, "-c", "import onnx"], check=False).returncode == 99
    assert _ran(hostile) != []


def test_the_path_keeps_a_program_that_is_in_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_ROOT)
    monkeypatch.setattr(sys, "path", ["", str(_ROOT), "relative", *sys.path])
    assert str(_ROOT) in import_path()
    assert not {"", ".", "relative"} & set(import_path())


def test_another_interpreter_finds_the_program_and_not_the_current_directory(hostile: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    venv.create(other, symlinks=True)
    python = str(other / "bin" / "python")
    module = tmp_path / "folder" / "where.py"
    module.parent.mkdir()
    module.write_text("import json, sys; print(json.dumps([sys.prefix, sys.path]))")
    prefix, path = json.loads(_output(script_command(module, python=python)))
    assert prefix == str(other)
    assert not {"", str(hostile), str(module.parent), str(_ROOT)} & set(path)
    assert json.loads(_output(module_command("engines.probes.import_child", "json", python=python)))["version"]
    assert _ran(hostile) == []


def test_another_interpreter_has_its_own_libraries_beside_an_installed_program(tmp_path: Path) -> None:
    """As installed from a wheel: the program lies in a site-packages with libraries of its own."""
    installed = tmp_path / "installed"
    for name in ("agent", "engines"):
        shutil.copytree(_ROOT / name, installed / name, ignore=shutil.ignore_patterns("__pycache__"))
    (installed / "onnx.py").write_text("__version__ = 'of the program'")
    venv.create(tmp_path / "other", symlinks=True)
    python = str(tmp_path / "other" / "bin" / "python")
    (folder,) = (tmp_path / "other" / "lib").glob("python*/site-packages")
    (folder / "onnx.py").write_text("__version__ = 'of the other'")
    ask = (
        "import sys; sys.path.insert(0, sys.argv[1]); from engines import module_command;"
        "import json; print(json.dumps(module_command('engines.probes.import_child', 'onnx', python=sys.argv[2])))"
    )
    command = json.loads(_output([sys.executable, "-c", ask, str(installed), python]))
    assert json.loads(_output(command))["version"] == "of the other"
    # A child of that child finds the program too.
    again = _output([python, "-I", "-c", _GRANDCHILD, str(installed)])
    assert json.loads(again)["version"] == "of the other"


_GRANDCHILD = """import runpy, subprocess, sys
sys.path.append(sys.argv[1])
from engines.sandbox.isolated import module_command
del sys.path[-1]
command = module_command("engines.probes.import_child", "onnx")
print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
"""

_START = """import sys
sys.path[:] = {path!r}
from agent.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("arguments", [["model", "check", str(_ROOT / "agent/demo/conveyor-1.0.0")], ["doctor"]])
def test_a_command_in_a_hostile_folder_runs_nothing_of_it(hostile: Path, tmp_path: Path, arguments: list[str]) -> None:
    """The installed program, whose own import path does not begin with the current directory."""
    start = _START.format(path=[str(_ROOT), *(one for one in sys.path if one)])
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path), "PYTHONPATH": "."}
    command = [sys.executable, "-I", "-c", start, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode in {0, 1}, done.stderr
    assert _ran(hostile) == []


def test_as_a_module_it_takes_no_library_from_the_current_directory(tmp_path: Path) -> None:
    """What Python imports before the program's first line cannot be helped: its own name, and the standard library."""
    for name in ("onnx.py", "numpy.py", "onnxruntime.py", "cv2.py", "paho.py", "rich.py"):
        (tmp_path / name).write_text(_PLANTED)
    command = [sys.executable, "-m", "agent", "model", "check", str(_ROOT / "agent/demo/conveyor-1.0.0")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert _ran(tmp_path) == []


def _starts(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            texts = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            attributes = [one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)]
            if "executable" in attributes or ("-m" in texts and len(node.elts) > 1):
                yield node.lineno


def test_python_is_started_in_no_other_way() -> None:
    """Every command line with this interpreter, or with -m, is made by engines/sandbox/isolated.py."""
    found = []
    for package in ("agent", "engines"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            if path.name != "isolated.py":
                found += [f"{path.relative_to(_ROOT)}:{line}" for line in _starts(ast.parse(path.read_text()))]
    assert found == []
    assert list(_starts(ast.parse("run([sys.executable, '-m', 'x'])"))) == [1]
    assert list(_starts(ast.parse("run([python, '-m', 'x'])"))) == [1]
