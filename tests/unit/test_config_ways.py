"""The ways to a broker in the configuration: files beside it, secrets that cannot be used, warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.broker_address import BrokerAddress, ProxyAddress
from agent.config.loader import LoadedConfig, load_config
from agent.mqtt.settings import MqttSettings, settings_from_config
from agent.runtime.errors import ConfigError
from agent.runtime.secrets import redact
from tests.fixtures.certificates import Authority

CANARY = "hunter2-CANARY"
GOOD = """\
version: 1
models: {inspect: {package: demo}}
cameras: {front: {source: {type: pattern}, classify: [{model: inspect}]}}
mqtt:
  broker: [wss://a.example, 'mqtts://b.example:443', unix:///run/mosquitto.sock]
  username: line-3
  password_file: password
  tls: {ca_file: ca.pem, cert_file: line-3.pem, key_file: line-3.key, key_password_file: key, alpn: mqtt,
    server_name: c}
  websocket: {header_files: {Authorization: header}}
  proxy: {url: 'socks5h://proxy', username: me, password_file: proxy}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every file that the configuration names."""
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.client("line-3")
    for name, source in (("ca.pem", authority.certificate), ("line-3.pem", certificate), ("line-3.key", key)):
        (tmp_path / name).write_bytes(source.read_bytes())
        (tmp_path / name).chmod(0o600)
    for name in ("password", "key", "header", "proxy"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(f"{CANARY}-{name}\n")
    return tmp_path


def _load(folder: Path, text: str = GOOD) -> LoadedConfig:
    (folder / "agent.yaml").write_text(text)
    return load_config(folder / "agent.yaml")


def _settings(loaded: LoadedConfig) -> MqttSettings:
    return settings_from_config(loaded.resolved_mqtt(), device="line-3")


def test_every_way_reaches_the_settings_with_absolute_paths(folder: Path) -> None:
    settings = _settings(_load(folder))
    assert [str(one) for one in (settings.address, *settings.alternatives)] == [
        "wss://a.example:443/mqtt",
        "mqtts://b.example:443",
        "unix:///run/mosquitto.sock",
    ]
    assert settings.return_after_s == 300.0
    assert (settings.tls.alpn, settings.tls.server_name, settings.server_name) == ("mqtt", "c", "c")
    assert settings.proxy is not None
    assert (settings.proxy.address, settings.proxy.username) == (ProxyAddress("socks5h", "proxy", 1080), "me")
    assert settings.headers()[0][1].reveal() == f"{CANARY}-header"
    names = {"password", "ca.pem", "line-3.pem", "line-3.key", "key", "header", "proxy"}
    assert set(settings.files) == {folder / name for name in names}
    assert CANARY not in repr(settings)


@pytest.mark.parametrize(
    ("name", "content", "mode", "where"),
    [
        ("key", "", 0o600, "8: mqtt.tls.key_password_file: the first line of the key password file"),
        ("key", "k" * 1024, 0o600, "8: mqtt.tls.key_password_file: the key password file"),
        ("header", "a", 0o644, "10: mqtt.websocket.header_files.Authorization: the header file"),
        ("header", "h" * 8193, 0o600, "10: mqtt.websocket.header_files.Authorization: the header file"),
        ("proxy", "p" * 256, 0o600, "11: mqtt.proxy.password_file: the proxy password file"),
        ("proxy", None, 0o600, "11: mqtt.proxy.password_file: the proxy password file"),
        ("password", "p" * 65_536, 0o600, "7: mqtt.password_file: the password file"),
        ("ca.pem", None, 0o600, "8: mqtt.tls.ca_file: there is no file"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_fault_with_its_line(
    folder: Path, name: str, content: str | None, mode: int, where: str
) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
        (folder / name).chmod(mode)
    with pytest.raises(ConfigError) as caught:
        _load(folder)
    assert caught.value.message.startswith(f"{folder}/agent.yaml:{where}")


def test_a_header_with_a_line_end_in_another_alphabet_is_refused(folder: Path) -> None:
    loaded = _load(folder)
    (folder / "header").write_text("Bearer é\n")
    with pytest.raises(ConfigError, match="holds a character that cannot be in Authorization"):
        _settings(loaded)


def test_a_password_of_the_greatest_length_is_taken_and_a_token_renewed_in_its_file(folder: Path) -> None:
    settings = _settings(_load(folder))
    for token in ("t" * 65_535, "renewed"):
        (folder / "password").write_text(f"{token}\r\n")
        password = settings.credentials.password()
        assert password is not None
        assert password.reveal() == token


def test_secrets_in_clear_text_are_a_warning_for_each_address(folder: Path) -> None:
    addresses = "[wss://a.example, 'mqtts://b.example:443', unix:///run/mosquitto.sock]"
    assert _load(folder).warnings == ()
    open_ones = "[ws://a.example, mqtts://b.example, 'mqtt://localhost', 'ws://127.0.0.1', mqtt://c.example]"
    warnings = _load(folder, GOOD.replace(addresses, open_ones)).warnings
    assert len(warnings) == 2
    assert ":5: mqtt.broker: the password crosses the network in clear text to" in warnings[0]
    assert "ws://a.example:80/mqtt and mqtt://c.example:1883;" in warnings[0]
    assert ":10: mqtt.websocket.header_files: the headers cross the network in clear text" in warnings[1]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://a", BrokerAddress("a", 80, is_websocket=True, path="/mqtt")),
        ("wss://[::1]:8084/x/y%20z", BrokerAddress("::1", 8084, is_tls=True, is_websocket=True, path="/x/y%20z")),
        ("ws://a/", BrokerAddress("a", 80, is_websocket=True, path="/")),
        ("unix:///run/a b.sock", BrokerAddress("", 0, path="/run/a b.sock")),
    ],
)
def test_an_address_is_read_and_written_alike(url: str, address: BrokerAddress) -> None:
    assert BrokerAddress.parse(url) == address
    assert BrokerAddress.parse(str(address)) == address


@pytest.mark.parametrize("url", ["ws://a?b", "wss://a/b#c", "ws://a/%zz", "unix://run/a", "unix:///a?b", "ws:///mqtt"])
def test_no_address_holds_a_query_or_a_broken_path(url: str) -> None:
    with pytest.raises(ValueError, match="must look like"):
        BrokerAddress.parse(url)


def test_an_authorizer_s_signature_in_a_user_name_is_masked() -> None:
    name = "line-3?x-amz-customauthorizer-name=a&x-amz-customauthorizer-signature=abc123&token=t0p"
    assert redact(name) == "line-3?x-amz-customauthorizer-name=a&x-amz-customauthorizer-signature=***&token=***"
