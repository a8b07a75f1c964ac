"""The command line as people and systemd see it: real processes, their output and their exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import agent.cli
from agent.config.model import AgentConfig

GOOD = """\
version: 1
device: {id: line-3}
models:
  parts: {package: parts}
cameras:
  front:
    source: {type: pattern}
    classify: [{model: parts}]
"""

_NO_COMMANDS = ("console", "options", "signals")
"""Files of the folder that several commands share."""

SECRET = "correct-horse-battery"


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **env},
    )


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "model.yaml").touch()
    file = tmp_path / "agent.yaml"
    file.write_text(GOOD)
    return file


def test_help_lists_the_commands_and_ends_well() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    titles = ["Options", "Run and watch", "Prepare a device", "Models and engines"]
    assert re.findall(r"^(\w.*):$", result.stdout, re.MULTILINE) == titles
    listed = re.findall(r"^  (\w+) ", result.stdout[result.stdout.index("Run and watch:") :], re.MULTILINE)
    files = {path.stem for path in (Path(agent.cli.__file__).parent).glob("*.py")} - {"__init__", *_NO_COMMANDS}
    assert sorted(listed) == sorted(files)


@pytest.mark.parametrize("command", ["demo", "doctor", "build", "verify", "benchmark", "watch"])
def test_commands_that_print_figures_print_json_on_request(command: str) -> None:
    """The option never takes a value: what is written into files is named by --output."""
    text = run(command, "--help").stdout
    assert re.search(r"^  --json  +Print", text, re.MULTILINE), text


def test_version_is_one_line() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("agent, version ")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rum"], "there is no command 'rum'"),
        (["--nonsense"], "No such option"),
        (["config", "chekc"], "No such command"),
        (["config", "check"], "no file is given"),
        (["config", "schema", "--messages", "--asyncapi"], "give one of them"),
    ],
)
def test_wrong_usage_is_explained_with_exit_code_2(args: list[str], words: str) -> None:
    result = run(*args)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_good_configuration_is_printed_as_resolved(good: Path) -> None:
    result = run("config", "check", str(good))
    assert result.returncode == 0
    assert "stale_after_s: 10.0" in result.stdout
    assert f"parts: {good.parent / 'parts'}" in result.stdout
    assert result.stderr == ""


def test_the_same_as_json(good: Path) -> None:
    result = run("config", "check", "--json", str(good))
    data = json.loads(result.stdout)
    assert data["device"] == {"id": "line-3", "name": "line-3"}
    assert data["config"]["cameras"]["front"]["source"]["type"] == "pattern"
    assert AgentConfig.model_validate(data["config"]).models["parts"].engine == "auto"


def test_a_bad_configuration_ends_with_78_and_one_line_for_each_fault(good: Path) -> None:
    good.write_text(GOOD.replace("front", "FRONT").replace("version: 1", "version: 2"))
    result = run("config", "check", str(good))
    assert result.returncode == 78
    error, *faults = result.stderr.splitlines()
    assert error == f"error: {good} has 2 faults:"
    assert [fault.strip().split(": ")[0] for fault in faults] == [f"{good}:1", f"{good}:6"]
    assert result.stdout == ""


@pytest.mark.parametrize("option", ["threads: 999999999999", "thread: 4"])
def test_an_option_that_its_engine_refuses_ends_with_78_and_its_line(good: Path, option: str) -> None:
    good.write_text(GOOD.replace("{package: parts}", f"{{package: parts, engine: ort-cpu, options: {{{option}}}}}"))
    result = run("config", "check", str(good))
    assert result.returncode == 78
    name = option.split(":", maxsplit=1)[0]
    assert f"{good}:4: models.parts.options.{name}: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [("config", "check"), ("run", "-c"), ("doctor", "-c")], ids=lambda words: words[0])
def test_a_configuration_that_this_user_may_not_read_is_told_with_the_user(
    good: Path, command: tuple[str, str]
) -> None:
    good.chmod(0)
    agent = [sys.executable, "-m", "agent", *command, str(good)]
    if os.geteuid() == 0:  # it reads every file, but for this right
        if shutil.which("setpriv") is None:
            pytest.skip("root reads every file, and there is no setpriv to take that from it")
        agent = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *agent]
    result = subprocess.run(agent, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 78
    told = " ".join((result.stdout + result.stderr).split())
    assert f"{good} cannot be read: Permission denied; give user number {os.geteuid()}" in told


def test_a_folder_in_place_of_the_configuration_ends_with_78(good: Path) -> None:
    result = run("run", "-c", str(good.parent))
    assert result.returncode == 78
    assert "is not a file; give the path of a configuration file" in result.stderr


def test_warnings_go_to_stderr_and_leave_the_exit_code_alone(good: Path) -> None:
    good.write_text(GOOD.replace("models:\n", "models:\n  spare: {package: parts}\n"))
    result = run("config", "check", str(good))
    assert result.returncode == 0
    assert result.stderr.startswith(f"warning: {good}:4: models.spare: ")


def test_no_secret_is_printed(good: Path) -> None:
    (good.parent / "pw").write_text(SECRET)
    (good.parent / "pw").chmod(0o600)
    good.write_text(GOOD + "mqtt: {username: u, password_file: pw}\n")
    for args in (["config", "check", str(good)], ["config", "check", "--json", str(good)]):
        result = run(*args)
        assert result.returncode == 0
        assert SECRET not in result.stdout + result.stderr
        assert "mqtt" in result.stdout
    url = f"rtsp://10.0.0.21/live?user=admin&password={SECRET}"
    good.write_text(GOOD.replace("{type: pattern}", f"{{type: rtsp, url: '{url}'}}"))
    for args in (["config", "check", str(good)], ["config", "check", "--json", str(good)]):
        result = run(*args)
        assert "rtsp://10.0.0.21:554/#" in result.stdout
        assert SECRET not in result.stdout + result.stderr
        assert "the url seems to hold a password" in result.stdout + result.stderr


def test_the_schema_is_json_and_describes_every_key_of_the_file() -> None:
    schema = json.loads(run("config", "schema").stdout)
    assert set(schema["properties"]) == set(AgentConfig.model_fields)
    assert schema["$defs"]["DecideConfig"]["properties"]["enter"]["description"]


@pytest.mark.parametrize(("option", "key"), [("--messages", "result/1"), ("--asyncapi", "asyncapi")])
def test_the_schemas_of_the_messages_are_json(option: str, key: str) -> None:
    result = run("config", "schema", option)
    assert result.returncode == 0, result.stderr
    assert key in json.loads(result.stdout)


def test_looking_at_a_configuration_loads_no_heavy_library(good: Path) -> None:
    code = (
        "import sys; from agent.__main__ import main; code = main(['config', 'check', sys.argv[1]]);"
        "heavy = {'numpy', 'cv2', 'onnx', 'onnxruntime', 'paho', 'structlog', 'torch'} & set(sys.modules);"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy or code else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(good)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_reader_that_goes_away_is_no_error(good: Path) -> None:
    command = [sys.executable, "-m", "agent", "config", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""


def run_in_shell(redirections: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = 'exec "$0" -m agent "$@" ' + redirections
    return subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, *args], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("args", "exit_code"), [(["config", "schema"], 0), (["nothing"], 2)])
def test_a_closed_standard_stream_leaves_the_exit_code_alone(closed: str, args: list[str], exit_code: int) -> None:
    result = run_in_shell(closed, *args)
    assert result.returncode == exit_code
    assert ("there is no command" in result.stderr) == (exit_code == 2 and "2>" not in closed)
    assert "internal" not in result.stderr


@pytest.mark.parametrize("args", [["config", "schema"], ["--help"], ["--version"]])
def test_output_that_finds_no_room_ends_with_69_and_one_message(args: list[str]) -> None:
    result = run_in_shell(">/dev/full", *args)
    assert result.returncode == 69
    (line,) = result.stderr.splitlines()
    assert "the output cannot be written: No space left on device" in line


@pytest.mark.parametrize(
    ("redirections", "args", "exit_code"),
    [
        ("2>/dev/full", ["nothing"], 2),
        ("2>/dev/full", ["config", "check", "missing.yaml"], 78),
        (">/dev/full 2>/dev/full", ["config", "schema"], 69),
    ],
)
def test_a_message_that_cannot_be_written_leaves_the_exit_code_alone(
    redirections: str, args: list[str], exit_code: int
) -> None:
    assert run_in_shell(redirections, *args).returncode == exit_code


def main_of(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """The program with one more command, ``boom``, whose body is ``code``."""
    text = (
        "import sys, types, click, agent.cli, agent.runtime.errors, engines.errors\n"
        "from agent.__main__ import main\n"
        "@click.command()\n"
        f"def boom():\n    {code}\n"
        "module = types.ModuleType('agent.cli.boom'); module.boom = boom\n"
        "module.__spec__ = __import__('importlib.machinery').machinery.ModuleSpec('agent.cli.boom', None)\n"
        "sys.modules['agent.cli.boom'] = module; agent.cli.COMMANDS['boom'] = 'Fails.'\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", text, *args, "boom"], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("raise agent.runtime.errors.ConfigError('a.yaml:1: x')", 78, "error: a.yaml:1: x\n"),
        ("raise agent.runtime.errors.BrokerUnavailable('no broker')", 69, "error: no broker\n"),
        ("raise engines.errors.ModelRejected('wrong shape')", 78, "error: wrong shape\n"),
        ("raise engines.errors.EngineUnavailable('no GPU')", 69, "error: no GPU\n"),
        ("return 1", 1, ""),
        ("return None", 0, ""),
        ("raise KeyboardInterrupt", 130, ""),
        ("raise ValueError('at rtsp://u:p@h/')", 70, "error: internal error, ValueError: at rtsp://***@h/\n"),
    ],
)
def test_each_family_of_errors_has_its_exit_code_and_one_message(code: str, exit_code: int, words: str) -> None:
    result = main_of(code, "--log-format", "text")
    assert result.returncode == exit_code
    if exit_code != 70:
        assert result.stderr == words
    else:
        assert result.stderr.startswith(words)


def test_an_internal_error_shows_where_only_when_asked() -> None:
    assert "in boom" in main_of("raise ValueError('x')", "--debug").stderr
    journal = main_of("raise ValueError('x')", "--log-format", "json").stderr.splitlines()
    assert json.loads(journal[-1])["event"] == "agent.crashed"
    assert not any(line.startswith("Traceback") for line in journal)
