"""The section `serve`: addresses, what they demand, and a model without a camera."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.build import make_web
from agent.cli.demo import demo_configuration
from agent.config.loader import LoadedConfig, load_config
from agent.config.sections.serve import is_loopback, split_address
from agent.inference.pipeline import Parts, Pipeline
from agent.reload import Reloader
from agent.runtime.clock import SystemClock
from agent.runtime.errors import ConfigError, PartMissing
from tests.fixtures.agent_process import write_config
from tests.fixtures.parts import BrightnessEngine, ScriptedSource

_CAMERAS = {"front": {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}}


def _load(directory: Path, *, cameras: bool = True, model: bool = True, **serve: Any) -> LoadedConfig:
    config: dict[str, Any] = {"models": {"inspect": {"package": "demo", **({"serve": True} if model else {})}}}
    if cameras:
        config["cameras"] = _CAMERAS
    if serve:
        config["serve"] = serve
    return load_config(write_config(directory, config))


def test_serving_is_off_without_an_address(tmp_path: Path) -> None:
    loaded = _load(tmp_path, model=False)
    assert not loaded.config.serve.is_on
    assert loaded.config.served_models == ()
    assert loaded.warnings == ()


def test_a_model_may_be_loaded_for_programs_alone(tmp_path: Path) -> None:
    loaded = _load(tmp_path, cameras=False, http="127.0.0.1:8000")
    assert loaded.config.used_models == {"inspect"}
    assert loaded.config.camera_models == frozenset()
    assert loaded.warnings == ()


@pytest.mark.parametrize(("model", "serve"), [(True, {}), (False, {"http": "127.0.0.1:8000"})])
def test_neither_a_camera_nor_a_served_model_is_an_error(tmp_path: Path, model: bool, serve: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"cameras: there is no camera, and no model is served to programs: add"):
        _load(tmp_path, cameras=False, model=model, **serve)


@pytest.mark.parametrize(
    ("address", "host", "port", "is_local"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, True),
        ("127.3.4.5:1", "127.3.4.5", 1, True),
        ("localhost:0", "localhost", 0, True),
        ("[::1]:8000", "::1", 8000, True),
        ("0.0.0.0:8000", "0.0.0.0", 8000, False),
        ("[::]:8000", "::", 8000, False),
        ("localhost.example:8000", "localhost.example", 8000, False),
        ("192.168.1.4:8000", "192.168.1.4", 8000, False),
    ],
)
def test_addresses(tmp_path: Path, address: str, host: str, port: int, is_local: bool) -> None:
    assert split_address(address) == (host, port)
    assert is_loopback(address) is is_local
    if is_local:
        assert _load(tmp_path, http=address).warnings == ()
        return
    with pytest.raises(ConfigError, match=r"serve\.http: .* can be reached by other machines, but there is no tokens"):
        _load(tmp_path, http=address)
    (tmp_path / "tokens").touch()
    (warning,) = _load(tmp_path, http=address, tokens_file="tokens").warnings
    assert "in clear text; give `tls` a certificate" in warning


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        ({"http": "8000"}, r"give host:port"),
        ({"http": "http://127.0.0.1:8000"}, r"give host:port"),
        ({"http": "::1:8000"}, r"give host:port"),
        ({"http": "127.0.0.1:70000"}, r"serve\.http: port 70000 is above 65535"),
        ({"http": "127.0.0.1:1", "tls": {"cert_file": "c"}}, "cert_file and key_file belong together"),
        (
            {"http": "127.0.0.1:1", "tls": {"cert_file": "c", "key_file": "k"}},
            r"serve\.tls\.cert_file: there is no file",
        ),
        ({"http": "127.0.0.1:1", "tokens_file": "t"}, r"serve\.tokens_file: there is no file .*NAME TOKEN"),
        ({"http": "127.0.0.1:1", "tokens_file": "."}, r"serve\.tokens_file: must be a file, but .* is a folder; name"),
        (
            {"http": "127.0.0.1:1", "tls": {"cert_file": "/dev/null", "key_file": "."}},
            r"cert_file: must be a file, but /dev/null is no regular file(.|\n)*key_file: must be a file, .* a folder",
        ),
        ({"http": "127.0.0.1:1", "max_body_mib": 65}, "max_bodies_mib 64 is below max_body_mib 65"),
        ({"http": "127.0.0.1:1", "min_share_ratio": 1.0}, r"serve\.min_share_ratio"),
        ({"http": "127.0.0.1:1", "htttp": 1}, "unknown key"),
        *(
            (
                {"http": http, "grpc": grpc, "tokens_file": "t"},
                rf"serve\.grpc: .* but http has .* and grpc {grpc}; give",
            )
            for http, grpc in (
                ("127.0.0.1:8000", "127.0.0.1:8000"),
                ("127.0.0.1:8000", "localhost:8000"),
                ("0.0.0.0:8000", "127.0.0.1:8000"),
                ("[::]:8000", "127.0.0.1:8000"),
            )
        ),
        ({"metrics_file": ""}, r"serve\.metrics_file: must name a file that ends in \.prom"),
        ({"metrics_file": "agent.yaml"}, r"serve\.metrics_file: must name a file that ends in \.prom"),
        ({"metrics_file": ".prom"}, r"serve\.metrics_file: must name a file that ends in \.prom"),
        ({"metrics_file": "folder/.prom"}, r"serve\.metrics_file: must name a file that ends in \.prom"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, serve: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, **serve)


@pytest.mark.parametrize("grpc", ["127.0.0.1:8001", "127.0.0.2:8000", "[::1]:8000"])
def test_http_and_grpc_at_two_addresses_are_accepted(tmp_path: Path, grpc: str) -> None:
    assert _load(tmp_path, http="127.0.0.1:8000", grpc=grpc).config.serve.grpc == grpc
    (tmp_path / "tokens").touch()
    assert _load(tmp_path, http="0.0.0.0:8000", grpc="[::1]:8000", tokens_file="tokens").config.serve.is_on
    assert _load(tmp_path, http="127.0.0.1:0", grpc="127.0.0.1:0").config.serve.is_on


def test_a_metrics_file_replaces_nothing_but_metrics(tmp_path: Path) -> None:
    path = tmp_path / "agent.prom"
    for harmless in (None, b"", b"# HELP agent_info x\n"):
        if harmless is not None:
            path.write_bytes(harmless)
        _load(tmp_path, metrics_file="agent.prom")
    path.write_bytes(b"robot 0123456789abcdef\n")
    with pytest.raises(ConfigError, match=r"serve\.metrics_file: would replace .* but that file holds no metrics"):
        _load(tmp_path, metrics_file="agent.prom")
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"serve\.metrics_file: must be a regular file"):
        _load(tmp_path, metrics_file="agent.prom")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"serve\.metrics_file: its folder must be a directory"):
        _load(tmp_path, metrics_file="file/agent.prom")
    _load(tmp_path, metrics_file="later/agent.prom")


def test_half_a_configuration_is_warned_of(tmp_path: Path) -> None:
    (warning,) = _load(tmp_path).warnings
    assert "no program can reach this model, because `serve` has no address" in warning
    (warning,) = _load(tmp_path, model=False, http="127.0.0.1:8000").warnings
    assert "programs are served no model" in warning


@pytest.fixture(params=["missing", "damaged"])
def broken_uvicorn(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """No uvicorn can be imported; what the error says of it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "uvicorn" or name.startswith("agent.web")]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "missing":
        monkeypatch.setitem(sys.modules, "uvicorn", None)
        return "import of uvicorn halted"
    (tmp_path / "uvicorn.py").write_text("import signal\nsignal.no_such_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "has no attribute 'no_such_name'"


def test_a_library_that_cannot_be_imported_is_named_with_the_command_that_installs_it(
    tmp_path: Path, broken_uvicorn: str
) -> None:
    loaded = _load(tmp_path, cameras=False, http="127.0.0.1:0")
    parts = Parts(lambda *_: BrightnessEngine(2), lambda _: ScriptedSource([], is_live=True))
    pipeline = Pipeline(loaded.config, {}, parts, clock=SystemClock(), emit=lambda _: None)
    reloader = Reloader(loaded, {}, pipeline, on_applied=lambda *_: None, expect_cameras=lambda _: None)
    with pytest.raises(PartMissing) as missing:
        make_web(loaded, pipeline, reloader)
    assert broken_uvicorn in missing.value.message
    command = shlex.split(str(missing.value.fields["command"]))
    assert missing.value.message.endswith(f"Install them: {missing.value.fields['command']}")
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    names = {re.split("[<>=~]", one)[0] for one in command[4:]}
    assert names == {"httptools", "prometheus-client", "python-multipart", "starlette", "uvicorn", "uvloop"}


def test_the_demo_runs_without_a_page_that_cannot_be_imported(
    tmp_path: Path, broken_uvicorn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not demo_configuration(tmp_path).config.serve.is_on
    assert re.search(rf"Without a page: .*{broken_uvicorn}.* Install them: ", capsys.readouterr().err)


def test_the_demo_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_configuration(tmp_path).config.serve.page
    assert capsys.readouterr().err == ""
