"""Command lines that start Python with nothing of the current directory on its import path.

``python -m module`` imports from the current directory first: an ``onnx.py`` that lies there would run. So children
are started with ``-I`` (no current directory, no environment, no user's folder) and are given this process's own
import path, without the current directory. ``-P`` would need Python 3.11.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_PROGRAM = Path(__file__).resolve().parents[2]
_SETUP = "import runpy, sys; sys.path[:] = {path}; "
# The program's folder is never put on the path of another interpreter: an installed program lies in site-packages,
# beside libraries that would replace those of that interpreter.
_FINDER = (
    "import importlib.machinery; "
    "sys.meta_path.insert(0, type('Program', (), {{'find_spec': staticmethod(lambda name, path=None, target=None: "
    "importlib.machinery.PathFinder.find_spec(name, [{program!r}]) if name in ('agent', 'engines') else None)}})); "
)
_MODULE = _SETUP + _FINDER + "runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
_SCRIPT = _SETUP + "sys.argv[0] = {name!r}; runpy.run_path({name!r}, run_name='__main__')"


def module_command(module: str, *arguments: str, python: str | None = None) -> list[str]:
    """``python -m module arguments``, isolated.

    The packages of this program come from its own folder. Another interpreter than this one (``python``) has all
    other libraries from its own path.
    """
    return _command(_MODULE, module, arguments, python)


def script_command(script: Path, *arguments: str, python: str | None = None) -> list[str]:
    """``python script arguments``, isolated; the script's own folder is not on the path either.

    Another interpreter than this one (``python``) keeps its own path.
    """
    return _command(_SCRIPT, str(script), arguments, python)


def import_path() -> list[str]:
    """This process's import path without the current directory, and before it the absolute part of ``PYTHONPATH``.

    The current directory stays if it is where this program is, as in a checkout.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys(_safe([*given, *sys.path])))


def _safe(entries: list[str]) -> Iterator[str]:
    for entry in entries:
        # Relative ones, and the empty one, are below the current directory.
        if Path(entry).is_absolute() and (not _is_here(entry) or Path(entry).resolve() == _PROGRAM):
            yield entry


def _is_here(entry: str) -> bool:
    try:
        return Path(entry).samefile(os.curdir)
    except OSError:
        return False


def _command(code: str, name: str, arguments: tuple[str, ...], python: str | None) -> list[str]:
    if python is None or python == sys.executable:
        path = repr(import_path())
    else:
        given = _safe(os.environ.get("PYTHONPATH", "").split(os.pathsep))
        path = f"{[*given]!r} + sys.path"
    text = code.format(path=path, name=name, program=str(_PROGRAM))
    flags = ["-B"] if sys.dont_write_bytecode else []
    return [python or sys.executable, "-I", "-u", *flags, "-c", text, *arguments]
