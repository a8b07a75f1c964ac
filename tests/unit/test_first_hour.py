"""scripts/dev/first-hour runs what the tutorial says, and fails where that fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.dev.first_hour import main, script_of, with_ports
from scripts.dev.markdown_blocks import blocks_of

_TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def _walk(tmp_path: Path, capfd: pytest.CaptureFixture[str], page: str, *options: str) -> tuple[int, str]:
    file = tmp_path / "page.md"
    file.write_text(page, encoding="utf-8")
    code = main(["--page", str(file), *options])
    out, _ = capfd.readouterr()
    return code, out


def _block(script: str, mark: str = "run") -> str:
    return f"<!-- {mark} -->\n```sh\n{script}\n```\n\n"


def test_blocks_share_one_shell_an_empty_home_and_the_files_that_a_reader_saves(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = (
        _block("cd ~ && ls -A && export WORD=kept\nsleep 600 &")
        + "<!-- file: a.yaml -->\n```yaml\nkey: it's\n```\n\n"
        + _block('cat a.yaml >&2; echo "$WORD" >&2; kill $(jobs -p)')
        + _block("echo never >&2; false", "board")
    )
    code, out = _walk(tmp_path, capfd, page)
    assert code == 0
    assert "key: it's" in out
    assert "kept" in out
    assert "never" not in out
    assert "the first hour: walked in" in out


@pytest.mark.parametrize("script", ["false", "false | true", "no-such-command", "echo $UNSET_NAME", "(exit 1)\ntrue"])
def test_a_block_that_fails_ends_the_walk(tmp_path: Path, capfd: pytest.CaptureFixture[str], script: str) -> None:
    code, out = _walk(tmp_path, capfd, _block(script) + _block("echo later >&2"))
    assert code == 1
    assert "later" not in out
    assert "the first hour: FAILED in" in out


@pytest.mark.parametrize(("exit_code", "expected"), [(0, 0), (1, 0), (2, 1)])
def test_only_where_the_page_says_so_exit_code_1_is_an_answer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], exit_code: int, expected: int
) -> None:
    page = _block(f"(exit {exit_code})", "run, exit code 0 or 1") + _block("true")
    assert _walk(tmp_path, capfd, page)[0] == expected


def test_what_needs_root_runs_only_as_root(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = _block("echo installed >&2", "elsewhere") + _block("true")
    assert "installed" not in _walk(tmp_path, capfd, page)[1]
    assert "installed" in _walk(tmp_path, capfd, page, "--as-root")[1]


def test_the_service_is_installed_only_where_the_caller_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = _block("echo model >&2") + _block("echo service >&2", "board") + _block("echo apt >&2", "elsewhere")
    for options in ((), ("--as-root",)):
        assert "service" not in _walk(tmp_path, capfd, page, *options)[1]
    code, out = _walk(tmp_path, capfd, page, "--on-this-machine")
    assert code == 0
    assert out.index("model") < out.index("service")
    assert "apt" not in out


def test_another_root_without_a_view_is_refused() -> None:
    script = Path(__file__).parents[2] / "scripts" / "dev" / "first-hour"
    done = subprocess.run([script, "--root", "/"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--root needs --service" in done.stderr


def test_a_page_without_blocks_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _walk(tmp_path, capfd, "# Nothing\n")
    assert caught.value.code == 2


def test_nothing_is_changed_in_a_block_but_the_ports() -> None:
    script = (
        "mosquitto_sub -t x\nagent demo --rtsp > log &\nagent watch mqtt://127.0.0.1:1883 # rtsp://h:8554/clip, 18830"
    )
    assert with_ports(script, {"1883": 2001, "8554": 2002}).splitlines() == [
        "mosquitto_sub -p 2001 -t x",
        "agent demo --rtsp --listen 127.0.0.1:2002 > log &",
        "agent watch mqtt://127.0.0.1:2001 # rtsp://h:2002/clip, 18830",
    ]


def test_the_tutorial_has_every_step() -> None:
    blocks = blocks_of(_TUTORIAL.read_text(encoding="utf-8"))
    script = script_of([block for block in blocks if block.what == "run" or block.file])
    steps = [
        "model import",
        "demo --rtsp",
        "config check",
        "doctor -c",
        "agent run",
        "agent watch",
        "event",
        "cmd/set",
    ]
    steps += ["cmd/explain", "agent verify", "agent benchmark", "cmd/reload"]
    assert [step for step in steps if step not in script] == []
    service = "".join(block.script for block in blocks if block.what == "board")
    on_device = ["cp -r models agent.yaml /etc/agent", "install-jetson", "doctor -c /etc/agent", "is-enabled", "event"]
    assert [step for step in on_device if step not in service] == []
