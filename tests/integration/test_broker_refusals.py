"""Each way in which a broker cannot be used has its own text in the log, in `health` and in `agent doctor`.

A repair needs no restart, and the password is shown nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.config.loader import load_config
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import settings_from_config
from agent.publish.publisher import Publisher
from agent.tools.doctor.broker import broker_findings
from agent.tools.doctor.findings import Finding
from tests.fixtures.agent_process import write_config
from tests.fixtures.certificates import Authority
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import MosquittoBroker, free_port
from tests.fixtures.publish_samples import IDENTITY, TOPICS, camera_health, state_change

CANARY = "hunter2-CANARY"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def _config(directory: Path, mqtt: dict[str, Any]) -> Path:
    return write_config(
        directory,
        {
            "models": {"inspect": {"package": "demo"}},
            "cameras": {"front": {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}},
            "mqtt": mqtt,
        },
    )


def _password(directory: Path, text: str = CANARY) -> dict[str, str]:
    file = directory / "password"
    file.touch(0o600)
    file.write_text(f"{text}\n")
    return {"username": "line-3", "password_file": str(file)}


Case = Callable[[Path, Authority, ExitStack], dict[str, Any]]


def _tls(directory: Path, authority: Authority, stack: ExitStack, **certificate: str) -> dict[str, Any]:
    server = authority.server(directory.name.replace("_", "-")[:50], **certificate)  # type: ignore[arg-type]  # by name
    broker = stack.enter_context(MosquittoBroker(directory / "broker", tls=server, users={"line-3": CANARY}))
    return {"broker": broker.url, "tls": {"ca_file": str(authority.certificate)}}


def expired(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    return _tls(directory, authority, stack, ends="20200201000000Z")


def not_yet_valid(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    return _tls(directory, authority, stack, begins="20480101000000Z")


def wrong_host(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    return _tls(directory, authority, stack, alternatives="DNS:other.example")


def wrong_authority(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    foreign = Authority(directory / "foreign")
    return {**_tls(directory, authority, stack), "tls": {"ca_file": str(foreign.certificate)}}


def plain_port(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    broker = stack.enter_context(MosquittoBroker(directory / "broker"))
    return {"broker": f"mqtts://localhost:{broker.port}", "tls": {"ca_file": str(authority.certificate)}}


def tls_port(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    port = _tls(directory, authority, stack)["broker"].rpartition(":")[2]
    return {"broker": f"mqtt://localhost:{port}"}


def refused_password(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    broker = stack.enter_context(MosquittoBroker(directory / "broker", users={"line-3": "another"}))
    return {"broker": broker.url}


def nothing_listens(directory: Path, authority: Authority, stack: ExitStack) -> dict[str, Any]:
    return {"broker": f"mqtt://127.0.0.1:{free_port()}"}


WORDS: dict[Case, str] = {
    expired: "has expired",
    not_yet_valid: "is not yet valid: check the clock",
    wrong_host: "is for another host name",
    wrong_authority: "is signed by an authority that is not in mqtt.tls.ca_file",
    plain_port: "TLS",
    tls_port: "speaks TLS: write mqtts://",
    refused_password: "not authorised",
    nothing_listens: "nothing listens",
}


def _doctor(config: Path) -> Finding:
    (finding,) = broker_findings(load_config(config))
    return finding


@pytest.mark.parametrize("case", WORDS, ids=lambda case: str(case.__name__))
def test_every_refusal_has_its_own_text_and_shows_no_password(
    tmp_path: Path, authority: Authority, stack: ExitStack, case: Case
) -> None:
    config = _config(tmp_path, {**case(tmp_path, authority, stack), **_password(tmp_path)})
    loaded = load_config(config)
    with structlog.testing.capture_logs() as lines:
        settings = settings_from_config(loaded.resolved_mqtt(), device="line-3")
        publisher = Publisher(MqttClient(replace(settings, backoff_base_s=0.05)), identity=IDENTITY)
        stack.callback(publisher.stop)
        publisher.start()
        wait_until(lambda: WORDS[case] in (publisher.statistics().connection.reason or ""))
        wait_until(lambda: any(line["event"] == "broker.disconnected" for line in lines))
        publisher.stop()
    told = [line["reason"] for line in lines if line["event"] == "broker.disconnected"]
    assert all(WORDS[case] in reason for reason in told)
    assert not any(line["event"] == "broker.connected" for line in lines)
    finding = _doctor(config)
    assert finding.state == "failed"
    assert WORDS[case] in finding.detail
    assert CANARY not in repr((lines, finding, publisher.statistics(), loaded, settings))


def test_the_doctor_tries_every_address_and_one_that_works_is_enough(tmp_path: Path, stack: ExitStack) -> None:
    broker = stack.enter_context(MosquittoBroker(tmp_path / "broker"))
    away = [f"mqtt://127.0.0.1:{free_port()}", f"unix://{tmp_path}/none"]
    found = broker_findings(load_config(_config(tmp_path, {"broker": [away[0], broker.url, away[1]]})))
    found = [one for one in found if one.name.startswith("broker")]  # the ways to them are measured too
    assert [(one.name, one.state, one.is_needed) for one in found] == [
        ("broker 1", "warning", True),
        ("broker 2", "ok", True),
        ("broker 3", "warning", True),
    ]
    assert "nothing listens" in found[0].detail
    assert "there is no socket" in found[2].detail
    assert "comes back to this one" in found[0].remedy
    found = broker_findings(load_config(_config(tmp_path, {"broker": away})))
    assert [one.state for one in found] == ["failed", "failed"]


def test_no_two_refusals_share_their_text() -> None:
    assert len({*WORDS.values()}) == len(WORDS)


def test_a_certificate_and_a_password_that_are_renewed_need_no_restart(
    tmp_path: Path, authority: Authority, stack: ExitStack
) -> None:
    mqtt = {**_tls(tmp_path, authority, stack), **_password(tmp_path, "old")}
    foreign = Authority(tmp_path / "foreign")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(foreign.certificate.read_bytes())
    config = _config(tmp_path, {**mqtt, "tls": {"ca_file": str(ca)}})
    settings = settings_from_config(load_config(config).resolved_mqtt(), device="line-3")
    publisher = Publisher(MqttClient(replace(settings, backoff_base_s=0.05)), identity=IDENTITY)
    stack.callback(publisher.stop)
    publisher.start()

    def has_reason(words: str) -> bool:
        return words in (publisher.statistics().connection.reason or "")

    wait_until(lambda: has_reason("ca_file"))
    ca.write_bytes(authority.certificate.read_bytes())
    wait_until(lambda: has_reason("not authorised"))
    _password(tmp_path)
    wait_until(lambda: publisher.statistics().connection.state == "connected")


def test_a_forbidden_topic_is_in_health_until_it_is_allowed(tmp_path: Path, stack: ExitStack) -> None:
    allowed = "user line-3\ntopic write edge/line-3/status\n"
    broker = stack.enter_context(MosquittoBroker(tmp_path / "broker", users={"line-3": CANARY}, acl=allowed))
    config = _config(tmp_path, {"broker": broker.url, **_password(tmp_path)})
    settings = settings_from_config(load_config(config).resolved_mqtt(), device="line-3")
    publisher = Publisher(MqttClient(replace(settings, backoff_base_s=0.05)), identity=IDENTITY)
    stack.callback(publisher.stop)
    publisher.start()
    publisher.offer(camera_health())
    publisher.offer(state_change())
    topics = {TOPICS.camera_health("front"), TOPICS.event("front", "inspect"), TOPICS.state("front", "inspect")}
    wait_until(lambda: publisher.statistics().denied.keys() == topics)
    assert set(publisher.statistics().denied.values()) == {"not_authorised"}
    (tmp_path / "broker" / "acl").write_text("user line-3\ntopic readwrite edge/line-3/#\n")
    broker.reload()
    wait_until(lambda: broker.log().count("Reloading config") >= 1)
    publisher.offer(camera_health())
    wait_until(lambda: TOPICS.camera_health("front") not in publisher.statistics().denied)
