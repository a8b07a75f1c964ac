"""The live view: what it keeps of the messages, and what its picture shows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.mqtt.messages import (
    AnyMessage,
    Message,
    compact_from_classification,
    result_from_classification,
    state_from_state_change,
)
from agent.mqtt.topics import Topics, encode
from agent.tools.watch.fleet import FleetView
from agent.tools.watch.lines import lines_from_fleet
from agent.tools.watch.terminal import duration, render
from tests.fixtures.publish_samples import (
    DEVICE,
    SESSION,
    TOPICS,
    camera_health,
    classification,
    health,
    runtime,
    state_change,
)


def changed(message: Message, **changes: object) -> bytes:
    """The message's JSON with some fields of other sections replaced, ``a__b`` for ``b`` in ``a``."""
    data = json.loads(encode(message))
    for path, value in changes.items():
        *sections, last = path.split("__")
        target = data
        for section in sections:
            target = target[section]
        target[last] = value
    return json.dumps(data).encode()


def heard(
    view: FleetView,
    topics: Topics = TOPICS,
    *,
    seconds: int = 5,
    rate: int = 15,
    state: str = "online",
    is_compact: bool = True,
) -> None:
    """One device with one camera, whose classifier answered for ``seconds``, from 0 on."""
    view.update(topics.status, json.dumps({"state": state}).encode(), now_s=0.0)
    view.update(topics.runtime, encode(runtime()), now_s=0.0)
    view.update(topics.health, encode(health()), now_s=0.0)
    view.update(topics.camera_health("front"), encode(camera_health()), now_s=0.0)
    change = state_from_state_change(
        state_change(), device=DEVICE, session=SESSION, seq=0, at_utc_ns=0, clock_state="synced"
    )
    view.update(topics.state("front", "inspect"), encode(change), now_s=0.0)
    for index in range(seconds * rate):
        result: AnyMessage = result_from_classification(
            classification(index), device=DEVICE, session=SESSION, seq=index, clock_state="synced"
        )
        if is_compact:
            result = compact_from_classification(
                classification(index), session=SESSION, seq=index, clock_state="synced"
            )
        view.update(topics.result("front", "inspect"), encode(result), now_s=index / rate)


def text_of(view: FleetView, *, now_s: float, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render(view, now_s=now_s, width=width, heading="edge at mqtt://h:1883"))
    return capture.get()


@pytest.mark.parametrize("width", [120, 80])
def test_the_picture_shows_label_confidence_rate_and_latency_at_any_width(width: int) -> None:
    view = FleetView("edge")
    heard(view)
    text = text_of(view, now_s=5.0, width=width)
    for word in ("line-3", "online", "front", "inspect", "dent", "0.91", "14.8", "8.1", "Jetson Orin Nano", "MQTT 5"):
        assert word in text
    assert all(len(line) <= width for line in text.splitlines())


def test_a_degraded_engine_a_lost_camera_and_a_dead_agent_are_said() -> None:
    view = FleetView("edge")
    heard(view)
    view.update(TOPICS.health, changed(health(), models__inspect__degraded="TensorRT is not installed"), now_s=1.0)
    lost = changed(camera_health("lost"), error="no frame for 5 s")
    view.update(TOPICS.camera_health("front"), lost, now_s=1.0)
    text = text_of(view, now_s=5.0)
    assert "degraded: TensorRT is not installed" in text
    assert "lost" in text
    assert "front: no frame for 5 s" in text
    view.update(TOPICS.status, b'{"state": "offline"}', now_s=2.0)
    assert "offline" in text_of(view, now_s=5.0)


def test_time_and_rate_go_on_between_two_healths() -> None:
    view = FleetView("edge")
    heard(view, seconds=0)
    view.update(TOPICS.health, changed(health(), uptime_s=0.2), now_s=0.0)
    view.update(TOPICS.camera_health("front"), changed(camera_health(), fps=0.0), now_s=0.0)
    for index in range(40):  # every third frame of 30 a second is classified
        result = result_from_classification(
            classification(20 + index), device=DEVICE, session=SESSION, seq=index, clock_state="synced"
        )
        data = changed(result, frame=1000 + 3 * index)
        view.update(TOPICS.result("front", "inspect"), data, now_s=1.0 + index / 10)
    text = text_of(view, now_s=5.0)
    assert "up 5 s" in text
    assert " 0.0 " not in text
    assert view.devices[DEVICE].cameras["front"].fps(5.0) == pytest.approx(30.0)


