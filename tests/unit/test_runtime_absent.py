"""A library that is kept from loading an optional one, and everything else that still may."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from agent.runtime.absent import absent


def test_a_module_cannot_be_imported_within_the_block_alone() -> None:
    name = "this"  # of the standard library, and imported by nobody
    sys.modules.pop(name, None)
    with absent(name), pytest.raises(ImportError):
        importlib.import_module(name)
    assert name not in sys.modules


def test_the_module_is_free_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), absent("this"):
        raise ZeroDivisionError
    assert "this" not in sys.modules


def test_a_module_that_is_loaded_stays_loaded() -> None:
    with absent("json"):
        assert importlib.import_module("json") is sys.modules["json"]


def test_logs_load_no_rich_and_programs_that_want_it_still_do() -> None:
    code = (
        "import sys, agent.runtime.logs as logs\n"
        "print('rich' in sys.modules)\n"
        "import rich.console\n"
        "logs.configure(json=False)\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logs.get_logger('x').error('went.wrong', exc_info=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False"]
    assert "went.wrong" in done.stderr
    assert "ZeroDivisionError" in done.stderr
