"""The bars of serving: what the measuring program makes of planted figures and planted delays."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest

from scripts.performance.serving.cameras import Ages
from scripts.performance.serving.contenders import Contender
from scripts.performance.serving.rounds import Infers, compare, measure
from scripts.performance.serving.rows import Found, rows_of
from scripts.performance.serving.starts import Start
from scripts.performance.verdict import Load, verdict_of

_QUIET = Load(0.01)
_MS = 1_000_000


class _Machine:
    """A clock that moves only while something is done, and what the two servers have counted."""

    def __init__(self) -> None:
        self.ns = 0
        self.compute_ns = {"agent": 0, "triton": 0}

    def now_ns(self) -> int:
        return self.ns

    def server(
        self, name: str, *, own_ms: float, compute_ms: float = 2.0, session_ms: float | None = None
    ) -> Contender:
        def infer() -> None:
            self.ns += round((own_ms + compute_ms) * _MS)
            self.compute_ns[name] += round(compute_ms * _MS)

        return Contender(
            {"http": infer},
            compute_ns=lambda: self.compute_ns[name],
            cpu_s=lambda: self.ns / 1e9,
            session_ns=None if session_ms is None else lambda: round(session_ms * _MS),
        )


def _measured(own_ms: float, **agent: float) -> Infers:
    machine = _Machine()
    servers = {"agent": machine.server("agent", own_ms=own_ms, **agent)}
    found, _ = measure(servers, lambda: None, rounds=2, count=100, now_ns=machine.now_ns)
    return found["agent", "http"]


def test_a_millisecond_in_the_path_of_a_request_shows_as_one() -> None:
    before, after = _measured(0.4), _measured(1.4)
    for figures in ("p50_ms", "cpu_ms", "beside_ms", "beside_session_ms"):
        assert median(getattr(after, figures)) - median(getattr(before, figures)) == pytest.approx(1.0), figures


def test_what_the_engine_takes_is_no_time_of_the_server() -> None:
    before, after = _measured(0.4, compute_ms=2.0), _measured(0.4, compute_ms=3.0)
    assert median(after.p50_ms) - median(before.p50_ms) == pytest.approx(1.0)
    assert median(after.beside_ms) == median(before.beside_ms) == pytest.approx(0.4)


def test_the_way_to_the_process_of_a_model_is_time_of_its_server() -> None:
    """Triton counts it as compute_infer; session_ns has the session alone."""
    found = _measured(0.4, compute_ms=2.0, session_ms=1.5)
    assert median(found.beside_ms) == pytest.approx(0.4)
    assert median(found.beside_session_ms) == pytest.approx(0.9)


def test_infers_with_a_delayed_acknowledgement_are_counted() -> None:
    machine, calls = _Machine(), []

    def infer() -> None:
        calls.append(1)
        machine.ns += (44 if len(calls) % 4 == 0 else 1) * _MS

    server = Contender({"http": infer}, compute_ns=lambda: 0, cpu_s=lambda: 0.0)
    found, _ = measure({"agent": server}, lambda: None, rounds=1, count=100, now_ns=machine.now_ns)
    assert found["agent", "http"].late == [25]


def test_a_batch_that_keeps_a_lone_request_waiting_shows() -> None:
    machine = _Machine()

    def call(ms: float) -> Callable[[], None]:
        def infer() -> None:
            machine.ns += round(ms * _MS)

        return infer

    alone, batched = compare(call(0.5), call(20.5), rounds=3, count=5, now_ns=machine.now_ns)
    assert (alone, batched) == pytest.approx((0.5, 20.5))


def _infers(ms: float = 0.5, *, cpu_ms: float = 0.6, late: int = 0) -> Infers:
    return Infers([ms + 0.3] * 3, [cpu_ms] * 3, [late] * 3, [ms] * 3, [ms] * 3)


def _found() -> Found:
    """A run in which every bar holds."""
    infers = {(name, protocol): _infers() for name in ("agent", "triton") for protocol in ("http", "grpc")}
    infers |= {("libraries", protocol): _infers(0.4, cpu_ms=0.3) for protocol in ("http", "grpc")}
    starts = {"off": [Start(150.0, 0)], "http": [Start(160.0, 90)], "both": [Start(170.0, 140)]}
    ages = Ages([10.0, 10.4, 10.2], [14.0, 15.0, 16.0], [10.3, 10.5, 10.4], sent=300)
    return Found(infers, [0.3] * 3, (0.5, 0.52), starts, ages)


def _verdicts(found: Found, load: Load = _QUIET) -> dict[str, str]:
    return {row.name: verdict_of(row, load) for row in rows_of(found) if row.bars}


def test_each_bar_has_a_row_and_holds() -> None:
    verdicts = _verdicts(_found())
    assert set(verdicts.values()) == {"holds"}
    assert len(verdicts) == 14


def _with(name: str, protocol: str, infers: Infers) -> Callable[[Found], None]:
    def plant(found: Found) -> None:
        found.infers = {**found.infers, (name, protocol): infers}

    return plant


def _with_starts(kind: str, start: Start) -> Callable[[Found], None]:
    def plant(found: Found) -> None:
        found.starts = {**found.starts, kind: [start]}

    return plant


def _with_ages(requests_ms: float, slow_ms: float) -> Callable[[Found], None]:
    def plant(found: Found) -> None:
        found.ages = Ages([10.0, 10.4, 10.2], [requests_ms] * 3, [slow_ms] * 3, sent=300)

    return plant


def _with_batching(found: Found) -> None:
    found.batching_ms = (0.5, 0.551)


@pytest.mark.parametrize(
    ("plant", "missed"),
    [
        (_with("agent", "http", _infers(cpu_ms=0.66)), {"CPU per infer, HTTP": "missed: 0.36 against 0.35 ms"}),
        (_with("agent", "grpc", _infers(cpu_ms=0.66)), {"CPU per infer, gRPC": "missed: 0.36 against 0.35 ms"}),
        (
            _with("agent", "grpc", _infers(1.5)),
            {
                "one client's p50 without the server's compute_infer, gRPC": "missed: 3 against 1.2 ×",
                "one client's p50 without session.run, gRPC": "missed: 3 against 1.2 ×",
            },
        ),
        (
            _with("agent", "http", _infers(late=1)),
            {"infers of 100 that took 20 ms more than the median, HTTP": "missed: 1 against 0 of 100"},
        ),
        (
            _with_batching,
            {"lone infer of a model that waits 20 ms for a batch of 8": "missed: 0.051 against 0.05 ms"},
        ),
        (_with_starts("http", Start(175.5, 90)), {"memory with HTTP, used": "missed: 25.5 against 25 MiB"}),
        (_with_starts("both", Start(175.5, 90)), {"memory with HTTP and gRPC, used": "missed: 25.5 against 25 MiB"}),
        (
            _with_starts("off", Start(150.0, 1)),
            {"modules of the server that an agent without serve loads": "missed: 1 against 0 modules"},
        ),
        (
            _with_starts("both", Start(170.0, 0)),
            {"modules of the server that an agent without serve loads": "not to be judged: nothing was measured"},
        ),
        (_with_ages(20.6, 10.2), {"p95 of a frame's age beside 40 infers a second": "missed: 2.02 against 2 ×"}),
        (_with_ages(12.0, 10.7), {"p95 of a frame's age beside 20 slow clients": "missed: 0.5 against 0.4 ms"}),
        (
            _with_ages(float("nan"), 10.2),
            {"p95 of a frame's age beside 40 infers a second": "not to be judged: nothing was measured"},
        ),
    ],
)
def test_a_planted_figure_misses_its_bar_alone(plant: Callable[[Found], None], missed: dict[str, str]) -> None:
    found = _found()
    plant(found)
    assert {name: text for name, text in _verdicts(found).items() if text != "holds"} == missed


def test_a_bar_that_the_library_alone_misses_says_so() -> None:
    found = _found()
    found.infers = {
        **found.infers,
        ("agent", "grpc"): _infers(0.8, cpu_ms=0.9),
        ("libraries", "grpc"): _infers(0.65, cpu_ms=0.4),
    }
    assert {name: text for name, text in _verdicts(found).items() if text != "holds"} == {
        "CPU per infer, gRPC": "missed: 0.6 against 0.35 ms; the floor alone takes 0.4",
        "one client's p50 without session.run, gRPC": "missed: 1.6 against 1.2 ×; the floor alone takes 1.3",
        "one client's p50 without the server's compute_infer, gRPC": (
            "missed: 1.6 against 1.2 ×; the floor alone takes 1.3"
        ),
    }


def test_a_busy_machine_is_not_judged_and_a_missing_triton_leaves_its_rows_out() -> None:
    found = _found()
    assert all("not to be judged" in text for text in _verdicts(found, Load(0.16)).values())
    found.infers = {key: one for key, one in found.infers.items() if key[0] == "agent"}
    names = set(_verdicts(_found())) - set(_verdicts(found))
    assert len(names) == 4
    assert all(name.startswith("one client's p50 without") for name in names)
