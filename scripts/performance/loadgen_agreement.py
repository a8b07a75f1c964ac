"""Compares our timing loop with MLPerf's LoadGen: both drive one ONNX Runtime session, in alternating rounds.

Run by scripts/measure in an environment of its own: it needs mlcommons-loadgen (which has wheels for x86-64 alone)
beside onnxruntime, and is no part of the locked environment.
"""

from __future__ import annotations

import argparse
import array
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.tools.benchmark.measure.bare import BareSession
from agent.tools.benchmark.measure.blocks import BlockRequest, ImageFeed, run_block
from agent.tools.benchmark.statistics import spread_of
from engines.base import EngineOptions
from engines.graph.image_set import image_set_of
from engines.package.load import load_package
from scripts.performance.verdict import Agreement

_PERCENTILE = re.compile(r"^(50|90|99)\.00 percentile latency \(ns\)\s*: (\d+)", re.MULTILINE)
_RESAMPLES = 2000
_CONFIDENCE = 0.99

Pair = tuple[dict[str, float], dict[str, float]]
"""Percentiles of one round in ms: ours and LoadGen's."""


def with_loadgen(session: BareSession, feed: ImageFeed, seconds: float) -> dict[str, float]:
    """Percentiles in ms of one SingleStream run."""
    import mlperf_loadgen as loadgen  # type: ignore[import-not-found] # not installed where the types are checked

    done = array.array("B", b"\0")
    at, size = done.buffer_info()

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            session.infer(feed.take(1))
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, at, size)])

    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.SingleStream
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = 100
    with tempfile.TemporaryDirectory() as folder:
        log = loadgen.LogSettings()
        log.log_output.outdir = folder
        log.log_output.copy_summary_to_stdout = False
        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(1024, 1024, lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(system, library, settings, log)
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)
        text = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    return {f"p{name}": int(value) / 1e6 for name, value in _PERCENTILE.findall(text)}


def with_ours(session: BareSession, feed: ImageFeed, seconds: float) -> dict[str, float]:
    """The same, measured by our loop."""
    request = BlockRequest(batch=1, samples=1, duration_ns=int(seconds * 1e9), queries=100)
    spread = spread_of(run_block(session.infer, feed, request).times_ns)
    return {"p50": spread.p50_ms, "p90": spread.p90_ms, "p99": spread.p99_ms}


def agreement_of(pairs: Sequence[Pair], name: str) -> Agreement:
    """Median of the rounds' ratios; the interval is a bootstrap over whole rounds.

    The two sides of a round run within two seconds, under the same conditions. A virtual machine may change speed from
    round to round, so medians over all rounds would compare different speeds.
    """
    ratios = np.array([ours[name] / theirs[name] for ours, theirs in pairs])
    random = np.random.default_rng(1)
    drawn = np.median(ratios[random.integers(0, len(ratios), (_RESAMPLES, len(ratios)))], axis=1)
    low, high = np.quantile(drawn, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    value = float(np.median(ratios))
    return Agreement(value=value, low=float(min(low, value)), high=float(max(high, value)))


def measure(package: Path, cache: Path, *, seconds: float, rounds: int) -> list[Pair]:
    """Run both in each round, in alternating order."""
    loaded = load_package(package)
    session = BareSession(loaded, EngineOptions(cache_dir=cache, engine="ort-cpu", options={"threads": 1}))
    feed = ImageFeed(image_set_of(loaded).batch, 1)
    pairs = []
    for number in range(rounds):
        if number % 2:
            theirs = with_loadgen(session, feed, seconds)
            pairs.append((with_ours(session, feed, seconds), theirs))
        else:
            pairs.append((with_ours(session, feed, seconds), with_loadgen(session, feed, seconds)))
    return pairs


def main() -> None:
    """Print the rounds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    print(json.dumps(measure(given.package, given.cache, seconds=given.seconds, rounds=given.rounds)))


if __name__ == "__main__":
    main()
