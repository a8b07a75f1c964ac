"""One client's infers, in turns: every contender in each round, so all of them find the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from scripts.performance.serving.contenders import Contender

_LATE_NS = 20_000_000
"""Above the median: Nagle's algorithm and a delayed acknowledgement cost 40 ms."""
_SEQUENCE = 100


@dataclass(slots=True)
class Infers:
    """Figures of one contender over one protocol, ms. A list entry is of one round, or of one infer in ``beside_ms``.

    ``beside_ms``: an infer without what the server's statistics call ``compute_infer``; ``beside_session_ms``: without
    its ``session.run``. ``late``: infers of the first 100 that took 20 ms more than their median.
    """

    p50_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)
    beside_session_ms: list[float] = field(default_factory=list)


def measure(
    contenders: Mapping[str, Contender],
    session: Callable[[], object],
    *,
    rounds: int,
    count: int,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[dict[tuple[str, str], Infers], list[float]]:
    """Figures by contender and protocol, and CPU ms of ``session`` by round; ``count`` infers in each turn."""
    found: dict[tuple[str, str], Infers] = {}
    session_ms: list[float] = []
    for number in range(rounds):
        names = list(contenders) if number % 2 else list(reversed(list(contenders)))
        began_s = time.process_time()
        _times(session, count, now_ns)
        session_ms.append((time.process_time() - began_s) * 1e3 / count)
        for name in names:
            for protocol, infer in contenders[name].infers.items():
                seen = found.setdefault((name, protocol), Infers())
                _turn(seen, contenders[name], infer, count, now_ns)
    return found, session_ms


def compare(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    rounds: int,
    count: int,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[float, float]:
    """Median of the rounds' p50 of each, ms."""
    p50: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for infer, kept in zip((first, second), p50, strict=True):
            kept.append(median(_times(infer, count, now_ns)) / 1e6)
    return median(p50[0]), median(p50[1])


def _turn(seen: Infers, server: Contender, infer: Callable[[], object], count: int, now_ns: Callable[[], int]) -> None:
    began_s = server.cpu_s()
    times = _times(infer, count, now_ns)
    seen.cpu_ms.append((server.cpu_s() - began_s) * 1e3 / count)
    seen.p50_ms.append(median(times) / 1e6)
    usual_ns = median(times[:_SEQUENCE])
    seen.late.append(sum(one > usual_ns + _LATE_NS for one in times[:_SEQUENCE]))
    before_ns = server.compute_ns()
    for _ in range(count // 2):
        took_ns = _times(infer, 1, now_ns)[0]
        after_ns = server.compute_ns()
        compute_ns, before_ns = after_ns - before_ns, after_ns
        seen.beside_ms.append((took_ns - compute_ns) / 1e6)
        session_ns = compute_ns if server.session_ns is None else server.session_ns()
        seen.beside_session_ms.append((took_ns - session_ns) / 1e6)


def _times(infer: Callable[[], object], count: int, now_ns: Callable[[], int]) -> list[int]:
    times = []
    for _ in range(count):
        began_ns = now_ns()
        infer()
        times.append(now_ns() - began_ns)
    return times
