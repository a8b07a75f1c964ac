"""The loads that are measured: one thing grows, all else stays as it is."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent.demo import demo_package
from agent.publish.outbox.choose import FILE_NAME
from scripts.performance.clips import draw_turns
from scripts.performance.decoding import draw_clip
from scripts.performance.make_models import small_classifier, write_package
from scripts.performance.outbox_drain import fill
from scripts.performance.scale.point import Point, Work, measure
from tests.fixtures.mosquitto import free_port
from tests.fixtures.rtsp_server import silent_listener

_CLIP_FRAMES = 100
_EVENTS_A_CAMERA = 50
_OUTBOX = MappingProxyType({"outbox": {"max_mib": 65536}})


@dataclass(frozen=True, slots=True)
class Place:
    """Where clips, models and the cache of graphs are kept from run to run."""

    work: Path

    @property
    def cache(self) -> Path:
        """Graphs."""
        return self.work / "cache"

    def clip(self) -> Path:
        """A moving scene of 720p, 4 s at 25 frames a second."""
        return self._made("scale-720p.mp4", lambda path: draw_clip(path, 1280, 720, _CLIP_FRAMES))

    def changing_clip(self) -> Path:
        """A clip whose frames show a good part and a scratched one in turn, so every frame changes the label."""
        return self._made("scale-changing.mp4", _draw_changes)

    def package(self, classes: int) -> Path:
        """A small model with ``classes`` classes and random weights."""
        folder = self.work / "models" / f"classes{classes}-1.0.0"
        if not (folder / "model.yaml").is_file():
            write_package(small_classifier(classes), f"classes{classes}", self.work / "models", classes=classes)
        return folder

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.work / name
        if not path.is_file():
            self.work.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"part-{name}")
            make(part)
            part.rename(path)
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What grows, in which steps, and what an agent has to do at each. ``quick`` are the steps of a trial."""

    title: str
    unit: str
    steps: tuple[int, ...]
    quick: tuple[int, ...]
    work: Callable[[Place, int], contextlib.AbstractContextManager[Work]]

    def prepare(self, place: Place, *, is_quick: bool) -> None:
        """Make the clips and models that are not there yet."""
        for units in self._steps(is_quick=is_quick):
            with self.work(place, units):
                pass

    def points(self, place: Place, *, is_quick: bool, seconds: float) -> list[Point]:
        """Measure each step."""
        found = []
        for units in self._steps(is_quick=is_quick):
            with self.work(place, units) as work:
                found.append(measure(units, work, place.cache, seconds))
        return found

    def _steps(self, *, is_quick: bool) -> tuple[int, ...]:
        return self.quick if is_quick else self.steps


def _model(package: Path) -> dict[str, object]:
    return {"package": str(package.resolve()), "engine": "ort-cpu", "strict": True}


def _file(clip: Path) -> dict[str, object]:
    return {"type": "file", "path": str(clip.resolve()), "loop": True}


def _camera(source: Mapping[str, object], rate_hz: float, models: Sequence[str] = ("m",), **rest: object) -> Any:
    return {"source": dict(source), "rate_hz": rate_hz, "classify": [{"model": one, **rest} for one in models]}


def _cameras(fps: float) -> Callable[[Place, int], contextlib.AbstractContextManager[Work]]:
    @contextlib.contextmanager
    def work(place: Place, count: int) -> Iterator[Work]:
        camera = _camera(_file(place.clip()), fps)
        cameras = {f"camera{number}": camera for number in range(count)}
        yield Work(models={"m": _model(demo_package())}, cameras=cameras, offered_hz=count * fps)

    return work


@contextlib.contextmanager
def _models(place: Place, count: int) -> Iterator[Work]:
    models = {f"m{number}": _model(demo_package()) for number in range(count)}
    cameras = {"camera": _camera(_file(place.clip()), 10.0, list(models))}
    yield Work(models=models, cameras=cameras, offered_hz=count * 10.0)


