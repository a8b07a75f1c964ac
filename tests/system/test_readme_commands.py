"""The README's commands work: those marked `run` are run, tests/unit/test_docs_blocks.py parses all.

docs/development.md explains the marks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.dev.markdown_blocks import SHELLS, Block, blocks_of
from tests.fixtures.agent_calls import agent_commands

_ROOT = Path(__file__).parents[2]
_README = _ROOT / "README.md"

# Making the demo's environment downloads packages the first time.
_RUN_LIMIT_S = 540
_END_LIMIT_S = 20


def _shell_blocks(markdown: str) -> list[Block]:
    return [block for block in blocks_of(markdown) if block.language in SHELLS]


def _params(*kinds: str) -> list[object]:
    # Without a README the one test that reads it fails, and not the collection of all tests.
    blocks = _shell_blocks(_README.read_text(encoding="utf-8")) if _README.exists() else []
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
    unmarked = [block.line for block in _shell_blocks(_README.read_text(encoding="utf-8")) if block.what == "unmarked"]
    assert not unmarked, f"write <!-- run -->, <!-- board --> or <!-- elsewhere --> above the blocks of {unmarked}"


@pytest.mark.timeout(_RUN_LIMIT_S + 2 * _END_LIMIT_S)
@pytest.mark.parametrize("block", _params("run"))
def test_command_of_the_readme_works(block: Block, environment: dict[str, str]) -> None:
    _run(block, environment)


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
    found = [(block.line, block.what, block.until, block.script) for block in _shell_blocks(_EXAMPLE)]
    assert found == [
        (5, "run", None, "true\n"),
        (11, "run", "ready", "agent run \\\necho two\n"),
        (22, "board", None, "sudo agent build --model x  # minutes\nsystemctl status agent\n"),
    ]


def test_block_without_a_mark_is_noticed() -> None:
    assert [block.what for block in _shell_blocks("text\n```sh\nrm x\n```\n")] == ["unmarked"]


def test_calls_of_the_agent_are_found_behind_sudo_and_over_lines() -> None:
    script = "sudo agent build --model x  # m\ncd agent\nagent run \\\n  -c f.yaml\nsystemctl status agent\n"
    assert list(agent_commands(script)) == [["build", "--model", "x"], ["run", "-c", "f.yaml"]]


@pytest.mark.parametrize(
    ("script", "until"),
    [("false\ntrue", None), ("echo early; sleep 0.1", "never"), ("trap '' INT; trap 'exit 3' EXIT; echo up", "up")],
)
def test_planted_failing_block_fails(script: str, until: str | None, environment: dict[str, str]) -> None:
    with pytest.raises(AssertionError):
        _run(Block(1, "sh", script, "run", until), environment)


def test_interrupted_block_that_ends_by_itself_passes(environment: dict[str, str]) -> None:
    script = "trap 'exit 0' INT\necho up\nwhile :; do sleep 0.1; done"
    _run(Block(1, "sh", script, "run", "up"), environment)
