"""Builds run in a child with limits of time and memory, which reports progress and never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from engines import BuildCancelled, BuildFailed
from engines.sandbox.child import ChildLimits, run_build
from tests.fixtures.deadlines import wait_until
from tests.fixtures.processes import is_alive

_AMPLE = ChildLimits(timeout_s=60, memory_bytes=2**40, free_bytes=0)

_CHILDREN = {
    "good": """
import json, sys, time
job = json.loads(sys.stdin.readline())
print("a library says hello")
print(json.dumps({"phase": "thinking", "ratio": 0.5}), flush=True)
time.sleep(0.1)
print(json.dumps({"result": {"answer": job["question"] * 2}}))
""",
    "sleeping": 'import sys, time\nprint(\'{"phase": "sleeping"}\', flush=True)\ntime.sleep(600)',
    "greedy": "import time\nballast = b'x' * (300 * 2**20)\ntime.sleep(600)",
    "failing": "import sys\nprint('no such layer', file=sys.stderr)\nsys.exit(1)",
    "crashing": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
    "silent": "pass",
    "deaf": "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    for name, body in _CHILDREN.items():
        (tmp_path / f"build_{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(
        name: str,
        *,
        limits: ChildLimits = _AMPLE,
        report: Callable[[str, float, float | None], None] = lambda *_: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, object]:
        return run_build(
            f"build_{name}",
            {"question": 21},
            what="the model",
            limits=limits,
            report=report,
            is_cancelled=is_cancelled,
        )

    return start


def test_the_child_s_result_and_progress_are_received(run: Callable[..., dict[str, object]]) -> None:
    heard: list[tuple[str, float | None]] = []
    result = run("good", report=lambda phase, elapsed_s, ratio: heard.append((phase, ratio)))
    assert result == {"answer": 42}
    assert set(heard) <= {("starting", None), ("thinking", 0.5)}
    assert heard


def test_elapsed_time_is_reported_while_the_child_is_silent(run: Callable[..., dict[str, object]]) -> None:
    heard: list[float] = []
    enough = threading.Event()

    def report(phase: str, elapsed_s: float, ratio: float | None) -> None:
        heard.append(elapsed_s)
        if len(heard) == 3:
            enough.set()

    with pytest.raises(BuildCancelled):
        run("sleeping", report=report, is_cancelled=enough.is_set)
    assert heard == sorted(heard)


@pytest.mark.parametrize(
    ("name", "words"),
    [("failing", "exit code 1.*no such layer"), ("crashing", "signal 11"), ("silent", "no output")],
)
def test_a_child_that_fails_is_reported_with_its_last_output(
    name: str, words: str, run: Callable[..., dict[str, object]]
) -> None:
    with pytest.raises(BuildFailed, match=words):
        run(name)


def test_a_child_that_takes_too_long_is_killed(run: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(BuildFailed, match=r"of time, but the limit is.*build_timeout_s"):
        run("sleeping", limits=ChildLimits(timeout_s=0.3, memory_bytes=2**40, free_bytes=0))


def test_a_child_that_closes_its_output_is_still_watched(run: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(BuildFailed, match="of time"):
        run("deaf", limits=ChildLimits(timeout_s=0.5, memory_bytes=2**40, free_bytes=0))


def test_a_child_that_uses_too_much_memory_is_killed(run: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(BuildFailed, match=r"of memory, but the limit is 200 MiB.*build_memory_mib"):
        run("greedy", limits=ChildLimits(timeout_s=60, memory_bytes=200 * 2**20, free_bytes=0))


def test_a_child_is_killed_before_the_system_runs_out_of_memory(run: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(BuildFailed, match="must stay free"):
        run("sleeping", limits=ChildLimits(timeout_s=60, memory_bytes=2**40, free_bytes=2**50))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("KeyError('layer')", r"exit code 70.*KeyError: 'layer'.*a bug in this program"),
        ("MemoryError()", r"exit code 1 .*MemoryError.*Choose another engine"),
    ],
)
def test_a_bug_in_this_program_is_told_apart_from_a_failed_job(
    error: str, words: str, run: Callable[..., dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "build_mistaken.py").write_text(
        f"from engines.sandbox.serve import exit_on_unexpected_error\nexit_on_unexpected_error()\nraise {error}\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    with pytest.raises(BuildFailed, match=words):
        run("mistaken")


def test_a_failure_inside_a_library_is_no_bug_in_this_program(
    run: Callable[..., dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "site-packages"
    library.mkdir()
    (library / "some_library.py").write_text("def load():\n    raise NotImplementedError('this operator')\n")
    (tmp_path / "build_library.py").write_text(
        "from engines.sandbox.serve import exit_on_unexpected_error\nimport some_library\n"
        "exit_on_unexpected_error()\nsome_library.load()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(library), str(Path.cwd())]))
    with pytest.raises(BuildFailed, match=r"exit code 1 .*NotImplementedError: this operator.*Choose another engine"):
        run("library")


_PARENT = """
import sys
from engines.sandbox.child import ChildLimits, run_build
run_build("slow_child", {}, what="m", limits=ChildLimits(timeout_s=600, memory_bytes=2**40, free_bytes=0),
          report=lambda phase, *_: print(phase, flush=True), is_cancelled=lambda: False)
"""


def test_the_real_child_dies_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent is killed by SIGKILL, so it cannot clean up."""
    slow = tmp_path / "slow_child.py"
    slow.write_text(
        "import time\nfrom engines.sandbox.serve import bind_to_parent\n"
        'bind_to_parent()\nprint(\'{"phase": "bound"}\', flush=True)\ntime.sleep(600)\n'
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with parent:
        assert parent.stdout is not None
        children: list[psutil.Process] = []
        for line in parent.stdout:
            children = psutil.Process(parent.pid).children()
            if line.strip() == b"bound":
                break
        parent.send_signal(signal.SIGKILL)
    assert children
    wait_until(lambda: not any(is_alive(child) for child in children))
