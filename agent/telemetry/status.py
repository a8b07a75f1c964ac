"""The line of `systemctl status`: what is wrong now, the worst first; otherwise what runs.

``problems`` is a pure function of the parts' statistics. ``StatusLine`` keeps since when each problem lasts, and
limits how often the line is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.cameras.camera import CameraStatistics
from agent.daemon.notify import Notifier
from agent.inference.worker import WorkerStatistics
from agent.publish.publisher import PublisherStatistics
from agent.runtime.clock import Clock
from agent.runtime.secrets import redact
from agent.telemetry.reporter import ReportedParts
from agent.thermal.monitor import ThermalStatistics

MAX_CHARACTERS = 400
"""Length of the whole line, about three lines of a terminal."""
_MAX_REASON = 120
_LOOK_EVERY_S = 0.5
_SEND_EVERY_S = 1.0
_REFRESH_EVERY_S = 10.0
"""For changes of seconds alone, because each sent line wakes the service manager."""
_PATIENCE_S = 5.0
"""Until this long has passed, a missing first connection or an opening camera is not reported."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The statistics of the parts at one moment. ``arriving`` are the workers that load for a new configuration,
    ``refused`` is why the last read configuration was refused, ``stuck`` why the watchdog is not fed."""

    cameras: Sequence[CameraStatistics]
    workers: Sequence[WorkerStatistics]
    arriving: Sequence[WorkerStatistics]
    publisher: PublisherStatistics
    thermal: ThermalStatistics
    refused: str | None = None
    stuck: str | None = None
    is_starting: bool = False


def observe(parts: ReportedParts, *, refused: str | None, stuck: str | None, is_starting: bool) -> Observation:
    """Collect the statistics; see Observation. No cameras while starting: they open after the engines have loaded."""
    seen = parts.pipeline.statistics()
    return Observation(
        cameras=() if is_starting else seen.cameras,
        workers=seen.workers,
        arriving=parts.pipeline.loading_statistics(),
        publisher=parts.publisher.statistics(),
        thermal=parts.thermal.statistics(),
        refused=refused,
        stuck=stuck,
        is_starting=is_starting,
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. ``key`` identifies it while its text changes.

    The line reads ``before``, ``for 12 s`` if ``is_timed``, and ``reason`` in brackets or after a colon.
    """

    key: str
    before: str
    reason: str | None = None
    is_timed: bool = False
    is_progress: bool = False
    """The reason counts up, so a new one alone is no change of the line."""
    patience_s: float = 0.0

    def text(self, age_s: float) -> str:
        """The text after ``age_s`` seconds."""
        said = f"{self.before} for {duration(age_s)}" if self.is_timed else self.before
        reason = _short(self.reason)
        if not reason:
            return said
        return f"{said} ({reason})" if self.is_timed else f"{said}: {reason}"


def problems(seen: Observation) -> Iterator[Problem]:
    """All problems, the worst first."""
    if seen.stuck is not None:
        yield Problem("stuck", "stuck, the watchdog will end it", seen.stuck)
    yield from _cameras(seen.cameras)
    if seen.thermal.state == "paused":
        yield Problem("heat", "paused by heat", seen.thermal.reason)
    yield from _publishing(seen.publisher)
    if seen.refused is not None:
        yield Problem("reload", "reload refused", _first_fault(seen.refused))
    for worker in seen.workers:
        if worker.info is not None and worker.info.degraded is not None:
            yield Problem(f"degraded {worker.model}", f"{worker.model} degraded", worker.info.degraded)
    if seen.thermal.state == "reduced":
        share = f"{seen.thermal.rate_ratio:.0%}"
        yield Problem("heat", f"rate at {share} by heat", seen.thermal.reason)
    if seen.thermal.state == "blind":
        yield Problem("heat", "no temperature", seen.thermal.reason)
    yield from _builds((*seen.workers, *seen.arriving))


def _cameras(cameras: Iterable[CameraStatistics]) -> Iterator[Problem]:
    # Lost cameras before those with an image fault, which still deliver frames.
    cameras = tuple(cameras)
    for camera in cameras:
        key, name = f"camera {camera.name}", f"camera {camera.name}"
        if camera.state == "lost":
            yield Problem(key, f"{name} lost", camera.error, is_timed=True)
        elif camera.state == "connecting":
            patience_s = _PATIENCE_S if camera.error is None else 0.0
            yield Problem(key, f"{name} not connected", camera.error, is_timed=True, patience_s=patience_s)
        elif camera.state == "ended" and camera.error is not None:
            yield Problem(key, f"{name} ended", camera.error)
    for camera in cameras:
        if camera.state == "connected" and camera.image_fault is not None:
            yield Problem(
                f"frames {camera.name}", f"camera {camera.name} shows {camera.image_fault} frames", is_timed=True
            )


