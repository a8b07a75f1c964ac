"""Timing calls: what is planted in an engine is what is shown."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from agent.tools.benchmark.measure.blocks import WARM_UP_RUNS, Block, BlockRequest, ImageFeed, run_block
from engines.base import Images, Scores

IMAGES: Images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)


class Planted:
    """Takes ``sleep_s`` for each call, and notes by itself how long that was."""

    def __init__(self, sleep_s: float) -> None:
        self.sleep_s = sleep_s
        self.sizes: list[int] = []
        self.took_ns: list[int] = []

    def infer(self, batch: Images) -> Scores:
        started = time.perf_counter_ns()
        if self.sleep_s:
            time.sleep(self.sleep_s)
        self.sizes.append(len(batch))
        scores = np.zeros((len(batch), 3), np.float32)
        self.took_ns.append(time.perf_counter_ns() - started)
        return scores


def _run(engine: Planted, **request: int | None) -> Block:
    values = {"batch": 1, "samples": 1, "duration_ns": 0, "queries": 50, "period_ns": None, **request}
    return run_block(engine.infer, ImageFeed(IMAGES, 4), BlockRequest(**values))  # type: ignore[arg-type] # mixed


def test_planted_sleep_shows_as_itself() -> None:
    # Against what the engine itself noted: a sleep of 1 ms lasts as long as the kernel likes.
    engine = Planted(0.001)
    block = _run(engine)
    shown_ms = median(block.times_ns) / 1e6
    planted_ms = median(engine.took_ns[WARM_UP_RUNS:]) / 1e6
    assert 0 <= shown_ms - planted_ms < 0.15
    assert planted_ms >= 1.0


def test_difference_between_two_engines_is_the_planted_one() -> None:
    slow, fast = Planted(0.003), Planted(0.002)
    shown = median(_run(slow).times_ns) - median(_run(fast).times_ns)
    planted = median(slow.took_ns) - median(fast.took_ns)
    assert abs(shown - planted) < 150_000


def test_warm_up_is_not_counted() -> None:
    engine = Planted(0.0)
    assert len(_run(engine, queries=20).times_ns) == 20
    assert len(engine.sizes) == 20 + WARM_UP_RUNS


def test_block_lasts_for_both_its_count_and_its_length() -> None:
    block = _run(Planted(0.001), queries=3, duration_ns=30_000_000)
    assert len(block.times_ns) > 3
    assert block.wall_ns >= 30_000_000


def test_block_that_cannot_reach_its_count_ends_all_the_same() -> None:
    block = _run(Planted(0.002), queries=10_000, max_ns=20_000_000)
    assert 0 < len(block.times_ns) < 10_000


def test_query_of_eight_is_given_in_calls_of_at_most_the_batch() -> None:
    engine = Planted(0.0)
    _run(engine, samples=8, batch=3, queries=1)
    assert engine.sizes[-3:] == [3, 3, 2]


def test_paced_calls_keep_their_rhythm() -> None:
    block = _run(Planted(0.0), queries=20, period_ns=5_000_000)
    assert block.wall_ns >= 20 * 5_000_000


def test_beats_that_come_too_early_are_missed_and_counted() -> None:
    block = _run(Planted(0.005), queries=10, period_ns=1_000_000)
    assert block.missed >= 10


def test_feed_gives_every_image_and_never_runs_out() -> None:
    feed = ImageFeed(IMAGES[:3], 2)
    seen = [feed.take(2).copy() for _ in range(10)]
    assert all(part.shape == (2, 8, 8, 3) for part in seen)
    assert {bytes(image) for part in seen for image in part} == {bytes(image) for image in IMAGES[:3]}


def test_times_of_the_device_itself_are_kept_by_stage() -> None:
    stages = iter(range(1000))
    block = run_block(
        Planted(0.0).infer,
        ImageFeed(IMAGES, 1),
        BlockRequest(batch=1, samples=1, duration_ns=0, queries=5),
        lambda: {"compute": float(next(stages))},
    )
    assert block.stages_ms == {"compute": (0.0, 1.0, 2.0, 3.0, 4.0)}
