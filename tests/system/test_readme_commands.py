"""The README's commands work: those marked `run` are run, the others are compared with the commands that exist.

docs/development.md explains the marks.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_README = _ROOT / "README.md"

# Making the demo's environment downloads packages the first time.
_RUN_LIMIT_S = 540
_END_LIMIT_S = 20

_FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<what>run|board|elsewhere)(?: until \"(?P<until>[^\"]+)\")? -->\s*$")

_BEFORE_A_COMMAND = re.compile(r"^\s*(?:sudo |[A-Z_]+=\S* )*")


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of one fenced block.

    Attributes:
        line: where its commands start, 1 is the first line
        what: run | board | elsewhere | unmarked
        until: text that the commands print before they are interrupted; None where they end by themselves
        script: the commands alone, without prompts and output
    """

    line: int
    what: str
    until: str | None
    script: str


def blocks_of(markdown: str) -> list[Block]:
    """All blocks of commands in a Markdown text."""
    blocks = []
    for fence in _FENCE.finditer(markdown):
        if fence["language"] not in {"sh", "bash", "shell", "console"}:
            continue
        line = markdown.count("\n", 0, fence.start()) + 2
        mark = _MARK.search(markdown[: fence.start()])
        body = fence["body"]
        if fence["language"] == "console":
            body = "".join(part[2:] + "\n" for part in body.splitlines() if part.startswith("$ "))
        what, until = (mark["what"], mark["until"]) if mark else ("unmarked", None)
        blocks.append(Block(line, what, until, body))
    return blocks


def _params(*kinds: str) -> list[object]:
    # Without a README the one test that reads it fails, and not the collection of all tests.
    blocks = blocks_of(_README.read_text(encoding="utf-8")) if _README.exists() else []
    return [pytest.param(block, id=f"line{block.line}") for block in blocks if block.what in kinds]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """As in a new terminal of a user who has nothing yet, with the agent of this environment on PATH."""
    home = Path.home()
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHON"} and not name.startswith(("XDG_", "PYTEST_", "COV_"))
    }
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
    # pip may reuse what it has downloaded, and needs the user's settings to reach an index.
    variables.setdefault("PIP_CACHE_DIR", str(home / ".cache/pip"))
    settings = home / ".config/pip/pip.conf"
    if settings.exists():
        variables.setdefault("PIP_CONFIG_FILE", str(settings))
    variables["HOME"] = str(tmp_path)
    return variables


@contextmanager
def _running(script: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The script in a process group of its own, of which nothing is left at the end."""
    process = subprocess.Popen(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    # Reading ends when the group is killed, so a silent command cannot hold the test.
    watch = threading.Timer(_RUN_LIMIT_S, _kill_group, args=(process.pid,))
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        watch.join()
        _kill_group(process.pid)
        process.communicate(timeout=_END_LIMIT_S)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _run(block: Block, environment: dict[str, str]) -> None:
    """Run a block to its end, or until it prints what is expected and obeys an interrupt."""
    with _running(block.script, environment) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if block.until and block.until in line:
                os.killpg(process.pid, signal.SIGINT)
                rest, _ = process.communicate(timeout=_END_LIMIT_S)
                assert process.returncode in {0, 130, -signal.SIGINT}, "".join(seen[-50:]) + rest
                return
        assert block.until is None, f"{block.until!r} was never printed:\n{''.join(seen[-50:])}"
        assert process.wait(timeout=_END_LIMIT_S) == 0, "".join(seen[-50:])


def test_every_block_of_the_readme_says_where_it_works() -> None:
    unmarked = [block.line for block in blocks_of(_README.read_text(encoding="utf-8")) if block.what == "unmarked"]
    assert not unmarked, f"write <!-- run -->, <!-- board --> or <!-- elsewhere --> above the blocks of {unmarked}"


@pytest.mark.timeout(_RUN_LIMIT_S + 2 * _END_LIMIT_S)
@pytest.mark.parametrize("block", _params("run"))
def test_command_of_the_readme_works(block: Block, environment: dict[str, str]) -> None:
    _run(block, environment)


@pytest.mark.parametrize("block", _params("board", "elsewhere"))
def test_command_for_a_board_exists(block: Block, environment: dict[str, str]) -> None:
    subprocess.run(["bash", "-n", "-c", block.script], check=True)
    for command in agent_commands(block.script):
        _assert_known(command, environment)


def agent_commands(script: str) -> list[list[str]]:
    """The calls of the agent in a script, each as the words behind `agent`."""
    joined = script.replace("\\\n", " ")
    calls = (shlex.split(_BEFORE_A_COMMAND.sub("", line), comments=True) for line in joined.splitlines())
    return [words[1:] for words in calls if words[:1] == ["agent"]]


def _assert_known(words: list[str], environment: dict[str, str]) -> None:
    """`agent` has this command, and the command all these options."""
    names = list(words)
    for index, word in enumerate(words):
        if not re.fullmatch(r"[a-z]+", word):
            names = words[:index]
            break
    while True:
        answer = subprocess.run(
            ["agent", *names, "--help"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if answer.returncode == 0 or not names:
            break
        names.pop()  # the last word may be an argument and no command
    assert names or not words or words[0].startswith("-"), f"agent has no command {words[0]!r}"
    missing = [word for word in words if word.startswith("--") and word.partition("=")[0] not in answer.stdout]
    assert not missing, f"agent {' '.join(names)} has no option {missing}"


_EXAMPLE = """\
# Title

<!-- run -->
```sh
true
```

<!-- run until "ready" -->

```console
$ agent run \\
not joined: output
$ echo two
output
```

```yaml
a: 1
```
<!-- board -->
```bash
sudo agent build --model x  # minutes
systemctl status agent
```
"""


def test_blocks_are_found_with_their_marks_and_without_output() -> None:
    assert blocks_of(_EXAMPLE) == [
        Block(5, "run", None, "true\n"),
        Block(11, "run", "ready", "agent run \\\necho two\n"),
        Block(22, "board", None, "sudo agent build --model x  # minutes\nsystemctl status agent\n"),
    ]


def test_block_without_a_mark_is_noticed() -> None:
    assert blocks_of("text\n```sh\nrm x\n```\n") == [Block(3, "unmarked", None, "rm x\n")]


def test_calls_of_the_agent_are_found_behind_sudo_and_over_lines() -> None:
    script = "sudo agent build --model x  # m\ncd agent\nagent run \\\n  -c f.yaml\nsystemctl status agent\n"
    assert agent_commands(script) == [["build", "--model", "x"], ["run", "-c", "f.yaml"]]


@pytest.mark.parametrize(
    ("script", "until"),
    [("false\ntrue", None), ("echo early; sleep 0.1", "never"), ("trap '' INT; trap 'exit 3' EXIT; echo up", "up")],
)
def test_planted_failing_block_fails(script: str, until: str | None, environment: dict[str, str]) -> None:
    with pytest.raises(AssertionError):
        _run(Block(1, "run", until, script), environment)


def test_interrupted_block_that_ends_by_itself_passes(environment: dict[str, str]) -> None:
    _run(Block(1, "run", "up", "trap 'exit 0' INT\necho up\nwhile :; do sleep 0.1; done"), environment)


def test_unknown_command_or_option_is_noticed(environment: dict[str, str]) -> None:
    assert shutil.which("agent", path=environment["PATH"]), "the agent is not installed in this environment"
    with pytest.raises(AssertionError, match="agent has no command 'fly'"):
        _assert_known(["fly", "--high"], environment)
    with pytest.raises(AssertionError, match="no option"):
        _assert_known(["config", "check", "--no-such-option"], environment)
