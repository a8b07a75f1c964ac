"""All faults of a file are told at once, and none that only follows from another."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.config import check
from agent.config.broker_address import BrokerAddress, ProxyAddress
from agent.config.loader import load_config
from agent.runtime.errors import ConfigError

_FILE = """\
version: 1
device: {id: dut}
models: {inspect: {package: demo, engine: ort-cpux}, other: {package: nowhere}}
cameras:
  front: {source: {type: pattrn}, rate_hz: 0, classify: []}
  side: {source: {type: rtsp, url: "rtsp://x/1", username: u, password_file: p1}, classify: [{model: inspect}]}
mqtt:
  broker: BROKER
  username: u
  password_file: p2
  tls: {ca_file: gone.pem, key_password_file: p3}
  websocket: {header_files: {X-A: p4}}
  proxy: {url: "http://p:1", username: u, password_file: p5}
  commands: {enabled: true, allow: [snapshoot]}
"""
_KEYS = {
    "models.inspect.engine",
    "models.other.package",
    "cameras.front.classify",
    "cameras.front.rate_hz",
    "cameras.front.source.type",
    "cameras.side.source.password_file",
    "mqtt.password_file",
    "mqtt.tls.ca_file",
    "mqtt.tls.key_password_file",
    "mqtt.websocket.header_files.X-A",
    "mqtt.proxy.password_file",
    "mqtt.commands.allow[0]",
}


def _keys(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    problems = caught.value.fields["problems"]
    assert isinstance(problems, list)
    return [line.removeprefix(f"{path}:").split(": ")[1] for line in problems]


@pytest.mark.parametrize(
    ("broker", "key"), [("mqttt://x", "mqtt.broker"), ("[]", "mqtt.broker"), ("[wss://x, wxx://y]", "mqtt.broker[1]")]
)
def test_missing_secrets_are_told_beside_every_other_fault(tmp_path: Path, broker: str, key: str) -> None:
    keys = _keys(tmp_path / "agent.yaml", _FILE.replace("BROKER", broker))
    assert {*keys} == {*_KEYS, key}


def test_a_file_whose_only_faults_are_its_secrets_names_them_all(tmp_path: Path) -> None:
    text = (
        _FILE.replace("BROKER", "wss://x").replace(", engine: ort-cpux", "").replace(", other: {package: nowhere}", "")
    )
    text = text.replace("pattrn", "pattern").replace("rate_hz: 0, classify: []", "classify: [{model: inspect}]")
    text = text.replace("snapshoot", "snapshot").replace("ca_file: gone.pem", "cert_file: c.pem, key_file: k.pem")
    (tmp_path / "c.pem").touch()
    (tmp_path / "k.pem").touch()
    assert {*_keys(tmp_path / "agent.yaml", text)} == {
        "cameras.side.source.password_file",
        "mqtt.password_file",
        "mqtt.tls.key_password_file",
        "mqtt.websocket.header_files.X-A",
        "mqtt.proxy.password_file",
    }


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("MQTT://host", "begins with capital letters, but mqtt:// is written in small ones"),
        (" mqtt://host", "holds a blank"),
        ("mqtt://ho st", "holds a blank"),
        ("mqtt:/host", "has no scheme such as mqtt://"),
        ("host:1883", "has no scheme such as mqtt://"),
        ("Embedded", "is `embedded` in small letters"),
        ("mqttt://host", "did you mean mqtt://?"),
        ("mqtt://host/path", "has a path, which only ws:// and wss:// have"),
        ("mqtt://user:secret@host", "holds a user or a password"),
        ("mqtt://", "broker must look like"),
    ],
)
def test_an_address_that_is_none_says_what_is_wrong_with_it(url: str, words: str) -> None:
    with pytest.raises(ValueError, match="must look like mqtt://host:1883") as caught:
        BrokerAddress.parse(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"), [("HTTP://p:1", "small ones"), ("htp://p:1", "mean http://?"), ("p:1", "no scheme")]
)
def test_a_proxy_that_is_none_says_what_is_wrong_with_it(url: str, words: str) -> None:
    with pytest.raises(ValueError, match="must look like http://host:3128") as caught:
        ProxyAddress.parse(url)
    assert words in str(caught.value)


def test_the_check_tells_refused_options_beside_the_limits_of_a_service(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        "version: 1\ndevice: {id: dut}\nmodels: {inspect: {package: demo, engine: ort-cpu, options: {thread: 2}}}\n"
        "cameras: {front: {source: {type: pattern}, classify: [{model: inspect}]}}\n"
        "mqtt: {broker: 'mqtt://host', profile: aws-iot}\n"
    )
    result = CliRunner().invoke(check, [str(path)])
    assert isinstance(result.exception, ConfigError)
    message = result.exception.message
    assert "models.inspect.options.thread: engine ort-cpu has no option thread" in message
    assert "mqtt.broker: mqtt://host:1883 has no TLS, but AWS IoT Core needs it" in message
