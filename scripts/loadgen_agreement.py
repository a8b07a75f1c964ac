"""Holds our loop against MLPerf's LoadGen: both drive one ONNX Runtime session, in turns.

python -m scripts.loadgen_agreement --package PACKAGE --cache FOLDER [--seconds 10] [--turns 3]

Needs mlcommons-loadgen (it has wheels for x86-64 alone) beside onnxruntime; it is no part of the locked environment.
"""

from __future__ import annotations

import argparse
import array
import re
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import mlperf_loadgen as loadgen  # type: ignore[import-not-found] # not installed where the types are checked

from agent.benchmark.bare import BareSession
from agent.benchmark.measurement import BlockRequest, PictureFeed, run_block
from agent.benchmark.statistics import spread_of
from engines.base import EngineOptions
from engines.package import load_package
from engines.parity import pictures_of

_PERCENTILE = re.compile(r"^(50|90|99)\.00 percentile latency \(ns\)\s*: (\d+)", re.MULTILINE)


def with_loadgen(session: BareSession, feed: PictureFeed, seconds: float) -> dict[str, float]:
    """Percentiles in ms of one SingleStream run."""
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


def with_ours(session: BareSession, feed: PictureFeed, seconds: float) -> dict[str, float]:
    """The same by our loop."""
    request = BlockRequest(batch=1, samples=1, duration_ns=int(seconds * 1e9), queries=100)
    spread = spread_of(run_block(session.infer, feed, request).times_ns)
    return {"p50": spread.p50_ms, "p90": spread.p90_ms, "p99": spread.p99_ms}


def main() -> None:
    """Print both, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    package = load_package(given.package)
    session = BareSession(package, EngineOptions(cache_dir=given.cache, engine="ort-cpu"))
    feed = PictureFeed(pictures_of(package).batch, 1)
    pairs = [
        (with_ours(session, feed, given.seconds), with_loadgen(session, feed, given.seconds))
        for _ in range(given.turns)
    ]
    print("| percentile | ours ms | LoadGen ms | ratio |\n| :-- | --: | --: | --: |")
    for name in ("p50", "p90", "p99"):
        ours, theirs = (median(pair[side][name] for pair in pairs) for side in (0, 1))
        ratio = median(pair[0][name] / pair[1][name] for pair in pairs)
        print(f"| {name} | {ours:.3f} | {theirs:.3f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
