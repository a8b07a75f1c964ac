"""Writes docs/monitoring/dashboard.json: ``python -m scripts.dev.grafana_dashboard``.

Needs ``pip install grafana-foundation-sdk``, which nothing else here needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import VizOrientation
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos

PAGE = Path(__file__).parents[2] / "docs" / "monitoring" / "dashboard.json"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 12, 8
Query = tuple[str, str]

_STAGES = '{instance=~"$instance",stage!="total"}[1m]'
_MEAN = (
    f"sum by (stage) (rate(agent_stage_duration_seconds_sum{_STAGES})) / "
    f"sum by (stage) (rate(agent_stage_duration_seconds_count{_STAGES}))"
)
_QUANTILE = (
    "histogram_quantile({}, sum by (le, model) "
    '(rate(agent_stage_duration_seconds_bucket{{instance=~"$instance",stage="total"}}[1m])))'
)

_NOW: tuple[tuple[str, str, str], ...] = (
    ("Cameras connected", 'sum(agent_camera_state{instance=~"$instance",state="connected"})', "none"),
    ("Results per second", 'sum(rate(agent_classifier_frames_classified_total{instance=~"$instance"}[1m]))', "ops"),
    ("Events waiting", 'sum(agent_outbox_events{instance=~"$instance"})', "none"),
    ("Hottest zone", 'max(agent_temperature_celsius{instance=~"$instance"})', "celsius"),
    ("Models degraded", 'sum(agent_model_degraded{instance=~"$instance"})', "none"),
    ("Brokers connected", 'sum(agent_broker_connected{instance=~"$instance"})', "none"),
)
_CURVES: tuple[tuple[str, str, Sequence[Query]], ...] = (
    (
        "Frames classified",
        "ops",
        [('rate(agent_camera_frames_classified_total{instance=~"$instance"}[1m])', "{{instance}} {{camera}}")],
    ),
    (
        "Frames dropped by reason",
        "ops",
        [('rate(agent_camera_frames_dropped_total{instance=~"$instance"}[1m])', "{{camera}} {{reason}}")],
    ),
    (
        "Latency, 50 % and 95 % of the frames",
        "s",
        [
            (
                _QUANTILE.format(share),
                f"{{{{model}}}} p{share * 100:.0f}",
            )
            for share in (0.5, 0.95)
        ],
    ),
    (
        "Mean time by stage",
        "s",
        [
            (
                _MEAN,
                "{{stage}}",
            )
        ],
    ),
    (
        "Temperature and rate",
        "celsius",
        [
            ('agent_temperature_celsius{instance=~"$instance"}', "{{instance}} {{zone}}"),
            ('100 * agent_governor_rate_ratio{instance=~"$instance"}', "{{instance}} rate permitted, %"),
        ],
    ),
    ("Power", "watt", [('agent_power_watts{instance=~"$instance"}', "{{instance}}")]),
    (
        "Messages",
        "ops",
        [
            ('rate(agent_messages_sent_total{instance=~"$instance"}[1m])', "{{instance}} sent"),
            ('rate(agent_messages_dropped_total{instance=~"$instance"}[1m])', "{{instance}} dropped {{reason}}"),
        ],
    ),
    (
        "Events that wait for the broker",
        "none",
        [('agent_outbox_events{instance=~"$instance"}', "{{instance}}")],
    ),
    (
        "Requests of programs",
        "ops",
        [
            ('rate(nv_inference_request_success{instance=~"$instance"}[1m])', "{{model}}"),
            ('rate(nv_inference_request_failure{instance=~"$instance"}[1m])', "{{model}} {{reason}}"),
        ],
    ),
    (
        "Process",
        "bytes",
        [('process_resident_memory_bytes{instance=~"$instance",job=~"agent.*"}', "{{instance}}")],
    ),
)


def page() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("Edge inference agent")
        .uid("edge-inference-agent")
        .refresh("10s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("instance")
            .datasource(_SOURCE)
            .query("label_values(agent_info, instance)")
            .multi(multi=True)
            .include_all(include_all=True)
        )
    )
    for index, (title, query, unit) in enumerate(_NOW):
        panel = stat.Panel().title(title).unit(unit).orientation(VizOrientation.AUTO).datasource(_SOURCE)
        place = GridPos(h=4, w=4, x=4 * index, y=0)
        board = board.with_panel(panel.grid_pos(place).with_target(prometheus.Dataquery().expr(query)))
    for index, (title, unit, queries) in enumerate(_CURVES):
        curve = timeseries.Panel().title(title).unit(unit).datasource(_SOURCE)
        place = GridPos(h=_HEIGHT, w=_WIDTH, x=_WIDTH * (index % 2), y=4 + _HEIGHT * (index // 2))
        for query, legend in queries:
            curve = curve.with_target(prometheus.Dataquery().expr(query).legend_format(legend))
        board = board.with_panel(curve.grid_pos(place))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True, indent=1).encode(board.build())), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
