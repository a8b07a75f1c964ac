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
        assert len(rules) == 10
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