def test_frames_that_begin_again_are_no_negative_rate() -> None:
    view = FleetView("edge")
    heard(view)
    camera = view.devices[DEVICE].cameras["front"]
    camera.add_frame(900.0, 5.0)
    camera.add_frame(3.0, 5.1)
    camera.add_frame(4.0, 5.2)
    assert camera.fps(5.2) == pytest.approx(10.0)
    camera.add_frame(None, 5.3)
    assert camera.fps(30.0) == camera.health.number("fps")


@pytest.mark.parametrize("state", ["stopped", "offline"])
@pytest.mark.parametrize("width", [120, 80])
def test_of_an_agent_that_does_not_run_nothing_is_said_in_the_present(state: str, width: int) -> None:
    view = FleetView("edge")
    heard(view, state=state)
    view.update(TOPICS.camera_health("front"), changed(camera_health("lost"), error="no frame for 5 s"), now_s=1.0)
    text = text_of(view, now_s=5.0, width=width)
    for word in ("connected", "lost", "no frame for 5 s", " up ", "MQTT 5", "CPU "):
        assert word not in text
    assert f"line-3 {state}" in text


@pytest.mark.parametrize("width", [120, 80, 40])
def test_no_remedy_is_cut(width: int) -> None:
    reason = "the plan was built by another TensorRT; " * 8 + "run agent build -c agent.yaml"
    view = FleetView("edge")
    heard(view)
    view.update(TOPICS.health, changed(health(), models__inspect__degraded=reason), now_s=1.0)
    lost = changed(camera_health("lost"), error="no route; " * 30 + "check the cable")
    view.update(TOPICS.camera_health("front"), lost, now_s=1.0)
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render(view, now_s=1.0, width=width, heading="edge at mqtt://h:1883: refused; " * 5 + "go on"))
    words = " ".join(capture.get().replace("│", " ").split())
    for end in ("run agent build -c agent.yaml", "check the cable", "go on"):
        assert end in words


def test_a_classifier_without_results_for_a_while_says_so() -> None:
    view = FleetView("edge")
    heard(view)
    assert "1 min 35 s ago" in text_of(view, now_s=100.0)


@pytest.mark.parametrize("is_compact", [True, False])
def test_rates_and_latencies_are_of_the_last_seconds_only(*, is_compact: bool) -> None:
    view = FleetView("edge")
    heard(view, seconds=20, rate=10, is_compact=is_compact)
    classifier = view.devices[DEVICE].cameras["front"].classifiers["inspect"]
    assert classifier.results == 200
    assert classifier.rate_hz(20.0) == pytest.approx(10.0, abs=0.5)
    assert classifier.latency_ms(20.0, 50) == pytest.approx(8.05)
    assert classifier.rate_hz(30.0) == 0.0
    assert classifier.latency_ms(30.0, 50) is None


def test_all_devices_of_the_prefix_are_shown_and_no_others() -> None:
    view = FleetView("hall/edge")
    heard(view, Topics("hall/edge", "a"))
    heard(view, Topics("hall/edge", "b"))
    heard(view, Topics("other", "c"))
    assert sorted(view.devices) == ["a", "b"]
    assert view.unreadable > 0


def test_before_the_first_message_the_picture_says_that_nothing_was_heard() -> None:
    view = FleetView("edge")
    assert "No messages under edge/" in text_of(view, now_s=0.0)
    assert list(lines_from_fleet(view, now_s=0.0)) == ["no messages under edge/ yet"]


def test_an_empty_retained_message_takes_the_device_out() -> None:
    view = FleetView("edge")
    view.update("edge/a/status", b'{"state":"stopped"}', now_s=0.0)
    view.update("edge/a/status", b"", now_s=0.0)
    assert view.devices == {}


