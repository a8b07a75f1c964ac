"""What Prometheus scrapes: names, values, Triton's meaning of its counters, and the page that lists them."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from structlog.testing import capture_logs

from agent.cameras.camera import CameraStatistics
from agent.cameras.frame_counters import CameraCounts, ClassifierCounts, Drop
from agent.inference.pipeline import PipelineStatistics
from agent.inference.requests.statistics import CallTimes, FailureReason, ModelStatistics, RequestStatistics
from agent.inference.worker import WorkerStatistics
from agent.mqtt.base import SinkStatistics
from agent.publish.publisher import PublisherStatistics
from agent.runtime.records import StageTimes
from agent.thermal.monitor import ThermalStatistics
from agent.web.metrics.collector import AgentCollector
from agent.web.metrics.exposition import Metrics, MetricsFile
from agent.web.metrics.families import FAMILIES, STAGE_NAME
from agent.web.metrics.family import Sources
from agent.web.metrics.histograms import StageHistograms
from agent.web.metrics.triton import TRITON_FAMILIES
from scripts.dev.metrics_reference import PAGE, page
from tests.fixtures.model_broker import ManualClock

_ROOT = Path(__file__).parents[2]
_ODD = 'line "3"\nfront\\'
_TIMES = CallTimes(queue_ns=1_000, compute_input_ns=2_000, compute_infer_ns=3_000, compute_output_ns=4_000)


def _thermal() -> ThermalStatistics:
    return ThermalStatistics(
        source="sysfs",
        sensor="reading",
        hottest_zone="cpu",
        hottest_celsius=61.5,
        total_watts=None,
        is_throttling=None,
        throttle_causes={},
        over_current_hz={},
        state="free",
        rate_ratio=0.75,
        clock_ratio=1.0,
        levers=(),
        cause=None,
        reason="",
        readings=1,
        silent_looks=0,
        changes=0,
        snapshots=0,
        jtop_restarts=0,
    )


def _camera(name: str, *, dropped: Mapping[str, int] | None = None) -> CameraStatistics:
    counts = {"inspect": ClassifierCounts(offered=9, classified=5, skipped=1, dropped={"rate": 3}, in_flight=0)}
    return CameraStatistics(
        name=name,
        state="lost",
        error=None,
        fps=12.5,
        reconnects=2,
        last_frame_age_s=None,
        image_fault="black",
        skipped={"damaged": 4},
        counts=CameraCounts(captured=12, classified=5, dropped=dropped or {}, in_flight=0, classifiers=counts),
    )


def _metrics(
    *, camera: CameraStatistics | None = None, served: Mapping[str, ModelStatistics] | None = None
) -> tuple[Metrics, StageHistograms]:
    worker = WorkerStatistics("inspect", None, None, batches=4, frames=5, failures=1, waiting=2, busy_s=None)
    publisher = PublisherStatistics(
        sent=7,
        dropped={"expired": 2},
        rate_limited=0,
        queued=0,
        stored=3,
        connection=SinkStatistics("connected", "mqtt://broker", "5", 0, None, 1, 0),
        failure=None,
    )
    sources = Sources(
        version="1.2.3",
        device="line-3",
        started_unix_s=12.0,
        pipeline=lambda: PipelineStatistics((camera or _camera("front"),), (worker,)),
        publisher=lambda: publisher,
        thermal=_thermal,
        commands=lambda: {"done": 2},
        served=lambda: served or {},
    )
    return Metrics(AgentCollector(sources)), sources.histograms


def _values(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = parse_text(metrics.plain().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in found
        for sample in family.samples
    }


def test_values_come_from_the_statistics_of_the_parts() -> None:
    values = _values(_metrics(camera=_camera("front", dropped={"rate": 6}))[0])
    front = ("camera", "front")
    assert values["agent_camera_frames_captured_total", (front,)] == 12
    assert values["agent_camera_frames_dropped_total", (front, ("reason", "rate"))] == 6
    assert values["agent_camera_frames_dropped_total", (front, ("reason", "failed"))] == 0
    assert values["agent_camera_skipped_total", (front, ("reason", "damaged"))] == 4
    assert values["agent_camera_state", (front, ("state", "lost"))] == 1
    assert values["agent_camera_state", (front, ("state", "connected"))] == 0
    assert values["agent_classifier_frames_dropped_total", (front, ("classifier", "inspect"), ("reason", "rate"))] == 3
    assert values["agent_model_ready", (("model", "inspect"),)] == 0
    assert values["agent_temperature_celsius", (("zone", "cpu"),)] == 61.5
    assert values["agent_messages_dropped_total", (("reason", "expired"),)] == 2
    assert values["agent_broker_connected", ()] == 1
    names = {name for name, _ in values}
    assert not names & {"agent_power_watts", "agent_throttled", "agent_camera_last_frame_age_seconds"}, "not known"
    assert names >= {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def test_every_frame_is_in_exactly_one_series() -> None:
    dropped = {reason.value: number for number, reason in enumerate(Drop, start=1)}
    values = _values(_metrics(camera=_camera("front", dropped=dropped))[0])
    found = sum(value for (name, _), value in values.items() if name == "agent_camera_frames_dropped_total")
    assert found == sum(dropped.values())


def test_an_odd_name_stays_one_label() -> None:
    values = _values(_metrics(camera=_camera(_ODD))[0])
    assert values["agent_camera_frames_captured_total", (("camera", _ODD),)] == 12


def test_a_client_that_asks_for_openmetrics_gets_it() -> None:
    text, content_type = _metrics()[0].text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    families = open_metrics.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]  # no types
    found = {family.name for family in families}
    assert "agent_camera_frames_captured" in found
    assert _metrics()[0].text("*/*")[1].startswith("text/plain")


def test_stages_are_counted_in_the_bucket_that_they_fit_in() -> None:
    metrics, histograms = _metrics()
    times = StageTimes(capture_ms=0.5, queue_ms=0.0, preprocess_ms=0.6, infer_ms=30.0, decide_ms=9_000.0)
    histograms.observe("inspect", [times, times])
    values = _values(metrics)

    def bucket(stage: str, bound: str) -> float:
        return values[f"{STAGE_NAME}_bucket", (("le", bound), ("model", "inspect"), ("stage", stage))]

    assert (bucket("capture", "0.0005"), bucket("preprocess", "0.0005"), bucket("preprocess", "0.001")) == (2, 0, 2)
    assert (bucket("infer", "0.025"), bucket("infer", "0.05")) == (0, 2)
    assert (bucket("decide", "2.5"), bucket("decide", "+Inf")) == (0, 2)
    assert values[f"{STAGE_NAME}_sum", (("model", "inspect"), ("stage", "infer"))] == pytest.approx(0.06)
    assert values[f"{STAGE_NAME}_count", (("model", "inspect"), ("stage", "total"))] == 2


@pytest.mark.parametrize(
    ("requests", "calls", "expected"),
    [
        pytest.param([1], [1], (1, 1, 1), id="one request of one image"),
        pytest.param([8], [8], (1, 8, 1), id="one request of eight"),
        pytest.param([1, 8], [1, 8], (2, 9, 2), id="two requests without batching"),
        pytest.param([1, 1], [2], (2, 2, 1), id="two requests of one, batched"),
        pytest.param([1, 8], [9], (2, 9, 1), id="requests of one and eight, batched"),
    ],
)
def test_triton_s_examples_of_counts(requests: list[int], calls: list[int], expected: tuple[int, int, int]) -> None:
    """Source: Triton Inference Server, docs/user_guide/metrics.md, "Count Metrics"."""
    statistics = RequestStatistics()
    for images in requests:
        statistics.succeeded(images, _TIMES, 20_000)
    for images in calls:
        statistics.executed(images, _TIMES)
    values = _values(_metrics(served={"inspect": statistics.snapshot()})[0])
    of = (("model", "inspect"), ("version", "1"))
    names = ("nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count")
    assert tuple(values[name, of] for name in names) == expected
    assert values["nv_inference_request_duration_us", of] == 20 * len(requests)
    assert values["nv_inference_queue_duration_us", of] == len(requests)


def test_failed_requests_are_counted_by_triton_s_reasons() -> None:
    statistics = RequestStatistics()
    statistics.failed(FailureReason.REJECTED)
    values = _values(_metrics(served={"inspect": statistics.snapshot(waiting=3)})[0])
    of = (("model", "inspect"), ("version", "1"))
    by_reason = {reason: values["nv_inference_request_failure", (of[0], ("reason", reason), of[1])] for reason in _WHY}
    assert by_reason == {"REJECTED": 1, "CANCELED": 0, "BACKEND": 0, "OTHER": 0}
    assert values["nv_inference_pending_request_count", of] == 3


_WHY = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


def test_the_page_lists_every_metric() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m scripts.dev.metrics_reference"
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names))
    assert all(family.name.endswith("_total") == (family.kind == "counter") for family in FAMILIES)


def _expressions() -> list[str]:
    board = json.loads((_ROOT / "docs/monitoring/dashboard.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((_ROOT / "docs/monitoring/alerts.yaml").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return queries + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    known = {family.name for family in FAMILIES} | {family.name for family in TRITON_FAMILIES}
    known |= {f"{STAGE_NAME}_{part}" for part in ("bucket", "sum", "count")} | {"process_resident_memory_bytes"}
    used = {name for text in _expressions() for name in re.findall(r"\b(?:agent|nv|process)_\w+", text)}
    assert used - known == set()
    assert len(used) > 15


def test_the_file_for_node_exporter_is_replaced_every_15_s(tmp_path: Path) -> None:
    path, clock = tmp_path / "agent.prom", ManualClock()
    writer = MetricsFile(path, _metrics()[0], clock=clock)
    writer.tick()
    first = path.read_bytes()
    assert b"agent_info{" in first
    assert stat.S_IMODE(path.stat().st_mode) & 0o044, "node_exporter runs as another user"
    path.write_bytes(b"")
    clock.advance(14.0)
    writer.tick()
    assert path.read_bytes() == b""
    clock.advance(1.0)
    writer.tick()
    assert path.read_bytes().startswith(first[:40])


def test_a_file_that_holds_something_else_is_never_replaced(tmp_path: Path) -> None:
    path, clock = tmp_path / "agent.prom", ManualClock()
    path.write_bytes(b"models:\n")
    writer = MetricsFile(path, _metrics()[0], clock=clock)
    with capture_logs() as lines:
        writer.tick()
    assert path.read_bytes() == b"models:\n"
    assert [line["event"] for line in lines] == ["metrics.file_not_written"]
    assert "holds no metrics of the agent; move it away" in lines[0]["error"]


def test_the_file_is_removed_at_the_stop_unless_it_holds_something_else(tmp_path: Path) -> None:
    path = tmp_path / "agent.prom"
    writer = MetricsFile(path, _metrics()[0], clock=ManualClock())
    writer.tick()
    assert path.exists()
    writer.remove()
    assert not path.exists()
    writer.remove()
    path.write_bytes(b"models:\n")
    writer.remove()
    assert path.read_bytes() == b"models:\n"


def test_a_file_that_cannot_be_written_is_logged_once_until_it_can(tmp_path: Path) -> None:
    path, clock = tmp_path / "later" / "agent.prom", ManualClock()
    writer = MetricsFile(path, _metrics()[0], clock=clock)
    with capture_logs() as lines:
        for _ in range(3):
            writer.tick()
            clock.advance(15.0)
        assert not path.parent.exists(), "a folder of ours would be closed to node_exporter"
        path.parent.mkdir()
        writer.tick()
    assert [line["event"] for line in lines] == ["metrics.file_not_written", "metrics.file_written"]
