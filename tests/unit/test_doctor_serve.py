"""What `config check` and the doctor say of a server whose files or addresses a start would refuse."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.config import check
from agent.config.loader import LoadedConfig, load_config
from agent.daemon.state_directory import StateDirectory, is_held
from agent.runtime.errors import ConfigError
from agent.tools.doctor.findings import Finding
from agent.tools.doctor.serve import serve_findings
from tests.fixtures.agent_process import write_config

_TOKEN = "a" * 32


def _path(directory: Path, **serve: object) -> Path:
    models = {"inspect": {"package": "demo", "serve": True}}
    return write_config(directory, {"models": models, "serve": {"http": "127.0.0.1:0", **serve}})


def _by_name(loaded: LoadedConfig) -> dict[str, Finding]:
    return {finding.name: finding for finding in serve_findings(loaded)}


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (f"robot {_TOKEN}\n", 0o644, "mode 644"),
        ("", 0o600, "holds no token"),
        ("robot short\n", 0o600, "has 5 characters"),
        (f"a {_TOKEN}\nb {_TOKEN}\n", 0o600, "is there twice"),
    ],
)
def test_tokens_that_a_start_refuses_are_refused_by_both(tmp_path: Path, text: str, mode: int, message: str) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(text)
    tokens.chmod(mode)
    path = _path(tmp_path, tokens_file="tokens")
    result = CliRunner().invoke(check, [str(path)])
    assert isinstance(result.exception, ConfigError)
    assert "serve.tokens_file" in result.exception.message
    assert message in result.exception.message
    finding = _by_name(load_config(path))["tokens_file"]
    assert (finding.state, finding.is_needed) == ("failed", True)
    assert message in finding.detail


def test_a_certificate_that_a_start_refuses_is_refused_by_both(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("none")
        (tmp_path / name).chmod(0o600)
    path = _path(tmp_path, tls={"cert_file": "cert.pem", "key_file": "key.pem"})
    result = CliRunner().invoke(check, [str(path)])
    assert isinstance(result.exception, ConfigError)
    assert "serve.tls: the server's certificate" in result.exception.message
    assert _by_name(load_config(path))["tls"].state == "failed"
    (tmp_path / "key.pem").chmod(0o604)
    finding = _by_name(load_config(path))["tls"]
    assert "has mode 604, so every user of this machine can reach it" in finding.detail


def test_an_address_is_free_or_in_use_by_another_program_or_by_the_agent(tmp_path: Path) -> None:
    loaded = load_config(_path(tmp_path))
    assert _by_name(loaded)["http"].state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        loaded = load_config(_path(tmp_path, http=f"127.0.0.1:{taken.getsockname()[1]}"))
        finding = _by_name(loaded)["http"]
        assert (finding.state, finding.is_needed) == ("failed", True)
        assert "Address already in use" in finding.detail
        with StateDirectory(loaded.state_dir):
            assert is_held(loaded.state_dir)
            finding = _by_name(loaded)["http"]
        assert finding.state == "ok"
        assert "the agent runs with" in finding.detail
        assert not is_held(loaded.state_dir)


@pytest.mark.parametrize(
    ("library", "failed", "installed"), [("grpc", {"grpc"}, "grpcio"), ("uvloop", {"http", "grpc"}, "uvloop")]
)
def test_a_missing_library_is_found_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, failed: set[str], installed: str
) -> None:
    loaded = load_config(_path(tmp_path, grpc="127.0.0.1:0"))
    for name in [name for name in sys.modules if name.startswith("agent.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    found = _by_name(loaded)
    assert {name for name, finding in found.items() if finding.state == "failed"} == failed
    for name in failed:
        assert found[name].detail.endswith(f"import of {library} halted; None in sys.modules")
        assert re.fullmatch(rf"run: \S+ -m pip install .*{installed}>=.*", found[name].remedy or "")
