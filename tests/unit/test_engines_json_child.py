"""A child that answers in JSON lines: whole messages, separated from library output, and no child left behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from engines.probes import child as probes
from engines.probes.child import run_children
from engines.sandbox.json_child import JsonChild, signal_name
from engines.sandbox.serve import child_environ
from tests.fixtures.processes import is_alive

_SERVING = """
import os, threading
from engines.sandbox.serve import serve_parent
parent = serve_parent()
print("a library prints")
os.write(1, b"and writes to the descriptor\\n")
threads = [threading.Thread(target=lambda: [parent.say({"n": "x" * 5000}) for _ in range(20)]) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
parent.say({"result": {"twice": parent.job["number"] * 2}})
"""


def _run(code: str, **options: object) -> tuple[list[dict[str, object]], JsonChild]:
    heard: list[dict[str, object]] = []
    environ = {"PYTHONPATH": str(Path.cwd()), **child_environ()}
    command = [sys.executable, "-c", code]
    with JsonChild(command, on_message=heard.append, environ=environ, **options) as child:  # type: ignore[arg-type]  # job alone
        while child.read(5.0):
            assert child.elapsed_s < 60
    return heard, child


def test_a_child_gets_its_job_and_its_threads_send_whole_lines() -> None:
    heard, child = _run(_SERVING, job={"number": 21})
    assert heard[-1] == {"result": {"twice": 42}}
    assert heard[:-1] == [{"n": "x" * 5000}] * 80
    assert list(child.error_lines) == ["and writes to the descriptor", "a library prints"] or list(
        child.error_lines
    ) == ["a library prints", "and writes to the descriptor"]


def test_lines_that_are_no_object_are_kept_for_the_error_text() -> None:
    heard, child = _run("import sys\nprint('[1]')\nprint('7')\nprint('{\"a\": 1}')\nsys.exit('bad')")
    assert heard == [{"a": 1}]
    assert sorted(child.error_lines) == ["7", "[1]", "bad"]
    assert (child.exit_code, child.ending) == (1, "exit code 1")


def test_an_ending_by_a_signal_has_its_name() -> None:
    _, child = _run("import os\nos.kill(os.getpid(), 9)")
    assert (child.exit_code, child.ending) == (-9, "signal 9 (SIGKILL)")
    assert signal_name(200) == "signal 200"


def test_a_child_that_never_reads_its_job_is_no_error() -> None:
    heard, child = _run("import os\nos.close(0)\nprint('{}')", job={"number": 1})
    assert (heard, child.exit_code) == ([{}], 0)


def test_a_running_child_ends_with_the_block() -> None:
    with JsonChild([sys.executable, "-c", "import time\ntime.sleep(600)"], on_message=lambda _: None) as child:
        assert child.read(0.2)
        process = psutil.Process(child.pid)
    assert not process.is_running()
    child.close()


def test_a_probe_with_a_grandchild_that_holds_its_pipe_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving.py").write_text(
        "import json, subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'])\n"
        "print(json.dumps({'left': left.pid}))\n"
    )
    monkeypatch.setattr(probes, "_SCRIPTS", tmp_path)
    began_s = time.monotonic()
    (answer,) = run_children([("leaving",)], timeout_s=3)
    assert answer.failure is None
    assert time.monotonic() - began_s < 15
    os.kill(int(str(answer.values["left"])), 9)


_ECHO = (
    "import json, sys\nfor line in sys.stdin:\n"
    "    print(json.dumps({'got': json.loads(line)}), flush=True)\nsys.exit(3)"
)


def test_a_child_that_keeps_its_input_answers_each_message_and_ends_with_the_input() -> None:
    heard: list[dict[str, object]] = []
    with JsonChild([sys.executable, "-c", _ECHO], on_message=heard.append, keeps_input=True) as child:
        for number in range(3):
            child.send({"n": number})
            while len(heard) <= number:
                assert child.read(5.0)
        assert child.exit_code is None
        assert child.close(grace_s=30.0)
    assert heard == [{"got": {"n": number}} for number in range(3)]
    assert child.exit_code == 3, "it was killed although it had time to end"


def test_a_message_to_a_child_that_has_ended_is_a_broken_pipe() -> None:
    with JsonChild([sys.executable, "-c", ""], on_message=lambda _: None, keeps_input=True) as child:
        while child.read(5.0):
            assert child.elapsed_s < 60
        with pytest.raises(BrokenPipeError):
            child.send({})


@pytest.mark.parametrize("ends_first", [True, False])
def test_what_the_child_has_started_ends_with_its_group(ends_first: bool) -> None:
    code = (
        "import json, subprocess, time\n"
        "nothing = subprocess.DEVNULL\n"
        "left = subprocess.Popen(['sleep', '60'], stdin=nothing, stdout=nothing, stderr=nothing)\n"
        f"print(json.dumps({{'left': left.pid}}), flush=True)\ntime.sleep({0 if ends_first else 60})\n"
    )
    heard: list[dict[str, object]] = []
    with JsonChild([sys.executable, "-c", code], on_message=heard.append, ends_group=True) as child:
        while not heard or (ends_first and child.exit_code is None):
            child.read(0.1)
            assert child.elapsed_s < 60
        left = psutil.Process(int(str(heard[0]["left"])))
        assert left.is_running()
    # psutil's own wait: it is no child of this process, so its new parent reaps it.
    psutil.wait_procs([left], timeout=10)
    assert not is_alive(left)
    assert (child.exit_code, child.ending) == ((0, "exit code 0") if ends_first else (-9, "signal 9 (SIGKILL)"))


def test_a_line_without_an_end_takes_no_memory_without_an_end() -> None:
    code = "import sys\nfor _ in range(200):\n    sys.stdout.write('x' * 65536)\nprint()\nprint('{}')"
    heard, child = _run(code)
    assert heard == [{}]
    assert child.exit_code == 0
    assert sum(map(len, child.error_lines)) < 10_000
