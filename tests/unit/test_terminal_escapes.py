"""No text of others controls the terminal of the person who reads it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.io.console import Console
from agent.mqtt.base import Packet
from agent.publish.json_lines import line_from_packet
from agent.runtime import logs
from agent.runtime.terminal import EscapedText, escaped, escaped_json, unescaped
from agent.tools.watch.fleet import FleetView
from agent.tools.watch.terminal import render
from tests.fixtures.packages import PackageFiles, TinyModel

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
CLEAR = "\x1b[2J\x1b[H\x9b2J"
TURNED = "\u202egpj.exe\u2066"
HOSTILE = f"x{CLIPBOARD}{CLEAR}{TURNED}\x7f\r\x00\x0b\u2028y"
_ROOT = Path(__file__).resolve().parents[2]


_LOOKED_AT = [
    "agent/cli/demo.py:     extra_sinks: list[Sink] = [JsonLinesSink(sys.stdout.buffer)] if is_printing else [sink]",
    "agent/cli/run.py:     extra_sinks = [JsonLinesSink(sys.stdout.buffer, prefix=prefix)] if is_printing else []",
    "agent/cli/watch.py:         sys.stdout.buffer.flush()",
    'agent/cli/watch.py:         sys.stdout.buffer.write(escaped_json(line) + b"\\n")',
]
"""Outputs past the streams: each escapes what it writes."""


def _is_harmless(written: str) -> bool:
    """Whether the only sequences left are colours and movements of our own (CSI), none of them the hostile ones."""
    return not any(
        bad in written for bad in ("\x1b]52", "\x1b[2J\x1b[H\x9b", "\x9b", "\u202e", "\u2066", "\x7f", "\u2028")
    )


def test_every_control_is_visible_and_text_stays() -> None:
    assert escaped("plain ä 日本 ✔ 🙂\ttab\nline") == "plain ä 日本 ✔ 🙂\ttab\nline"
    assert escaped(CLIPBOARD) == "\\u001b]52;c;ZXZpbA==\\u0007"
    assert escaped(TURNED) == "\\u202egpj.exe\\u2066"
    assert _is_harmless(escaped(HOSTILE))


@given(st.text())
def test_an_escaped_json_document_has_the_same_value(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    written = escaped_json(json.dumps({text: [text]}, ensure_ascii=False).encode())
    assert json.loads(written) == {text: [text]}
    assert escaped(written.decode()) == written.decode()


def test_a_json_line_of_a_message_is_escaped() -> None:
    packet = Packet(
        topic=f"edge/{HOSTILE}", payload=json.dumps({HOSTILE: HOSTILE}, ensure_ascii=False).encode(), qos=0
    )
    line = line_from_packet(packet)
    assert _is_harmless(line.decode())
    assert json.loads(line)["message"] == {HOSTILE: HOSTILE}


def test_a_standard_stream_escapes_and_has_a_way_past_it() -> None:
    below = io.BytesIO()
    stream = EscapedText(io.TextIOWrapper(below, encoding="utf-8"))
    assert stream.write(HOSTILE) == len(HOSTILE)
    assert _is_harmless(below.getvalue().decode())
    unescaped(stream).write("\x1b[32mgreen")
    assert below.getvalue().endswith(b"\x1b[32mgreen")
    assert unescaped(sys.stdout) is sys.stdout


def _console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=200, color_system="standard"), file


def test_a_console_escapes_every_text_and_takes_no_markup() -> None:
    from rich.table import Table
    from rich.text import Text

    console, file = _console()
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row("[link=http://evil]name[/link] [/] :skull:")
    console.print(table)
    console.print(HOSTILE, Text(HOSTILE, style="red"))
    assert _is_harmless(file.getvalue())
    assert "\x1b]8" not in file.getvalue()
    assert "[link=http://evil]name[/link] [/] :skull:" in file.getvalue()
    assert "\x1b[31m" in file.getvalue()


def test_watch_escapes_keys_and_values_of_every_message() -> None:
    """Every key and every text of the documents that a device publishes, at any depth, is hostile."""
    console, file = _console()
    view = FleetView("edge")
    inner = {HOSTILE: 1, "engine": HOSTILE, "placement": {HOSTILE: 3}, "state": HOSTILE, "celsius": 50.0}
    for topic in ("status", "runtime", "health", "thermal", "latency", f"camera/{HOSTILE}/health"):
        document = {
            "state": HOSTILE, "models": {HOSTILE: inner}, "cameras": {HOSTILE: inner}, "board": {"model": HOSTILE},
            "connection": inner, "zones": {HOSTILE: inner}, "hottest": HOSTILE, "errors": [HOSTILE],
            "throttled": True, "throttle_causes": {HOSTILE: 1},
            "publisher": {"denied": {HOSTILE: 1}, "dropped": {HOSTILE: 1}},
        }  # fmt: skip
        view.update(f"edge/dut/{topic}", json.dumps(document).encode(), now_s=1.0)
    view.update(f"edge/dut/camera/{HOSTILE}/{HOSTILE}/result", json.dumps({"label": HOSTILE}).encode(), now_s=1.0)
    for width in (80, 200):
        console.print(render(view, now_s=1.0, width=width, heading=HOSTILE))
    assert "\\u001b" in file.getvalue()
    assert _is_harmless(file.getvalue())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("as_json", [False, True])
def test_a_log_line_on_a_terminal_is_escaped(as_json: bool) -> None:
    stream = _Terminal()
    logs.configure(json=as_json, stream=stream)
    try:
        log = logs.get_logger(__name__)
        log.warning("camera.lost", camera=HOSTILE, deep={HOSTILE: [HOSTILE]}, **{HOSTILE: 1})
        try:
            int(HOSTILE)
        except ValueError as exc:
            log.exception("camera.failed", error=str(exc))
    finally:
        logs.configure()
    written = stream.getvalue()
    assert _is_harmless(written.replace("\r", ""))
    assert "camera.lost" in written
    if as_json:
        assert json.loads(written.splitlines()[0])["camera"] == HOSTILE


def _on_a_terminal(*arguments: str, environ: dict[str, str] | None = None) -> str:
    """What a command writes to a terminal, both streams."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "TERM": "xterm-256color", **(environ or {})}
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment
    ):
        os.close(slave)
        parts = []
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(master)
    return b"".join(parts).decode("utf-8", "replace")


