"""Every name stays one level of the topic tree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.mqtt.topics import Topics, level

_NAMES = st.text(st.characters(exclude_categories=()), max_size=64)
_CONFIGURED = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


@given(_NAMES)
def test_any_name_becomes_exactly_one_level(name: str) -> None:
    escaped = level(name)
    assert escaped
    assert not set(escaped) & set("/+#\0")
    assert not escaped.startswith("$")
    escaped.encode("utf-8")


@given(_NAMES, _NAMES)
def test_two_names_never_share_a_level(one: str, other: str) -> None:
    assert (level(one) == level(other)) == (one == other)


@given(_CONFIGURED)
def test_a_configured_name_passes_unchanged(name: str) -> None:
    assert level(name) == name


@given(_NAMES, _NAMES, _NAMES)
def test_every_topic_stays_under_its_device(device: str, camera: str, classifier: str) -> None:
    topics = Topics("edge/site", device)
    root = f"edge/site/{level(device)}/"
    for topic, levels in (
        (topics.status, 1),
        (topics.runtime, 1),
        (topics.latency, 1),
        (topics.thermal, 1),
        (topics.health, 1),
        (topics.camera_health(camera), 3),
        (topics.result(camera, classifier), 4),
        (topics.state(camera, classifier), 4),
        (topics.event(camera, classifier), 4),
    ):
        assert topic.startswith(root)
        assert topic.removeprefix(root).count("/") == levels - 1
