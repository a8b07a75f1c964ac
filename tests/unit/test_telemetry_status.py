"""What `systemctl status` says: what is wrong now, the worst first, on one short line."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cameras.camera import CameraStatistics
from agent.cameras.frame_counters import CameraCounts
from agent.daemon.notify import Notifier
from agent.inference.worker import WorkerStatistics
from agent.mqtt.base import OtherAddress, SinkStatistics
from agent.publish.delivery.counters import DeliveryReport
from agent.publish.delivery.held_topics import HeldTopic
from agent.publish.publisher import PublisherStatistics
from agent.runtime.secrets import Secret
from agent.telemetry.status import MAX_CHARACTERS, Observation, StatusLine, duration, line_from_texts, problems, usual
from agent.thermal.monitor import ThermalStatistics
from engines import BuildProgress, EngineInfo

_LINK = SinkStatistics("connected", "mqtt://broker:1883", "5", 0, None, 0, 0)
_PUBLISHER = PublisherStatistics(0, {}, 0, 0, 0, _LINK, None)
_COOL = ThermalStatistics(
    source="sysfs", sensor="reading", hottest_zone="cpu", hottest_celsius=50.0, total_watts=None, is_throttling=False,
    throttle_causes={}, over_current_hz={}, clock_ratio=1.0, levers=(), cause=None,
    state="free", rate_ratio=1.0, reason="cool", readings=1, silent_looks=0, changes=0, snapshots=0, jtop_restarts=0,
)  # fmt: skip
_BUILD = BuildProgress(engine="tensorrt", model="m-1.0.0", phase="building", elapsed_s=140.4, done_ratio=0.25)


def _camera(name: str = "front", state: Any = "connected", error: str | None = None, **more: Any) -> CameraStatistics:
    counts = CameraCounts(captured=0, classified=0, dropped={}, in_flight=0, classifiers={})
    optional = {
        "fps": 30.0,
        "reconnects": 0,
        "last_frame_age_s": 0.1,
        "image_fault": None,
        "skipped": {},
        **more,
    }
    return CameraStatistics(name=name, state=state, error=error, counts=counts, **optional)


def _worker(
    model: str = "inspect", degraded: str | None = None, build: BuildProgress | None = None
) -> WorkerStatistics:
    info = EngineInfo(
        name="ort-cpu", requested="auto", precision="fp32", requested_precision="fp32", device="cpu", max_batch=1,
        classes=3, degraded=degraded,
    )  # fmt: skip
    return WorkerStatistics(model, None, info, 0, 0, 0, 0, None, building=build)


def _seen(**parts: Any) -> Observation:
    whole: dict[str, Any] = {"cameras": (_camera(),), "workers": (_worker(),), "arriving": ()}
    return Observation(**{**whole, "publisher": _PUBLISHER, "thermal": _COOL, **parts})


def _link(**fields: Any) -> PublisherStatistics:
    return replace(_PUBLISHER, connection=replace(_LINK, **fields))


def _held(*topics: str) -> DeliveryReport:
    return DeliveryReport({topic: HeldTopic("closes_connection", 0, 1, 0) for topic in topics})


_REFUSED = "/etc/agent/agent.yaml has 2 faults:\n  /etc/agent/agent.yaml:12: a: no\n  /etc/agent/agent.yaml:14: b: no"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"cameras": (_camera(state="lost", error="no route"),)}, "camera front lost for 12 s (no route)"),
        ({"cameras": (_camera(state="connecting"),)}, "camera front not connected for 12 s"),
        (
            {"publisher": _link(others=(OtherAddress("mqtt://a:1883", "refused", is_preferred=True),))},
            "broker mqtt://broker:1883 in use instead of mqtt://a:1883 for 12 s (refused)",
        ),
        ({"cameras": (_camera(state="ended", error="unreadable"),)}, "camera front ended: unreadable"),
        ({"cameras": (_camera(image_fault="black"),)}, "camera front shows black frames for 12 s"),
        ({"thermal": replace(_COOL, state="paused", reason="cpu at 97 °C")}, "paused by heat: cpu at 97 °C"),
        (
            {"thermal": replace(_COOL, state="reduced", rate_ratio=0.5, reason="gpu at 91 °C")},
            "rate at 50% by heat: gpu at 91 °C",
        ),
        ({"thermal": replace(_COOL, state="blind", reason="no sensor")}, "no temperature: no sensor"),
        ({"workers": (_worker(build=_BUILD),)}, "building tensorrt for inspect: 140 s, building 25%"),
        ({"arriving": (_worker("next", build=_BUILD),)}, "building tensorrt for next: 140 s, building 25%"),
        ({"refused": _REFUSED}, "reload refused: agent.yaml:12: a: no (and 1 more)"),
        ({"refused": "/a/b.yaml:3: x: bad"}, "reload refused: b.yaml:3: x: bad"),
        ({"refused": "no such model"}, "reload refused: no such model"),
        (
            {"publisher": _link(state="disconnected", reason="bad password")},
            "broker mqtt://broker:1883 not connected for 12 s (bad password)",
        ),
        ({"publisher": _link(state="connecting")}, "broker mqtt://broker:1883 not connected for 12 s"),
        ({"publisher": replace(_PUBLISHER, denied={"a/b": "no right", "a/c": "x"})},
         "broker refuses a/b and 1 more: no right"),
        (
            {"publisher": replace(_PUBLISHER, denied={"a/b": "no right"}, delivery=_held("a/b", "a/c", "a/d"))},
            "broker refuses a/b: no right; broker does not take a/c and 1 more: closes_connection",
        ),
        (
            {"publisher": replace(_PUBLISHER, durability_reason="disk full")},
            "events wait in memory only, a restart loses them: disk full",
        ),
        ({"workers": (_worker(degraded="no GPU"),)}, "inspect degraded: no GPU"),
        ({"stuck": "camera front is 9 s overdue"}, "stuck, the watchdog will end it: camera front is 9 s overdue"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_reason(parts: Mapping[str, Any], said: str) -> None:
    assert "; ".join(problem.text(12.7) for problem in problems(_seen(**parts))) == said


def test_nothing_wrong_is_the_usual_line() -> None:
    seen = _seen(cameras=(_camera(), _camera("back", "ended")))
    assert list(problems(seen)) == []
    assert usual(seen) == "2 camera(s), engine ort-cpu"
    assert "loading the engines of inspect" in usual(replace(seen, is_starting=True))
    assert list(problems(_seen(publisher=_link(state="stopped")))) == []


def test_several_come_the_worst_first() -> None:
    seen = _seen(
        cameras=(_camera("a", image_fault="black"), _camera("b", "lost", "gone")),
        workers=(_worker(degraded="no GPU", build=_BUILD),),
        publisher=_link(state="disconnected", reason="bad password"),
        thermal=replace(_COOL, state="paused", reason="hot"),
        refused="no",
        stuck="x",
    )
    order = [problem.key for problem in problems(seen)]
    assert order == ["stuck", "camera b", "frames a", "heat", "broker", "reload", "degraded inspect", "build inspect"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (179.9, "179 s"),
        (180, "3 min"),
        (7199, "119 min"),
        (7500, "2 h 5 min"),
        (200_000, "2 d"),
        (-1, "0 s"),
    ],
)
def test_a_duration_is_as_exact_as_anybody_wants(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_line_is_bounded_and_counts_what_it_leaves_out() -> None:
    texts = [f"camera {number} lost for 3 s ({'x' * 60})" for number in range(20)]
    line = line_from_texts(texts)
    shown = line.count("lost for")
    assert len(line) <= MAX_CHARACTERS
    assert line.endswith(f"; and {20 - shown} more")
    assert line_from_texts(["y" * 1000]) == "y" * MAX_CHARACTERS
    assert line_from_texts([]) == ""


def test_a_reason_is_one_short_line_without_credentials() -> None:
    secret = Secret("correct horse")
    reason = f"rtsp://u:{secret.reveal()}@cam/1\nrefused correct horse {'z' * 500}"
    (problem,) = problems(_seen(cameras=(_camera(state="lost", error=reason),)))
    text = problem.text(1)
    assert "horse" not in text
    assert "\n" not in text
    assert len(text) < 200


class _Clock:
    """Time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def utc_ns(self) -> int:
        return 0

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        raise NotImplementedError


