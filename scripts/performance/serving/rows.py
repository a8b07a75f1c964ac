"""The table of serving: each figure, what it is compared with, and whether its bar is met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from scripts.performance.serving.cameras import REQUESTS_HZ, SLOW_CLIENTS, Ages
from scripts.performance.serving.contenders import PROTOCOLS
from scripts.performance.serving.rounds import Infers
from scripts.performance.serving.starts import Start
from scripts.performance.verdict import Bar, Row

_CPU_MS = 0.35
_TIMES_TRITON = 1.2
_BATCHING_MS = 0.05
_MEMORY_MIB = 25.0
_TIMES_ALONE = 2.0
_LIBRARIES = {"http": "uvicorn", "grpc": "grpcio"}
_WORDS = {"http": "HTTP", "grpc": "gRPC", "both": "HTTP and gRPC"}


@dataclass(slots=True)
class Found:
    """All that one run measured; what was left out is empty, or None.

    ``batching_ms``: p50 of a lone infer of a model without batches, and of one that waits for them. ``starts`` has the
    kinds of ``starts.KINDS``.
    """

    infers: Mapping[tuple[str, str], Infers] = field(default_factory=dict)
    session_ms: Sequence[float] = ()
    batching_ms: tuple[float, float] | None = None
    starts: Mapping[str, Sequence[Start]] = field(default_factory=dict)
    ages: Ages | None = None


def rows_of(found: Found) -> Iterator[Row]:
    """A row for each bar that was measured."""
    for protocol in PROTOCOLS:
        if (mine := found.infers.get(("agent", protocol))) is not None:
            triton, library = (found.infers.get((name, protocol)) for name in ("triton", "libraries"))
            yield _cpu(protocol, mine, triton, library, found.session_ms)
            if triton is not None:
                yield from _beside_triton(protocol, mine, triton, library)
            yield _nagle(protocol, mine)
    if found.batching_ms is not None:
        yield _batching(*found.batching_ms)
    yield from _starts(found.starts)
    if found.ages is not None:
        yield from _ages(found.ages)


def _cpu(
    protocol: str, mine: Infers, triton: Infers | None, library: Infers | None, session_ms: Sequence[float]
) -> Row:
    beside = median(one - alone for one, alone in zip(mine.cpu_ms, session_ms, strict=True))
    floors = [f"session.run {median(session_ms):.2f} ms"]
    if library is not None:
        floors.append(f"{_LIBRARIES[protocol]} alone {median(library.cpu_ms):.2f}")
    if triton is not None:
        floors.append(f"Triton, its model's process included, {median(triton.cpu_ms):.2f}")
    floor = None if library is None else median(library.cpu_ms)
    return Row(
        f"CPU per infer, {_WORDS[protocol]}",
        f"{median(mine.cpu_ms):.2f} ms, {beside:.2f} beside session.run",
        "; ".join(floors),
        f"at most {_CPU_MS:g} ms beside session.run",
        (Bar(measured=beside, limit=_CPU_MS, unit="ms", floor=floor),),
    )


def _beside_triton(protocol: str, mine: Infers, triton: Infers, library: Infers | None) -> Iterator[Row]:
    for what, ours_ms, theirs_ms in (
        ("without session.run", mine.beside_session_ms, triton.beside_session_ms),
        ("without the server's compute_infer", mine.beside_ms, triton.beside_ms),
    ):
        theirs = median(theirs_ms)
        times = median(ours_ms) / theirs if theirs > 0 else float("nan")
        floors = [f"Triton {theirs:.3f} ms"]
        if library is not None:
            floors.append(f"{_LIBRARIES[protocol]} alone {median(library.beside_ms):.3f}")
        floor = None if library is None or theirs <= 0 else median(library.beside_ms) / theirs
        yield Row(
            f"one client's p50 {what}, {_WORDS[protocol]}",
            f"{median(ours_ms):.3f} ms ({times:.2f} ×)",
            "; ".join(floors),
            f"at most {_TIMES_TRITON:g} × Triton's",
            (Bar(measured=times, limit=_TIMES_TRITON, unit="×", floor=floor),),
        )
    whole = median(mine.p50_ms), median(triton.p50_ms)
    yield Row(
        f"one client's p50, {_WORDS[protocol]}",
        f"{whole[0]:.3f} ms ({whole[0] / whole[1]:.2f} ×)",
        f"Triton {whole[1]:.3f} ms",
        "–",
    )


def _nagle(protocol: str, mine: Infers) -> Row:
    late = median(mine.late)
    return Row(
        f"infers of 100 that took 20 ms more than the median, {_WORDS[protocol]}",
        f"{late:g} (most in a round: {max(mine.late)})",
        "–",
        "none",
        (Bar(measured=late, limit=0.0, unit="of 100"),),
    )


def _batching(alone_ms: float, batched_ms: float) -> Row:
    more = batched_ms - alone_ms
    return Row(
        "lone infer of a model that waits 20 ms for a batch of 8",
        f"{batched_ms:.3f} ms ({more * 1e3:+.0f} µs)",
        f"without batches {alone_ms:.3f} ms",
        f"at most {_BATCHING_MS * 1e3:g} µs more",
        (Bar(measured=more, limit=_BATCHING_MS, unit="ms"),),
    )


def _starts(starts: Mapping[str, Sequence[Start]]) -> Iterator[Row]:
    if not starts:
        return
    off = median(one.resident_mib for one in starts["off"])
    for kind in ("http", "both"):
        used = median(one.resident_mib for one in starts[kind])
        yield Row(
            f"memory with {_WORDS[kind]}, used",
            f"{used:.1f} MiB ({used - off:+.1f})",
            f"without serve {off:.1f} MiB",
            f"at most {_MEMORY_MIB:g} MiB more",
            (Bar(measured=used - off, limit=_MEMORY_MIB, unit="MiB"),),
        )
    loaded, known = _modules(starts["off"]), _modules(starts["both"])
    yield Row(
        "modules of the server that an agent without serve loads",
        str(loaded),
        f"with HTTP and gRPC {known}",
        "none",
        # A server without modules was not seen at all.
        (Bar(measured=float(loaded) if known else float("nan"), limit=0.0, unit="modules"),),
    )


def _modules(starts: Iterable[Start]) -> int:
    return max(one.server_modules for one in starts)


def _ages(ages: Ages) -> Iterator[Row]:
    alone, beside, slow = (median(one) for one in (ages.alone_ms, ages.requests_ms, ages.slow_ms))
    noise = max(ages.alone_ms) - min(ages.alone_ms)
    yield Row(
        f"p95 of a frame's age beside {REQUESTS_HZ} infers a second",
        f"{beside:.2f} ms ({beside / alone:.2f} ×; {ages.sent} answered)",
        f"alone {alone:.2f} ms",
        f"at most {_TIMES_ALONE:g} × alone",
        (Bar(measured=beside / alone if ages.sent else float("nan"), limit=_TIMES_ALONE, unit="×"),),
    )
    yield Row(
        f"p95 of a frame's age beside {SLOW_CLIENTS} slow clients",
        f"{slow:.2f} ms ({slow - alone:+.2f})",
        f"alone {alone:.2f} ms, {min(ages.alone_ms):.2f} to {max(ages.alone_ms):.2f} over its windows",
        "within that range of its median",
        (Bar(measured=slow - alone, limit=noise, unit="ms"),),
    )