@contextlib.contextmanager
def _classes(place: Place, count: int) -> Iterator[Work]:
    cameras = {"camera": _camera(_file(place.clip()), 10.0)}
    yield Work(models={"m": _model(place.package(count))}, cameras=cameras, offered_hz=10.0)


@contextlib.contextmanager
def _events(place: Place, rate_hz: int) -> Iterator[Work]:
    count = -(-rate_hz // _EVENTS_A_CAMERA)
    at_once = {"enter": 0.3, "exit": 0.2, "votes": 1, "window": 1}
    camera = _camera(_file(place.changing_clip()), rate_hz / count, decide=at_once)
    cameras = {f"camera{number}": camera for number in range(count)}
    yield Work(models={"m": _model(demo_package())}, cameras=cameras, offered_hz=float(rate_hz))


@contextlib.contextmanager
def _outbox(place: Place, rows: int) -> Iterator[Work]:
    cameras = {"camera": _camera(_file(place.clip()), 10.0)}
    yield Work(
        models={"m": _model(demo_package())},
        cameras=cameras,
        offered_hz=10.0,
        mqtt=_OUTBOX,
        prepare=lambda state: fill(state / FILE_NAME, rows),
        counter=lambda state: _gone(state / FILE_NAME, rows),
    )


def _gone(path: Path, rows: int) -> int:
    """Rows that have left the file, which are numbered from 1 to ``rows``."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        first = file.execute("SELECT min(key) FROM waiting WHERE key <= ?", (rows,)).fetchone()[0]
    return rows if first is None else first - 1


@contextlib.contextmanager
def _dead(place: Place, count: int) -> Iterator[Work]:
    """Half of the dead cameras refuse the connection, the other half accept it and never answer."""
    with silent_listener() as silent:
        ports = [silent if number % 2 else free_port() for number in range(count)]
        cameras = {"camera": _camera(_file(place.clip()), 10.0)}
        for number, port in enumerate(ports):
            cameras[f"dead{number}"] = _camera({"type": "rtsp", "url": f"rtsp://127.0.0.1:{port}/{number}"}, 10.0)
        yield Work(models={"m": _model(demo_package())}, cameras=cameras, offered_hz=10.0)


def _draw_changes(path: Path) -> None:
    draw_turns(path, 320, 240, turns=_CLIP_FRAMES, turn_frames=1, fps=_EVENTS_A_CAMERA)


AXES: Mapping[str, Axis] = MappingProxyType(
    {
        "scale-cameras-5": Axis(
            title="Cameras of 720p, 5 frames a second each", unit="cameras",
            steps=(1, 2, 4, 8, 16, 32), quick=(1, 2), work=_cameras(5.0),
        ),
        "scale-cameras-30": Axis(
            title="Cameras of 720p, 30 frames a second each", unit="cameras",
            steps=(1, 2, 4, 8, 16, 32), quick=(1, 2), work=_cameras(30.0),
        ),
        "scale-models": Axis(
            title="Models, all on one camera of 720p at 10 frames a second", unit="models",
            steps=(1, 2, 4, 8), quick=(1, 2), work=_models,
        ),
        "scale-classes": Axis(
            title="Classes of a small model, one camera of 720p at 10 frames a second", unit="classes",
            steps=(10, 100, 1000, 20_000), quick=(10, 100), work=_classes,
        ),
        "scale-events": Axis(
            title="Events a second: every frame changes the label, 320x240, up to 50 a camera", unit="events/s",
            steps=(1, 10, 100, 200, 500, 1000), quick=(1, 10), work=_events,
        ),
        "scale-outbox": Axis(
            title="Rows in the outbox, beside one camera of 720p at 10 frames a second", unit="rows",
            steps=(0, 100_000, 1_000_000, 10_000_000), quick=(0, 50_000), work=_outbox,
        ),
        "scale-dead": Axis(
            title="Dead cameras, beside one camera of 720p at 10 frames a second", unit="dead cameras",
            steps=(0, 4, 8, 16), quick=(0, 2), work=_dead,
        ),
    }
)  # fmt: skip