class _SentLines:
    """A status line over an observation that the test sets, and what the service manager received."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.clock = _Clock()
        self.seen = _seen()
        self._notifier = Notifier(listener.getsockname())
        self.line = StatusLine(self._notifier, lambda: self.seen, clock=self.clock)

    def within(self, seconds: float) -> list[tuple[float, str]]:
        """When, from now, and what is sent while the main loop runs for that long."""
        sent, began_s = [], self.clock.now_s
        while self.clock.now_s < began_s + seconds - 0.05:
            self.clock.now_s += 0.1
            self.line.tick()
            sent += [(self.clock.now_s - began_s, text) for text in self._received()]
        return sent

    def _received(self) -> list[str]:
        """What has arrived: a datagram is there as soon as it was sent."""
        texts = []
        while select.select([self._listener], [], [], 0)[0]:
            texts.append(self._listener.recv(4096).decode())
        return texts

    def close(self) -> None:
        self._notifier.close()


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[_SentLines]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        telling = _SentLines(listener)
        yield telling
        telling.close()


def test_a_change_is_sent_within_a_second_and_the_usual_line_comes_back(sent: _SentLines) -> None:
    assert [text for _, text in sent.within(30)] == ["STATUS=1 camera(s), engine ort-cpu"]
    sent.seen = _seen(cameras=(_camera(state="lost", error="gone"),))
    (after_s, text), *_ = sent.within(1.2)
    assert (text, after_s <= 1.1) == ("STATUS=camera front lost for 0 s (gone)", True)
    sent.seen = _seen()
    (after_s, text), *_ = sent.within(1.2)
    assert (text, after_s <= 1.2) == ("STATUS=1 camera(s), engine ort-cpu", True)
    sent.seen = _seen(cameras=(_camera(state="lost", error="gone"),))
    assert "for 0 s" in sent.within(1.2)[0][1], "it lasts from its own beginning, not from the first one's"


def test_passing_seconds_are_sent_every_ten(sent: _SentLines) -> None:
    sent.seen = _seen(cameras=(_camera(state="lost", error="gone"),))
    assert len(sent.within(60)) in (6, 7)
    sent.seen = _seen(workers=(_worker(build=_BUILD),))
    sent.within(2)
    lines = []
    for second in range(60):
        sent.seen = _seen(workers=(_worker(build=replace(_BUILD, elapsed_s=141.0 + second)),))
        lines += sent.within(1)
    assert len(lines) in (5, 6, 7), lines


def test_a_part_that_changes_all_the_time_is_sent_once_a_second(sent: _SentLines) -> None:
    lines = []
    for turn in range(100):
        sent.seen = _seen(cameras=(_camera(state="lost", error=f"attempt {turn}"),))
        lines += sent.within(0.1)
    assert len(lines) <= 11


def test_a_camera_that_opens_is_no_news_before_some_seconds(sent: _SentLines) -> None:
    sent.seen = _seen(cameras=(_camera(state="connecting"),))
    sent.within(4)
    lines = sent.within(3)
    assert [text for _, text in lines] == ["STATUS=camera front not connected for 5 s"]