def test_empty_retained_messages_take_a_classifier_and_then_its_camera_out() -> None:
    view = FleetView("edge")
    for topic in ("a/status", "a/camera/front/health", "a/camera/front/one/state", "a/camera/front/two/state"):
        view.update(f"edge/{topic}", b'{"state":"x","label":"y"}', now_s=0.0)
    view.update("edge/a/camera/front/one/state", b"", now_s=0.0)
    assert list(view.devices["a"].cameras["front"].classifiers) == ["two"]
    for topic in ("a/camera/front/two/state", "a/camera/front/health", "a/camera/nobody/health", "b/camera/c/health"):
        view.update(f"edge/{topic}", b"", now_s=0.0)
    assert view.devices["a"].cameras == {}
    assert view.unreadable == 0


def test_off_a_terminal_each_classifier_is_one_line() -> None:
    view = FleetView("edge")
    heard(view)
    assert list(lines_from_fleet(view, now_s=5.0)) == [
        "line-3 online front/inspect: dent 0.91, 14.8 results/s, p50 8.1 ms, p99 8.1 ms, dropped 2"
    ]


def test_names_from_the_network_cannot_steer_the_terminal() -> None:
    view = FleetView("edge")
    view.update("edge/a%1B%5B2J/status", b'{"state":"\\u001b[2J"}', now_s=0.0)
    view.update("edge/a/camera/x\x1b[31m/k/result", b'{"label":"\\u001b]0;x\\u0007"}', now_s=0.0)
    assert "\x1b" not in text_of(view, now_s=0.0)
    assert "\x1b" not in "".join(lines_from_fleet(view, now_s=0.0))


def test_numbers_beyond_all_measure_do_not_end_the_view() -> None:
    view = FleetView("edge")
    beyond = b'{"dropped": {"rate": 1e308, "failed": 1e308}, "fps": 1e308}'
    heat = (
        b'{"hottest": "cpu", "zones": {"cpu": {"celsius": 1e308}}, "governor": {"state": "free", "rate_ratio": 1e308}}'
    )
    view.update("edge/x/camera/front/health", beyond, now_s=1.0)
    view.update("edge/x/camera/front/inspect/state", b'{"label": "ok"}', now_s=1.0)
    view.update("edge/x/thermal", heat, now_s=1.0)
    assert "front" in text_of(view, now_s=2.0)
    assert "dropped 0" in "".join(lines_from_fleet(view, now_s=2.0))


def test_a_flood_of_names_is_bounded_and_counted() -> None:
    view = FleetView("edge")
    for number in range(1000):
        view.update(f"edge/d{number}/status", b"{}", now_s=0.0)
        view.update(f"edge/d0/camera/c{number}/health", b"{}", now_s=0.0)
        view.update(f"edge/d0/camera/c0/k{number}/result", b"{}", now_s=0.0)
    assert len(view.devices) == 200
    assert len(view.devices["d0"].cameras) == 256
    assert len(view.devices["d0"].cameras["c0"].classifiers) == 256
    assert view.left_out > 0


levels = st.sampled_from(
    ["edge", "a", "status", "health", "runtime", "thermal", "camera", "c", "k", "result", "state", "event", "", "%zz"]
)
keys = st.sampled_from(
    ["state", "label", "models", "m", "zones", "hottest", "governor", "latency_ms", "total", "dropped", "connection"]
)
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(keys, below, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.tuples(st.lists(levels, max_size=7), values | st.binary(max_size=4)), max_size=8))
def test_no_message_at_all_makes_the_view_fail(messages: list[tuple[list[str], object]]) -> None:
    view = FleetView("edge")
    for number, (parts, value) in enumerate(messages):
        payload = value if isinstance(value, bytes) else json.dumps(value).encode()
        view.update("/".join(["edge", *parts]), payload, now_s=float(number))
    assert text_of(view, now_s=10.0)
    assert list(lines_from_fleet(view, now_s=10.0))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
