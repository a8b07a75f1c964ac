"""What a metric is, and the parts of the agent that its samples come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from agent.inference.pipeline import PipelineStatistics
from agent.inference.requests.statistics import ModelStatistics
from agent.publish.publisher import PublisherStatistics
from agent.thermal.monitor import ThermalStatistics
from agent.web.metrics.histograms import StageHistograms

Sample = tuple[tuple[str, ...], float]
Kind = Literal["counter", "gauge", "untyped"]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures come from; each callable is called once for each scrape, on any thread.

    `agent serve` has no ``publisher`` and no ``thermal``, and so no series of them.
    """

    version: str
    device: str
    started_unix_s: float
    pipeline: Callable[[], PipelineStatistics]
    served: Callable[[], Mapping[str, ModelStatistics]]
    publisher: Callable[[], PublisherStatistics] | None = None
    thermal: Callable[[], ThermalStatistics] | None = None
    commands: Callable[[], Mapping[str, int]] = dict
    histograms: StageHistograms = field(default_factory=StageHistograms)


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at all sources."""

    sources: Sources
    pipeline: PipelineStatistics
    publisher: PublisherStatistics | None
    thermal: ThermalStatistics | None
    commands: Mapping[str, int]
    served: Mapping[str, ModelStatistics]


_MADE: dict[Kind, type[CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "untyped": UnknownMetricFamily,
}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``name`` is as it is scraped, so a counter's ends in ``_total``. Triton's do not: ``untyped``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Seen], Iterable[Sample]]

    def metric(self, seen: Seen) -> Metric:
        """The metric with its samples, for prometheus_client."""
        made = _MADE[self.kind](self.name, self.help, labels=self.labels)
        for labels, value in self.samples(seen):
            made.add_metric(labels, value)
        return made
