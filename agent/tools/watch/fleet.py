"""The state of a fleet of agents, from their messages. ``terminal`` and ``lines`` show it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from urllib.parse import unquote

from agent.runtime.statistics import percentiles
from agent.tools.watch.documents import Document, document_from_payload, printable
from agent.tools.watch.history import History

WINDOW_S = 5.0
"""Rates and latencies are taken over this window."""
_MAX_DEVICES = 200
_MAX_PARTS = 256
_MAX_RESULTS = 4096

_OF_DEVICE = frozenset({"status", "runtime", "latency", "thermal", "health"})
_OF_CLASSIFIER = frozenset({"result", "state", "event"})


def _total_ms(result: Document) -> float:
    """From the start of the capture to the decision; 0 if the result does not say it."""
    total = result.number("latency_ms", "total")
    return sum(result.numbers("stages_ms")) if total is None else total


@dataclass(slots=True)
class ClassifierView:
    """One classifier: its newest messages, and the times and latencies of recent results."""

    result: Document = field(default_factory=Document)
    state: Document = field(default_factory=Document)
    results: int = 0
    events: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MAX_RESULTS))

    def add_result(self, result: Document, now_s: float) -> None:
        """Add one result that arrived at ``now_s`` (monotonic)."""
        self.result = result
        self.results += 1
        label = result.text("label")
        if label is not None and (label in self.labels or len(self.labels) < _MAX_PARTS):
            self.labels[label] = self.labels.get(label, 0) + 1
        self._recent.append((now_s, _total_ms(result)))

    def rate_hz(self, now_s: float) -> float:
        """Results per second over the window; 0 if it has none."""
        times = [at for at, _ in self._recent if now_s - at <= WINDOW_S]
        if not times:
            return 0.0
        # Measured from the first result, so that it is right before a whole window has passed.
        return (len(times) - 1) / (now_s - times[0]) if len(times) > 1 and now_s > times[0] else 1 / WINDOW_S

    def latency_ms(self, now_s: float, percent: int, *, window_s: float = WINDOW_S) -> float | None:
        """A percentile of the latencies of the last ``window_s`` seconds (4096 results at most)."""
        values = [ms for at, ms in self._recent if now_s - at <= window_s]
        return percentiles(values, (percent,))[0] if values else None

    @property
    def decided(self) -> str | None:
        """What is decided: a label or a word, or the labels of a model that finds several; None before a state."""
        if not self.state:
            return None
        word = self.state.text("label")
        return word if word is not None else ", ".join(self.state.texts("labels")) or "none"

    @property
    def last_result_s(self) -> float | None:
        """When the newest result arrived, monotonic."""
        return self._recent[-1][0] if self._recent else None


@dataclass(slots=True)
class CameraView:
    """One camera and its classifiers."""

    health: Document = field(default_factory=Document)
    classifiers: dict[str, ClassifierView] = field(default_factory=dict)
    _frames: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MAX_RESULTS))

    def add_frame(self, frame: float | None, now_s: float) -> None:
        """The number of the newest frame, from a result that arrived at ``now_s`` (monotonic)."""
        if frame is None or (self._frames and frame == self._frames[-1][1]):
            return
        if self._frames and frame < self._frames[-1][1]:  # the agent has started again
            self._frames.clear()
        self._frames.append((now_s, frame))

    def fps(self, now_s: float) -> float | None:
        """Frames per second over the window, by their numbers; else as its health said, up to 10 s ago."""
        recent = [(at, frame) for at, frame in self._frames if now_s - at <= WINDOW_S]
        if len(recent) > 1 and recent[-1][0] > recent[0][0]:
            (first_s, first), (last_s, last) = recent[0], recent[-1]
            return (last - first) / (last_s - first_s)
        return self.health.number("fps")


@dataclass(slots=True)
class DeviceView:
    """One agent: its own messages by their topic's last level, and its cameras."""

    messages: dict[str, Document] = field(default_factory=dict)
    arrived_s: dict[str, float] = field(default_factory=dict)
    """When each arrived, monotonic."""
    cameras: dict[str, CameraView] = field(default_factory=dict)
    heat: History = field(default_factory=History)

    def message(self, name: str) -> Document:
        """The newest ``status``, ``runtime`` ...; an empty one before the first."""
        return self.messages.get(name, Document())

    @property
    def is_running(self) -> bool:
        """Whether what its other messages say may still be true: they stay at the broker after an agent's end."""
        return self.message("status").text("state") not in {"stopped", "offline"}

    def uptime_s(self, now_s: float) -> float | None:
        """Seconds since the start of the session: of the newest health, and since it arrived."""
        uptime_s = self.message("health").number("uptime_s")
        return None if uptime_s is None else uptime_s + now_s - self.arrived_s["health"]

    def visible_cameras(self) -> list[str]:
        """Cameras in alphabetical order, without those that the running configuration no longer has.

        Their retained messages stay in the broker until they are cleared.
        """
        configured = set(self.message("runtime").section("cameras").names())
        return sorted(name for name in self.cameras if not configured or name in configured)


