"""Runs every engine in rounds, so that heat and other programs hit all of them alike."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from agent.tools.benchmark.conditions import ConditionsWatch, Window
from agent.tools.benchmark.measure.accuracy import Accuracy
from agent.tools.benchmark.measure.session import Answer, ChildFailed, Session
from agent.tools.benchmark.measure.target import BARE, Target
from agent.tools.benchmark.report import Absent
from agent.tools.benchmark.scenarios import Case

_OPEN_WITHIN_S = 3600.0
"""Building an engine takes minutes on a board."""
_PATIENCE = 4.0
_MIN_PATIENCE_S = 20.0
"""A block of a very slow engine ends after four times its expected length, but not before 20 s."""
_HUNG_AFTER_S = 120.0
"""In addition to that; without an answer until then the process counts as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure, and how."""

    package_dir: Path
    cache_dir: Path
    targets: tuple[Target, ...]
    cases: tuple[Case, ...]
    rounds: int
    max_batch: int
    options: Mapping[str, object] = field(default_factory=dict)
    pythons: Mapping[str, str] = field(default_factory=dict)
    """Interpreters of engines whose libraries are installed in another environment."""
    images: Path | None = None
    max_file_mib: int = 512

    @property
    def expected_s(self) -> float:
        """The least time that the cases take."""
        return len(self.targets) * sum(case.expected_s for case in self.cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBlock:
    """One block as its child reported it, with its time window."""

    times_ns: tuple[int, ...]
    wall_ns: int
    cpu_ns: int
    missed: int
    warm_up: int
    stages_ms: Mapping[str, Sequence[float]]
    window: Window


@dataclass(slots=True)
class Measured:
    """All answers of one target's process."""

    target: Target
    opened: Answer
    prepare_s: float
    blocks: dict[Case, list[RawBlock]] = field(default_factory=dict)
    peak_bytes: int = 0
    accuracy: Accuracy | None = None


class Progress:
    """Receives the progress of a run; the base class ignores it."""

    def phase(self, text: str, expected_s: float) -> None:
        """A phase begins that takes about ``expected_s``; 0 if that is unknown."""

    def step(self, text: str) -> None:
        """What is done now within the phase."""

    def advance(self, done_s: float) -> None:
        """``done_s`` of the phase have passed."""


def prepare(plan: Plan, progress: Progress) -> tuple[dict[Target, float], tuple[Absent, ...]]:
    """Open each target once and close it: builds graphs, plans and certificates, and detects what cannot run.

    Returns the seconds it took by target, and what is absent. Bare sessions come after their engines in
    ``plan.targets``; one without its engine is left out.
    """
    ready: dict[Target, float] = {}
    absent: list[Absent] = []
    for target in plan.targets:
        if target.kind == BARE and replace(target, kind="engine") not in ready:
            continue
        progress.phase(f"preparing {target.label}", 0.0)
        began_ns = time.perf_counter_ns()
        try:
            with open_session(plan, target):
                pass
        except ChildFailed as exc:
            if target.kind != BARE:
                absent.append(_absent(target, exc))
            continue
        ready[target] = (time.perf_counter_ns() - began_ns) / 1e9
    return ready, tuple(absent)


def measure(
    plan: Plan, ready: Mapping[Target, float], watch: ConditionsWatch, progress: Progress
) -> tuple[list[Measured], tuple[Absent, ...]]:
    """Run every case on every target that is ready, interleaved; one that fails on the way becomes absent."""
    absent: list[Absent] = []
    with contextlib.ExitStack() as resources:
        sessions: dict[Target, Session] = {}
        measured: dict[Target, Measured] = {}
        for target, prepare_s in ready.items():
            progress.phase(f"loading {target.label}", 0.0)
            try:
                session, opened = resources.enter_context(open_session(plan, target))
            except ChildFailed as exc:  # it opened alone: all engines together may not fit into memory
                absent.append(_absent(target, exc))
                continue
            sessions[target], measured[target] = session, Measured(target, opened, prepare_s)
        progress.phase("measuring", plan.expected_s * len(sessions) / max(len(plan.targets), 1))
        for number, case, target in _schedule(plan, list(sessions)):
            if target not in sessions:
                continue
            progress.step(f"round {number} of {plan.rounds}: {target.label}, {case.name}")
            try:
                _run_block(plan, case, sessions[target], measured[target], watch)
            except ChildFailed as exc:
                absent.append(_absent(target, exc))
                del sessions[target], measured[target]
            progress.advance(case.expected_s / plan.rounds)
        if plan.images is not None:
            for target in [one for one in sessions if one.kind != BARE]:
                progress.phase(f"accuracy of {target.label}", 0.0)
                measured[target].accuracy = _accuracy(sessions[target], plan.images)
    return list(measured.values()), tuple(absent)


