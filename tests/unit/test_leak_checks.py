"""The leak checks of tests/conftest.py catch what they are for: each planted leak fails its test by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_CONFTEST = Path(__file__).parents[1] / "conftest.py"

_PRELUDE = """\
import os, socket, subprocess, sys, threading, time
import pytest
kept = []
"""

_LEAKS = {
    "thread": (
        """\
def test_planted():
    stop = threading.Event()
    kept.append(stop)
    threading.Thread(target=stop.wait, args=(30,), name="forgotten", daemon=True).start()
""",
        "thread 'forgotten' (daemon)",
    ),
    "descriptor": (
        """\
def test_planted():
    kept.append(os.open("/dev/null", os.O_RDONLY))
""",
        "-> /dev/null",
    ),
    "socket": (
        """\
def test_planted():
    kept.append(socket.socket())
""",
        "-> socket:",
    ),
    "child": (
        """\
def test_planted():
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]))
""",
        "time.sleep(30)",
    ),
    "zombie": (
        """\
def test_planted():
    kept.append(subprocess.Popen([sys.executable, "-c", "pass"]))
    os.waitid(os.P_PID, kept[0].pid, os.WEXITED | os.WNOWAIT)
""",
        "ended but never waited for",
    ),
    "thread_exception": (
        """\
def test_planted():
    thread = threading.Thread(target=lambda: 1 / 0, name="doomed")
    thread.start()
    thread.join()
""",
        "exception nobody caught in thread 'doomed'",
    ),
    "finaliser_exception": (
        """\
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        raise RuntimeError("died in its finaliser")

def test_planted():
    Cycle()
""",
        "died in its finaliser",
    ),
}

_FIXTURE_LEAK = """\
@pytest.fixture(scope="module")
def broken_fixture():
    return os.open("/dev/null", os.O_RDONLY)

def test_planted(broken_fixture):
    assert broken_fixture > 2
"""

_CLEAN = """\
@pytest.fixture(scope="module")
def child_of_the_module():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.communicate(b"\\n")

def test_uses_and_returns_everything(child_of_the_module, tmp_path):
    thread = threading.Thread(target=time.sleep, args=(0.01,))
    thread.start()
    thread.join()
    (tmp_path / "f").write_text("x")
    subprocess.run([sys.executable, "-c", "pass"], check=True)

def test_expects_a_dying_thread(swallowed_exceptions):
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert "ZeroDivisionError" in swallowed_exceptions.pop()
"""


def _run_suite(folder: Path, sources: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run pytest on one file for each source, beside a copy of the real conftest.py."""
    shutil.copy(_CONFTEST, folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    for name, source in sources.items():
        (folder / f"test_{name}.py").write_text(_PRELUDE + source, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_CONFTEST.parents[1])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest printed about all planted leaks, in one run."""
    result = _run_suite(tmp_path_factory.mktemp("planted"), {name: source for name, (source, _) in _LEAKS.items()})
    assert result.returncode == 1, result.stdout + result.stderr
    # Where CI is set, the summary repeats every message.
    return result.stdout.partition("short test summary info")[0]


@pytest.mark.parametrize("leak", _LEAKS)
def test_planted_leak_fails_the_test_that_made_it(leak: str, report: str) -> None:
    heading = f"test_{leak}.py::test_planted left behind:\n"
    assert report.count(heading) == 1
    message = report.partition(heading)[2].partition("____")[0]
    assert _LEAKS[leak][1] in message


def test_leak_of_a_wider_fixture_fails_the_session(tmp_path: Path) -> None:
    result = _run_suite(tmp_path, {"fixture": _FIXTURE_LEAK})
    assert result.returncode == 1, result.stdout + result.stderr
    assert "fixtures of module or session scope left behind:\n  file descriptor" in result.stdout


def test_test_that_returns_everything_passes(tmp_path: Path) -> None:
    result = _run_suite(tmp_path, {"clean": _CLEAN})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout
