"""A real Prometheus scrapes a real agent and answers every expression of the dashboard and of the alerts.

Run by `./scripts/test --with prometheus`, which installs it; skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import free_port

_PAGES = Path(__file__).parents[2] / "docs" / "monitoring"
_NOT_HERE = {"agent_power_watts", "agent_temperature_celsius", "agent_messages_dropped_total"}
"""What this machine may not have, and what need not happen."""

_LIMIT = re.compile(r"(?:==|>|<) *[0-9.]+")
_NEED_NOT_HAPPEN = {"AgentMessagesLost", "AgentImageFault", "AgentEventsLate"}
"""Alerts on series that are absent until the trouble is there."""
_FIRING: dict[str, dict[str, tuple[str, str]]] = {
    "AgentDown": {'up{job="agent"}': ("0", "1")},
    "AgentCameraLost": {'agent_camera_state{camera="c",state="lost"}': ("1", "0")},
    "AgentCameraSilent": {
        'agent_camera_last_frame_age_seconds{camera="c"}': ("31", "1"),
        'agent_camera_state{camera="c",state="connected"}': ("1", "1"),
    },
    "AgentImageFault": {'agent_camera_image_fault{camera="c",fault="black"}': ("1", "0")},
    "AgentBrokerUnreachable": {"agent_broker_connected": ("0", "1")},
    "AgentEventsLate": {"agent_outbox_oldest_event_seconds": ("61", "1")},
    "AgentMessagesLost": {'agent_messages_dropped_total{reason="full"}': ("0+1", "5")},
    "AgentModelDegraded": {'agent_model_degraded{model="m"}': ("1", "0")},
    "AgentModelFails": {'agent_model_failures_total{model="m"}': ("0+1", "5")},
    "AgentThrottled": {"agent_throttled": ("1", "0"), "agent_governor_rate_ratio": ("1", "1")},
}
"""Of each alert: series, each with values of trouble and of health, in the notation of promtool."""

pytestmark = pytest.mark.skipif(
    not os.environ.get("REQUIRE_PROMETHEUS") and shutil.which("prometheus") is None,
    reason="Prometheus is not installed: ./scripts/test --with prometheus",
)


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[str]:
    config = yaml.safe_load((_PAGES / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(_PAGES / "alerts.yaml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def _asked(address: str, path: str, **query: str) -> Any:
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as found:
        answer = json.load(found)
    assert answer["status"] == "success"
    return answer["data"]


def _result(address: str, expression: str) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = _asked(address, "query", query=expression)["result"]
    except OSError:  # not up yet
        return []
    return found


def _dashboard_expressions() -> list[str]:
    board = json.loads((_PAGES / "dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"].replace("$instance", ".*") for panel in board["panels"] for target in panel["targets"]]


def test_prometheus_answers_every_expression(tmp_path: Path) -> None:
    target = f"127.0.0.1:{free_port()}"
    config = {
        "models": {"inspect": {"package": "demo", "serve": True}},
        "cameras": {
            "front": {
                "source": {"type": "file", "path": "demo", "loop": True},
                "rate_hz": 20,
                "classify": [{"model": "inspect"}],
            }
        },
        "mqtt": {"broker": "embedded"},
        "serve": {"http": target},
    }
    path = write_config(tmp_path, config)
    with AgentProcess(tmp_path, "run", "-c", str(path)) as agent, _prometheus(tmp_path, target) as address:
        agent.wait_for_log("agent.ready", 60)
        wait_until(lambda: _result(address, "rate(agent_stage_duration_seconds_sum[1m])"), within_s=60)
        empty = [text for text in _dashboard_expressions() if not _result(address, text)]
        assert [text for text in empty if not any(name in text for name in _NOT_HERE)] == []
        rules = _asked(address, "rules")["groups"][0]["rules"]
        assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule.get("lastError")} == {}
        assert {rule["name"] for rule in rules} == set(_FIRING)
        # With limits that any value passes, each has series that match, and so would fire.
        silent = [rule["name"] for rule in rules if not _result(address, _LIMIT.sub(">= 0", rule["query"]))]
        assert [name for name in silent if name not in _NEED_NOT_HAPPEN] == []
        assert _result(address, 'up{job="agent"}')[0]["value"][1] == "1"


def test_promtool_finds_no_fault(tmp_path: Path) -> None:
    port = free_port()
    config = {
        "models": {"inspect": {"package": "demo", "serve": True}},
        "mqtt": {"broker": "embedded"},
        "serve": {"http": f"127.0.0.1:{port}"},
    }
    with AgentProcess(tmp_path, "run", "-c", str(write_config(tmp_path, config))) as agent:
        agent.wait_for_log("agent.ready", 60)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    ours = "".join(line for line in text.splitlines(keepends=True) if not re.search(r"\bnv_inference_", line))
    assert ours != text, "Triton's names, which promtool does not like, are there"
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    rules = subprocess.run(
        ["promtool", "check", "rules", str(_PAGES / "alerts.yaml")], capture_output=True, check=False, timeout=30
    )
    assert rules.returncode == 0


def test_each_alert_fires_in_trouble_and_at_no_other_time(tmp_path: Path) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": f"{values[at]}x30"} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": "20m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if is_trouble else [],
                }
            ],
        }
        for alert, series in _FIRING.items()
        for at, is_trouble in enumerate((True, False))
    ]
    path = tmp_path / "alerts.test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(_PAGES / "alerts.yaml")], "tests": tests}), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