@contextlib.contextmanager
def open_session(plan: Plan, target: Target) -> Iterator[tuple[Session, Answer]]:
    """A child with its engine open, and its first answer.

    Raises:
        ChildFailed: it cannot be opened.
    """
    with _session(plan, target) as session:
        yield session, session.ask(_opening(plan, target), timeout_s=_OPEN_WITHIN_S)


def block_request(case: Case, *, rounds: int) -> dict[str, int | None]:
    """The share of one round in a case, as a child takes it."""
    return {
        "batch": case.batch,
        "samples": case.samples,
        "duration_ns": int(case.min_duration_s / rounds * 1e9),
        "queries": math.ceil(case.min_queries / rounds),
        "period_ns": None if case.fps is None else int(1e9 / case.fps),
        "max_ns": int(max(_MIN_PATIENCE_S, _PATIENCE * case.expected_s / rounds) * 1e9),
    }


def ask_block(
    session: Session, block: Mapping[str, int | None], watch: ConditionsWatch, *, expected_s: float
) -> tuple[RawBlock, Answer]:
    """Run one block in the child, and sample the machine before and after it."""
    first, began_ns = watch.look(), time.perf_counter_ns()
    answer = session.ask({"do": "measure", "block": block}, timeout_s=_HUNG_AFTER_S + _PATIENCE * expected_s)
    ended_ns, last = time.perf_counter_ns(), watch.look()
    values = cast("dict[str, Any]", answer)
    raw = RawBlock(
        times_ns=tuple(values["times_ns"]),
        wall_ns=values["wall_ns"],
        cpu_ns=values["cpu_ns"],
        missed=values["missed"],
        warm_up=values["warm_up"],
        stages_ms=values["stages_ms"],
        window=Window(began_ns, ended_ns, values["cpu_ns"] / 1e9, first, last),
    )
    return raw, answer


def _schedule(plan: Plan, targets: Sequence[Target]) -> Iterator[tuple[int, Case, Target]]:
    """Each case on each target in each round, whose number is from 1 on; every round starts with another target."""
    for number in range(plan.rounds):
        start = number % max(len(targets), 1)
        for case in plan.cases:
            for target in (*targets[start:], *targets[:start]):
                yield number + 1, case, target


def _run_block(plan: Plan, case: Case, session: Session, measured: Measured, watch: ConditionsWatch) -> None:
    block = block_request(case, rounds=plan.rounds)
    raw, answer = ask_block(session, block, watch, expected_s=case.expected_s / plan.rounds)
    measured.blocks.setdefault(case, []).append(raw)
    measured.peak_bytes = int(str(answer["peak_bytes"]))


def _session(plan: Plan, target: Target) -> Session:
    return Session(target, python=plan.pythons.get(target.engine, sys.executable))


def _opening(plan: Plan, target: Target) -> dict[str, object]:
    return {
        "do": "open",
        "package": str(plan.package_dir),
        "max_file_mib": plan.max_file_mib,
        "cache": str(plan.cache_dir),
        "target": {"engine": target.engine, "precision": target.precision, "kind": target.kind},
        "max_batch": plan.max_batch,
        "options": dict(plan.options),
    }


def _accuracy(session: Session, folder: Path) -> Accuracy:
    values = dict(session.ask({"do": "accuracy", "folder": str(folder)}, timeout_s=_OPEN_WITHIN_S))
    del values["event"]
    return Accuracy(**cast("dict[str, Any]", values))


def _absent(target: Target, error: ChildFailed) -> Absent:
    return Absent(
        engine=target.label.rsplit(" ", 1)[0],
        precision=target.precision,
        reason=str(error.fields["reason"]),
        remedy=str(error.fields["remedy"]),
    )
