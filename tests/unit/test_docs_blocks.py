"""Every fenced block of the documentation is parsed by what it is meant for: a shell, the agent's parser, a schema.

The README's commands are also run (tests/system/test_readme_commands.py), those of the tutorial by
scripts/dev/first-hour.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
import yaml

import engines
from agent.commands.requests import REQUESTS
from agent.commands.schemas import message_schemas
from agent.config.loader import load_config
from agent.config.model import AgentConfig, CameraConfig, ClassifierConfig
from agent.config.sections.decide import DecideConfig
from agent.runtime.errors import ConfigError
from engines.package.manifest import Manifest, parse_manifest
from scripts.dev.markdown_blocks import SHELLS, Block, blocks_of
from tests.fixtures.agent_calls import agent_commands, fault_of_call

_ROOT = Path(__file__).parents[2]
_PAGES = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")])
# Written from the commands' own usage lines, and compared with them by a test.
_GENERATED = _ROOT / "docs" / "commands.md"
_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`((?:sudo )?(?:[\w./]*/)?agent (?:[^`\n]|\n(?!\n))+)`(?!`)")
_SUBSTITUTION = re.compile(r"\$\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
"""A command or an arithmetic expression whose text the shell puts there, such as ``$(date +%s)``."""
_SCRIPT = re.compile(r"(?<![\w/.-])(?:\./)?(scripts/[\w./-]+)")

_BASE: dict[str, Any] = {
    "version": 1,
    "models": {"inspect": {"package": "demo"}},
    "cameras": {"front": {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}},
    "mqtt": {"broker": "mqtt://broker.example"},
}
_MANIFEST: dict[str, Any] = {
    "name": "part",
    "version": "1.0.0",
    "file": "model.onnx",
    "sha256": "0" * 64,
    "input": {"width": 8, "height": 8, "color": "rgb", "resize": "stretch"},
    "output": {"activation": "softmax"},
    "labels": {"file": "labels.txt"},
}


def _cases() -> list[object]:
    return [
        pytest.param(page, block, id=f"{page.relative_to(_ROOT)}:{block.line}")
        for page in _PAGES
        for block in blocks_of(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("page", "block"), _cases())
def test_every_block_is_what_it_says(page: Path, block: Block) -> None:
    if page != _GENERATED:
        assert fault_of(block) is None


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_call_of_the_agent_in_prose_exists(page: Path) -> None:
    assert faults_in_prose(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_code_stands_in_fences_which_say_what_it_is(page: Path) -> None:
    assert indented_code(page.read_text(encoding="utf-8")) == []


def indented_code(text: str) -> list[str]:
    """Blocks of code that are only indented, which nothing here could check."""
    return re.findall(r"(?:\A|\n\n)((?: {4}\S.*\n?)+)", _FENCED.sub("", text))


def faults_in_prose(text: str) -> list[str]:
    """What is wrong with the calls in backticks; a call of which only the beginning stands there is one too."""
    calls = [call for span in _SPAN.findall(_FENCED.sub("", text)) for call in agent_commands(" ".join(span.split()))]
    # `agent ...` stands for any command.
    given = [[word for word in call if word != "..."] for call in calls]
    return [fault for call in given if call and (fault := fault_of_call(call, is_whole=False))]


def fault_of(block: Block) -> str | None:
    """What is wrong with a block; None if nothing is. A language that nothing here can read is a fault."""
    check = _CHECKS.get(block.language)
    if check is None:
        return f"there is no check for blocks of {block.language!r}; write one in _CHECKS, or give it another language"
    return check(block)


def _of_text(block: Block) -> str | None:
    commands = re.findall(r"^(?:\$ .*|(?:\./)?scripts/\w[^\s:]*(?: --.*)?|(?:sudo )?agent [a-z].*)$", block.body, re.M)
    return f"commands in a block without a language: write ```sh or ```console: {commands}" if commands else None


def _of_shell(block: Block) -> str | None:
    if block.language == "console" and not block.script:
        return "no line begins with `$ `; write ```sh for commands alone"
    syntax = subprocess.run(["bash", "-n", "-c", block.script], capture_output=True, text=True, check=False)
    if syntax.returncode != 0:
        return syntax.stderr
    faults = [fault for call in agent_commands(block.script) if (fault := fault_of_call(call))]
    faults += [f"{name} does not exist" for name in _SCRIPT.findall(block.script) if not _is_script(name)]
    faults += _faults_of_commands_over_mqtt(block.script)
    return "; ".join(faults) or _unmarked_prose(block.script)


def _faults_of_commands_over_mqtt(script: str) -> list[str]:
    """Each document that is published to ``cmd/<verb>`` is a command of that verb."""
    faults = []
    for line in script.replace("\\\n", " ").splitlines():
        topic = re.search(r"-t '?\S+/cmd/(\w+)", line)
        if topic is None or " -m " not in line:
            continue
        words = shlex.split(_SUBSTITUTION.sub("1", line), comments=True)
        request = {str(verb): one for verb, one in REQUESTS.items()}.get(topic[1])
        if request is None:
            faults.append(f"there is no command {topic[1]}")
            continue
        try:
            request.model_validate_json(words[words.index("-m") + 1])
        except pydantic.ValidationError as exc:
            faults.append(f"{topic[1]}: {exc}")
    return faults


def _is_script(name: str) -> bool:
    return (_ROOT / name).exists() or name == "scripts/container/mqtt-password"  # which the reader makes


def _unmarked_prose(script: str) -> str | None:
    """Two blanks or more between words are a column of remarks; the shell would take them as arguments."""
    for line in script.splitlines():
        command = re.sub(r"'[^']*'|\"[^\"]*\"", "x", line).strip()
        if re.search(r"\S {3,}[^#\s]", command):
            return f"a remark without #: {line}"
    return None


def _of_yaml(block: Block) -> str | None:
    """A configuration, or the part of one, or of a manifest, that its top level shows."""
    try:
        data = yaml.safe_load(block.body)
    except yaml.YAMLError as exc:
        return str(exc)
    if not isinstance(data, dict):
        return "YAML blocks are parts of a configuration or of a manifest; this is neither"
    keys = set(data)
    if keys <= set(AgentConfig.model_fields):
        return _of_configuration(data, block.body)
    if keys <= set(CameraConfig.model_fields):
        return _of_configuration(_with_camera(data))
    if keys <= set(ClassifierConfig.model_fields):
        return _of_configuration(_with_camera({"classify": [{"model": "inspect", **data}]}))
    if keys <= set(DecideConfig.model_fields):
        return _of_configuration(_with_camera({"classify": [{"model": "inspect", "decide": data}]}))
    if keys <= set(Manifest.model_fields):
        return _of_manifest(data)
    return f"no part of a configuration or a manifest has the keys {sorted(keys)}"


def _with_camera(fields: dict[str, Any]) -> dict[str, Any]:
    return {"cameras": {"front": {**_BASE["cameras"]["front"], **fields}}}


def _of_configuration(data: dict[str, Any], text: str = "") -> str | None:
    """A whole file is read as it stands; a part is put into a configuration that lacks nothing else."""
    if "version" not in data:
        whole = {**_BASE, **data}
        whole["mqtt"] = {**_BASE["mqtt"], **data.get("mqtt", {})}
        if "models" in data and "cameras" not in data:
            model = next(iter(data["models"]))
            whole["cameras"] = {"front": {"source": {"type": "pattern"}, "classify": [{"model": model}]}}
        text = yaml.safe_dump(whole)
    return _refusal(text)


def _refusal(text: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "agent.yaml")
        file.write_text(text, encoding="utf-8")
        try:
            # What the machine of the reader has is not looked at: passwords, certificates, packages.
            load_config(file, check_files=False, environ={"HOME": folder})
        except ConfigError as exc:
            return str(exc)
    return None


def _of_manifest(data: dict[str, Any]) -> str | None:
    try:
        parse_manifest(yaml.safe_dump({**_MANIFEST, **data}), name="model.yaml")
    except engines.ModelRejected as exc:
        return str(exc)
    return None


def _of_json(block: Block) -> str | None:
    """One of the agent's messages by its schema; a flow of Node-RED by its wires; else a document that parses."""
    try:
        data = json.loads(block.body)
    except json.JSONDecodeError as exc:
        return str(exc)
    if isinstance(data, dict) and "schema" in data:
        schema = message_schemas().get(data["schema"])
        if schema is None:
            return f"there is no message {data['schema']}"
        faults = jsonschema.Draft202012Validator(schema).iter_errors(data)
        return "; ".join(fault.message for fault in faults) or None
    if isinstance(data, list) and all(isinstance(node, dict) and "type" in node for node in data):
        known = {node["id"] for node in data}
        named = [name for node in data for wire in node.get("wires", []) for name in wire]
        named += [
            node[key] for node in data for key in ("broker", "z") if key in node and node["type"] != "mqtt-broker"
        ]
        unknown = [name for name in named if name not in known]
        return f"nodes that do not exist: {unknown}" if unknown else None
    return None