def _publishing(publisher: PublisherStatistics) -> Iterator[Problem]:
    connection = publisher.connection
    if connection.state in {"connecting", "disconnected"}:
        is_first = connection.reason is None
        before = f"broker {connection.address} not connected"
        yield Problem("broker", before, connection.reason, is_timed=True, patience_s=_PATIENCE_S if is_first else 0.0)
    preferred = next((other for other in connection.others if other.is_preferred), None)
    if connection.state == "connected" and preferred is not None:
        before = f"broker {connection.address} in use instead of {preferred.address}"
        yield Problem("broker", before, preferred.problem, is_timed=True)
    for topic, reason in sorted(publisher.denied.items())[:1]:
        more = len(publisher.denied) - 1
        yield Problem("denied", f"broker refuses {topic}{f' and {more} more' if more else ''}", reason)
    held = [topic for topic, one in sorted(publisher.delivery.held.items()) if topic not in publisher.denied]
    if held:
        besides = f" and {len(held) - 1} more" if len(held) > 1 else ""
        yield Problem("held", f"broker does not take {held[0]}{besides}", publisher.delivery.held[held[0]].reason)
    if publisher.durability_reason is not None:
        yield Problem("outbox", "events wait in memory only, a restart loses them", publisher.durability_reason)


def _builds(workers: Iterable[WorkerStatistics]) -> Iterator[Problem]:
    for worker in workers:
        if worker.building is not None:
            build = worker.building
            done = "" if build.done_ratio is None else f" {build.done_ratio:.0%}"
            progress = f"{duration(build.elapsed_s)}, {build.phase}{done}"
            before = f"building {build.engine} for {worker.model}"
            yield Problem(f"build {worker.model}", before, progress, is_progress=True)


def _first_fault(message: str) -> str:
    """The first of several faults of a file, as ``agent.yaml:12: ...``; the log has them all."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [message]
    first = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    place, colon, rest = first.partition(":")
    shown = f"{place.rsplit('/', 1)[-1]}{colon}{rest}" if place.startswith("/") else first
    more = len(lines) - 2
    return f"{shown} (and {more} more)" if more > 0 else shown


def usual(seen: Observation) -> str:
    """The line while nothing is wrong."""
    if seen.is_starting:
        return f"starting, loading the engines of {', '.join(worker.model for worker in seen.workers)}"
    engines = sorted({worker.info.name for worker in seen.workers if worker.info is not None})
    return f"{len(seen.cameras)} camera(s), engine {', '.join(engines)}"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2 h 5 min``, ``4 d``."""
    whole = max(int(seconds), 0)
    if whole < 180:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 48 * 3600 else f"{whole // 86400} d"


def line_from_texts(texts: Sequence[str]) -> str:
    """One line of at most MAX_CHARACTERS, with the number of texts that do not fit."""
    line = ""
    for index, text in enumerate(texts):
        joined = f"{line}; {text}" if line else text
        left = len(texts) - index - 1
        if len(joined) + len(f"; and {left} more") > MAX_CHARACTERS and line:
            return f"{line}; and {left + 1} more"
        line = joined
    return line[:MAX_CHARACTERS]


def _short(text: str | None) -> str:
    one_line = " ".join(redact(text or "").split())
    return one_line if len(one_line) <= _MAX_REASON else one_line[: _MAX_REASON - 1].rstrip() + "…"


class StatusLine:
    """Keeps the service manager's line up to date. Used by the main loop alone.

    Changes are sent within about a second, passing seconds every ten; never more than one line per second.
    """

    def __init__(self, notifier: Notifier, look: Callable[[], Observation], *, clock: Clock) -> None:
        self._notifier = notifier
        self._look = look
        self._clock = clock
        self._since_s: dict[str, float] = {}
        self._look_at_s = 0.0
        self._sent_at_s = float("-inf")
        self._sent = ""
        self._sent_keys: tuple[str, ...] | None = None

    def ready(self) -> None:
        """Send READY to the service manager, with the current line."""
        self._sent, self._sent_keys = self._compose()
        self._sent_at_s = self._now_s()
        self._notifier.ready(self._sent)

    def tick(self) -> None:
        """Send the line if it has changed."""
        now_s = self._now_s()
        if not self._notifier.is_listened_to or now_s < self._look_at_s:
            return
        self._look_at_s = now_s + _LOOK_EVERY_S
        line, keys = self._compose()
        wait_s = _SEND_EVERY_S if keys != self._sent_keys else _REFRESH_EVERY_S
        if line == self._sent:
            self._sent_keys = keys
        elif now_s - self._sent_at_s >= wait_s:
            self._notifier.status(line)
            self._sent, self._sent_at_s, self._sent_keys = line, now_s, keys

    def _compose(self) -> tuple[str, tuple[str, ...]]:
        """The line, and the keys that identify it apart from its seconds."""
        now_s, seen = self._now_s(), self._look()
        found = list(problems(seen))
        self._since_s = {problem.key: self._since_s.get(problem.key, now_s) for problem in found}
        ages = [(problem, now_s - self._since_s[problem.key]) for problem in found]
        shown = [(problem, age_s) for problem, age_s in ages if age_s >= problem.patience_s]
        if not shown:
            text = usual(seen)
            return text, (text,)
        texts = [problem.text(age_s) for problem, age_s in shown]
        keys = tuple(
            f"{problem.key} {problem.before} {'' if problem.is_progress else problem.reason}" for problem, _ in shown
        )
        return line_from_texts(texts), keys

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9
