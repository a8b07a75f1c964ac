"""The metrics as text: for a scrape, and as a file that node_exporter's textfile collector reads."""

from __future__ import annotations

import errno
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder, generate_latest

from agent.config.sections.serve import fault_of_metrics_file
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.logs import get_logger
from agent.web.metrics.collector import AgentCollector
from engines import write_atomic

log = get_logger(__name__)

_FILE_EVERY_NS = 15 * 1_000_000_000


class Metrics:
    """Collects at each call; nothing is counted twice, and nothing is done between two scrapes."""

    def __init__(self, collector: AgentCollector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type: OpenMetrics where the client's Accept header asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def plain(self) -> bytes:
        """Prometheus' text format, which the textfile collector reads."""
        return generate_latest(self._registry)


class MetricsFile:
    """Writes the metrics into a file every 15 s, until ``remove``. Main thread."""

    def __init__(self, path: Path, metrics: Metrics, *, clock: Clock | None = None) -> None:
        self._path = path
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._due_ns = 0
        self._error: str | None = None

    def tick(self) -> None:
        """Write the file if it is due. A file that cannot be written is logged once, until it can be again."""
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._due_ns:
            return
        self._due_ns = now_ns + _FILE_EVERY_NS
        try:
            if not self._path.parent.is_dir():
                text = f"there is no folder {self._path.parent}; create it, and let the agent's user write there"
                raise FileNotFoundError(errno.ENOENT, text)
            if (fault := fault_of_metrics_file(self._path)) is not None:
                raise FileExistsError(errno.EEXIST, fault)
            # The collector runs as another user: readable by all, as every metric is.
            write_atomic(self._path, self._metrics.plain(), is_durable=False, is_private=False)
        except OSError as exc:
            if self._error != (error := exc.strerror or str(exc)):
                log.warning("metrics.file_not_written", file=str(self._path), error=error)
            self._error = error
            return
        if self._error is not None:
            log.info("metrics.file_written", file=str(self._path))
        self._error = None

    def remove(self) -> None:
        """Delete the file: what the agent last said must not be collected when it has stopped."""
        try:
            if fault_of_metrics_file(self._path) is None:
                self._path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("metrics.file_not_removed", file=str(self._path), error=exc.strerror or str(exc))