def _hostile_package(directory: Path) -> Path:
    model = TinyModel().proto()
    for node in model.graph.node:
        node.name = HOSTILE.replace("\x00", "")
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("unknown" + CLIPBOARD, 1))
    directory.mkdir()
    return PackageFiles.of().with_model(model.SerializeToString()).write(directory)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_commands_on_a_terminal_escape_names_of_nodes_and_files(tmp_path: Path, encoding: str) -> None:
    environ = {"PYTHONIOENCODING": encoding}
    name = HOSTILE.replace("\x00", "").replace("/", "")
    package = _hostile_package(tmp_path / name)
    written = _on_a_terminal("model", "check", str(package), environ=environ)
    assert "error: " in written
    assert "52;c;" in written
    assert _is_harmless(written)
    written = _on_a_terminal("config", "check", str(tmp_path / name / "gone.yaml"), environ=environ)
    assert "gone.yaml cannot be read" in written
    assert _is_harmless(written)
    written = _on_a_terminal("watch", "--prefix", CLIPBOARD, environ=environ)
    assert "is not a topic prefix" in written
    assert _is_harmless(written)


def test_every_output_goes_through_the_streams_that_escape() -> None:
    """click goes past a stream with an odd encoding, unless it is given one; rich's own console writes raw."""
    found = []
    for path in sorted((_ROOT / "agent").rglob("*.py")):
        text, place = path.read_text(encoding="utf-8"), str(path.relative_to(_ROOT))
        for call in re.findall(r"click\.(?:secho|echo)\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)", text):
            found += [f"{place}: {call}"] if "file=sys.stderr" not in call else []
        if "rich.console" in text and place not in {"agent/cli/io/console.py"}:
            found += [
                f"{place}: {line}" for line in re.findall(r"^ +from rich\.console import .*Console\b.*", text, re.M)
            ]
        found += [f"{place}: {line}" for line in re.findall(r"^.*sys\.std(?:out|err)\.buffer.*$", text, re.M)]
    assert sorted(found) == _LOOKED_AT


def test_a_configuration_is_printed_in_colour_and_escaped(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
    document = {
        "version": 1,
        "device": {"name": TURNED},
        "models": {"inspect": {"package": "demo"}},
        "cameras": {"a": camera},
    }
    file.write_text(json.dumps(document, ensure_ascii=False))
    written = _on_a_terminal("config", "check", str(file))
    assert "\x1b[" in written
    assert "\\u202egpj.exe" in written.replace("\x1b[0m", "")
    assert _is_harmless(written)