class FleetView:
    """All devices under one topic prefix. Used by one thread.

    Unknown topics and payloads are counted in ``unreadable``. The number of devices, cameras and classifiers is
    limited; those above the limit are counted in ``left_out``.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.devices: dict[str, DeviceView] = {}
        self.messages = 0
        self.unreadable = 0
        self.left_out = 0

    def update(self, topic: str, payload: bytes, *, now_s: float) -> None:
        """Process one message; ``now_s`` is monotonic."""
        self.messages += 1
        levels = topic.removeprefix(f"{self.prefix}/").split("/")
        if not topic.startswith(f"{self.prefix}/") or not 2 <= len(levels) <= 5:
            self.unreadable += 1
            return
        if levels[-1] == "snapshot":  # an image, which this view does not show
            return
        if not payload:  # a retained message was cleared
            self._forget(levels)
            return
        document = document_from_payload(payload)
        if document is None or not self._place(levels, document, now_s):
            self.unreadable += 1

    def _place(self, levels: list[str], document: Document, now_s: float) -> bool:
        device_level, *rest = levels
        if len(rest) == 1 and rest[0] in _OF_DEVICE:
            device = self._device(device_level)
            if device is not None:
                device.messages[rest[0]] = document
                device.arrived_s[rest[0]] = now_s
                if rest[0] == "thermal":
                    device.heat.add(document, now_s)
            return True
        if rest[0] != "camera" or len(rest) < 3:
            # Commands and replies have topics below the device too; this view ignores them.
            return rest[0] in {"cmd", "reply", "camera"} and len(rest) > 1
        if len(rest) == 3:
            if rest[2] == "health" and (camera := self._camera(device_level, rest[1])) is not None:
                camera.health = document
            return rest[2] == "health"
        return self._place_of_classifier(device_level, rest, document, now_s)

    def _place_of_classifier(self, device_level: str, rest: list[str], document: Document, now_s: float) -> bool:
        _, camera_level, classifier_level, kind = rest
        if kind not in _OF_CLASSIFIER:
            return False
        camera = self._camera(device_level, camera_level)
        if camera is None:
            return True
        name = printable(unquote(classifier_level))
        if name not in camera.classifiers and len(camera.classifiers) >= _MAX_PARTS:
            self.left_out += 1
            return True
        classifier = camera.classifiers.setdefault(name, ClassifierView())
        if kind == "result":
            classifier.add_result(document, now_s)
            camera.add_frame(document.number("frame"), now_s)
        elif kind == "state":
            classifier.state = document
        else:
            classifier.events += 1
        return True

    def _device(self, level: str) -> DeviceView | None:
        name = printable(unquote(level))
        if name not in self.devices:
            if len(self.devices) >= _MAX_DEVICES:
                self.left_out += 1
                return None
            self.devices[name] = DeviceView()
        return self.devices[name]

    def _camera(self, device_level: str, level: str) -> CameraView | None:
        device = self._device(device_level)
        name = printable(unquote(level))
        if device is None:
            return None
        if name not in device.cameras and len(device.cameras) >= _MAX_PARTS:
            self.left_out += 1
            return None
        return device.cameras.setdefault(name, CameraView())

    def _forget(self, levels: list[str]) -> None:
        name = printable(unquote(levels[0]))
        device = self.devices.get(name)
        if device is None:
            return
        if len(levels) == 2:
            device.messages.pop(levels[1], None)
        elif levels[1] == "camera" and len(levels) > 3:
            self._forget_camera(device, [printable(unquote(level)) for level in levels[2:]])
        if not device.messages and not device.cameras:
            del self.devices[name]

    def _forget_camera(self, device: DeviceView, levels: list[str]) -> None:
        """A cleared health removes the camera, a cleared state removes the classifier."""
        camera = device.cameras.get(levels[0])
        if camera is None:
            return
        if levels[1:] == ["health"]:
            camera.health = Document()
        elif levels[2:] == ["state"]:
            camera.classifiers.pop(levels[1], None)
        if not camera.classifiers and not camera.health:
            del device.cameras[levels[0]]
