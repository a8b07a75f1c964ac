"""Which version, server and last will an attempt asks for, and what is done without what the broker does not offer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config.broker_address import BrokerAddress
from agent.config.model import MqttConfig
from agent.mqtt.attempts import ASK_AGAIN_S, Version, VersionChoice, referred
from agent.mqtt.base import Packet
from agent.mqtt.diagnosis import Ending, EndKind
from agent.mqtt.grants import SMALL_PACKET_BYTES, Granted, granted_from_properties, lesser_will
from agent.mqtt.network.wire import Property
from agent.mqtt.settings import Credentials, MqttSettings, settings_from_config

SETTINGS = MqttSettings(address=BrokerAddress("broker", 1883), client_id="a")


def _attempt(choice: VersionChoice, now: float, *endings: EndKind) -> list[Version]:
    """The versions of one attempt; after ``endings`` the broker accepts."""
    version = choice.first(now)
    tried = [version]
    for kind in endings:
        after = choice.after(version, Ending(kind, kind))
        if after is None:
            return tried
        version = after
        tried.append(version)
    choice.accepted(version, now)
    return tried


def test_one_closed_connection_is_no_proof_and_5_is_asked_for_again_at_once() -> None:
    choice = VersionChoice(SETTINGS)
    assert _attempt(choice, 0, "unanswered") == ["5", "5"]
    assert choice.reason("5") is None


def test_two_closed_connections_and_an_accepted_older_one_are_remembered_for_a_while() -> None:
    choice = VersionChoice(SETTINGS)
    assert _attempt(choice, 0, "unanswered", "unanswered") == ["5", "5", "3.1.1"]
    assert choice.reason("3.1.1") == "the broker gave no answer to MQTT 5"
    assert _attempt(choice, 1) == ["3.1.1"]
    assert _attempt(choice, ASK_AGAIN_S) == ["5"]
    assert _attempt(choice, ASK_AGAIN_S + 1) == ["5"]


def test_an_older_broker_is_asked_again_only_now_and_then() -> None:
    choice = VersionChoice(SETTINGS)
    assert _attempt(choice, 0, "version") == ["5", "3.1.1"]
    assert choice.reason("3.1.1") == "the broker refused MQTT 5"
    assert _attempt(choice, ASK_AGAIN_S - 1) == ["3.1.1"]
    assert _attempt(choice, ASK_AGAIN_S, "version") == ["5", "3.1.1"]
    assert _attempt(choice, ASK_AGAIN_S + 1) == ["3.1.1"]


def test_a_mute_broker_is_asked_for_5_at_the_next_reconnect_too() -> None:
    choice = VersionChoice(SETTINGS)
    assert _attempt(choice, 0, "mute") == ["5", "3.1.1"]
    assert _attempt(choice, 1, "mute") == ["5", "3.1.1"]
    assert _attempt(choice, 2) == ["3.1.1"]


def test_a_remembered_version_that_fails_is_forgotten() -> None:
    choice = VersionChoice(SETTINGS)
    _attempt(choice, 0, "version")
    assert _attempt(choice, 1, "unanswered") == ["3.1.1"]
    assert _attempt(choice, 2) == ["5"]


@pytest.mark.parametrize("kind", ["refused", "network", "tls", "setup"])
def test_what_the_version_cannot_mend_is_tried_once(kind: EndKind) -> None:
    assert _attempt(VersionChoice(SETTINGS), 0, kind) == ["5"]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_configured_version_is_the_only_one(version: Version) -> None:
    choice = VersionChoice(replace(SETTINGS, protocol=version))
    assert _attempt(choice, 0, "version") == [version]
    assert choice.reason(version) == (None if version == "5" else "mqtt.protocol asks for it")


def test_a_broker_known_to_be_older_is_never_asked_for_5() -> None:
    choice = VersionChoice(replace(SETTINGS, address=replace(SETTINGS.address, is_older=True)))
    assert [_attempt(choice, now) for now in (0, ASK_AGAIN_S)] == [["3.1.1"], ["3.1.1"]]
    assert choice.reason("3.1.1") == "this broker is known to be older"


@pytest.mark.parametrize(("value", "expected"), [(5, "5"), ("5", "5"), ("3.1.1", "3.1.1"), ("auto", "auto")])
def test_the_version_is_configured_as_people_write_it(value: Any, expected: str) -> None:
    assert settings_from_config(MqttConfig(protocol=value), device="d").protocol == expected


def test_an_agent_limits_what_it_receives() -> None:
    settings = settings_from_config(MqttConfig(), device="d")
    assert (settings.max_packet_bytes, settings.max_received_per_s) == (65536, 100.0)


@pytest.mark.parametrize("value", [4, True, 5.0, "3.1", "v5"])
def test_another_version_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="protocol"):
        MqttConfig(protocol=value)


def _moved(server: str, code: int = 0x9D) -> Ending:
    return Ending("refused", "moved", code=code, server=server)


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [("other", "other", 1883), ("other:1884", "other", 1884), ("[::1]:1", "::1", 1), ("a b:5", "a", 1883)],
)
@pytest.mark.parametrize("code", [0x9C, 0x9D])
def test_a_named_server_is_used(server: str, host: str, port: int, code: int) -> None:
    settings, why_not = referred(_moved(server, code), SETTINGS)
    assert why_not is None
    assert settings is not None
    assert settings.address == BrokerAddress(host, port)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("", "not host"),
        ("mqtt://other", "not host"),
        ("other:0", "not host"),
        ("other:65536", "not host"),
        ("user@other", "not host"),
        ("broker:1883", "same address"),
    ],
)
def test_a_server_that_cannot_be_used_is_not_followed(server: str, words: str) -> None:
    settings, why_not = referred(_moved(server), SETTINGS)
    assert settings is None
    assert words in (why_not or "")


def test_a_password_goes_to_another_server_only_with_tls(tmp_path: Path) -> None:
    secret = replace(SETTINGS, credentials=Credentials("me", tmp_path / "password"))
    settings, why_not = referred(_moved("other"), secret)
    assert settings is None
    assert "unencrypted" in (why_not or "")
    secure = replace(secret, address=replace(secret.address, is_tls=True))
    settings, _ = referred(_moved("other"), secure)
    assert settings is not None
    assert settings.address.is_tls
    assert settings.credentials == secret.credentials


@pytest.mark.parametrize("ending", [Ending("refused", "", code=0x87, server="other"), Ending("lost", "", code=0x9D)])
def test_other_endings_name_no_server(ending: Ending) -> None:
    assert referred(ending, SETTINGS) == (None, None)


def test_a_last_will_is_cut_to_what_the_broker_accepts() -> None:
    will = Packet("t", b"{}", 1, retain=True)
    without_retain = lesser_will(will, 0x9A)
    assert without_retain == Packet("t", b"{}", 1, retain=False)
    assert lesser_will(without_retain, 0x9B) == Packet("t", b"{}", 0, retain=False)
    assert lesser_will(without_retain, 0x9A) is None
    assert lesser_will(Packet("t", b"{}", 0, retain=True), 0x9B) is None
    assert lesser_will(will, 0x87) is None
    assert lesser_will(None, 0x9A) is None


def test_a_broker_that_names_no_limit_has_none() -> None:
    granted = granted_from_properties({})
    assert granted == Granted()
    assert granted.limits(["a/+"]) == ()
    assert granted.keepalive_below(15) == 15


def test_every_limit_is_read_and_said() -> None:
    granted = granted_from_properties(
        {
            Property.MAXIMUM_PACKET_SIZE: 400,
            Property.MAXIMUM_QOS: 0,
            Property.RETAIN_AVAILABLE: 0,
            Property.WILDCARDS_AVAILABLE: 0,
            Property.RECEIVE_MAXIMUM: 1,
            Property.SERVER_KEEP_ALIVE: 5,
            Property.ASSIGNED_CLIENT_ID: b"auto-1",
        }
    )
    assert granted == Granted(
        400, 0, receive_maximum=1, keepalive_s=5, client_id="auto-1", may_retain=False, has_wildcards=False
    )
    assert granted.keepalive_below(15) == 5
    assert granted.subscriptions(["a/b", "a/+", "#"]) == ("a/b",)
    said = granted.limits(["a/b", "a/+", "#"])
    assert len(said) == 5
    for words in ("without retain", "QoS 0", "a/+, #", "at most 400 bytes", "'auto-1'"):
        assert any(words in one for one in said)


@pytest.mark.parametrize(("size_bytes", "count"), [(SMALL_PACKET_BYTES - 1, 1), (SMALL_PACKET_BYTES, 0), (0, 0)])
def test_only_a_small_largest_packet_is_said(size_bytes: int, count: int) -> None:
    assert len(granted_from_properties({Property.MAXIMUM_PACKET_SIZE: size_bytes}).limits()) == count


@pytest.mark.parametrize("keepalive_s", [0, 3600])
def test_a_keepalive_above_ours_or_of_none_leaves_ours(keepalive_s: int) -> None:
    assert granted_from_properties({Property.SERVER_KEEP_ALIVE: keepalive_s}).keepalive_below(15) == 15


@pytest.mark.parametrize("key", [Property.MAXIMUM_PACKET_SIZE, Property.RECEIVE_MAXIMUM])
def test_a_forbidden_zero_does_not_forbid_everything(key: Property) -> None:
    granted = granted_from_properties({key: 0})
    assert granted.max_packet_bytes is None
    assert granted.receive_maximum >= 1
