"""Makes the metrics of a scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.web.metrics.families import FAMILIES, STAGE_HELP, STAGE_LABELS, STAGE_NAME
from agent.web.metrics.family import Seen, Sources
from agent.web.metrics.triton import TRITON_FAMILIES


class AgentCollector(Collector):
    """Makes all metrics from one look at the parts."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        sources = self._sources
        seen = Seen(
            sources,
            sources.pipeline(),
            None if sources.publisher is None else sources.publisher(),
            None if sources.thermal is None else sources.thermal(),
            sources.commands(),
            sources.served(),
        )
        for family in FAMILIES:
            yield family.metric(seen)
        stages = HistogramMetricFamily(STAGE_NAME, STAGE_HELP, labels=STAGE_LABELS)
        for model, stage, buckets, sum_s in sources.histograms.snapshot():
            stages.add_metric((model, stage), buckets, sum_s)
        yield stages
        for family in TRITON_FAMILIES:
            yield family.metric(seen)