def _of_python(block: Block) -> str | None:
    try:
        tree = ast.parse(block.body)
    except SyntaxError as exc:
        return str(exc)
    used = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_engines(node.value)]
    missing = [name for name in used if not hasattr(engines, name)]
    return f"engines has no {missing}" if missing else None


def _is_engines(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "engines"


def _of_ini(block: Block) -> str | None:
    try:
        configparser.ConfigParser(interpolation=None, strict=False).read_string("[top]\n" + block.body)
    except configparser.Error as exc:
        return str(exc)
    return None


def _of_toml(block: Block) -> str | None:
    if importlib.util.find_spec("tomllib") is None:
        return None  # it came with 3.11; newer interpreters check these blocks
    try:
        importlib.import_module("tomllib").loads(block.body)
    except ValueError as exc:
        return str(exc)
    return None


_CHECKS: dict[str, Callable[[Block], str | None]] = {
    "": _of_text,
    **dict.fromkeys(SHELLS, _of_shell),
    "yaml": _of_yaml,
    "json": _of_json,
    "python": _of_python,
    "ini": _of_ini,
    "toml": _of_toml,
}


@pytest.mark.parametrize(
    ("language", "body", "fault"),
    [
        ("sh", "if true; then", "syntax error"),
        ("sh", "sudo /opt/agent/bin/agent doctor --fly", "No such option"),
        ("sh", "true | .venv/bin/agent frobnicate x", "no command 'frobnicate'"),
        ("sh", "agent model import", "Missing argument"),
        ("sh", "agent benchmark --rounds 1", "range"),
        ("sh", "agent benchmark --quick      seconds instead of minutes", "remark without #"),
        ("sh", "scripts/gone --all", "scripts/gone does not exist"),
        ("sh", """mosquitto_pub -t edge/a/cmd/set -m '{"id": "1", "camara": "x"}'""", "camara"),
        ("sh", """mosquitto_rr -m "{\\"id\\": \\"$(date +%s)\\"}" -t 'edge/a/cmd/snapshot' """, "camera"),
        ("sh", "mosquitto_pub -t edge/a/cmd/fly -m '{}'", "no command fly"),
        ("console", "agent doctor", "no line begins with"),
        ("", "agent doctor  what can run", "without a language"),
        ("", "$ ls", "without a language"),
        ("yaml", "mqtt: {brokr: x}", "did you mean `broker`"),
        ("yaml", "version: 1\nmodels: {}", "an empty section"),
        ("yaml", "source: {type: rtsp}", "url"),
        ("yaml", "decide: {enter: 2.0}", "enter"),
        ("yaml", "output: {activation: magic}", "activation"),
        ("yaml", "pasta: 1", "no part of"),
        ("yaml", "a: [", "flow"),
        ("json", '{"schema": "status/1"}', "required"),
        ("json", '{"schema": "status/9"}', "no message status/9"),
        ("json", "{", "Expecting"),
        ("json", '[{"id": "a", "type": "tab", "wires": [["b"]]}]', "do not exist"),
        ("python", "import engines\nengines.fly()", "engines has no"),
        ("python", "def", "syntax"),
        ("ini", "no value and no section", "parsing errors"),
        ("perl", "1", "no check for blocks"),
    ],
)
def test_planted_faults_are_found(language: str, body: str, fault: str) -> None:
    found = fault_of(Block(1, language, body + "\n"))
    assert found is not None
    assert fault.lower() in found.lower()


def test_planted_indented_code_is_found() -> None:
    assert indented_code("text\n\n    agent fly\n    x\n\n```\n\n    y\n```\n- item\n    more\n") == [
        "    agent fly\n    x\n"
    ]


def test_planted_call_in_prose_is_found() -> None:
    assert faults_in_prose("See `agent doctor --thermals` or `agent run --print`, `agent ...`.\n") == []
    (fault,) = faults_in_prose("Use `agent watch --fly` and\n`agent config\ncheck FILE`.\n")
    assert "No such option" in fault
