from __future__ import annotations

import json

from rich.console import Console

from agent.tools.watch.documents import document_from_payload
from agent.tools.watch.fleet import FleetView
from agent.tools.watch.history import CELLS, STEP_S, History, curve
from agent.tools.watch.terminal import render


def _thermal(celsius: float, ratio: float) -> bytes:
    zones = {"gpu": {"celsius": celsius, "soft_celsius": 89.0}}
    governor = {"state": "reduced", "zone": "gpu", "rate_ratio": ratio}
    return json.dumps({"schema": "thermal/1", "hottest": "gpu", "zones": zones, "governor": governor}).encode()


def _history(*messages: tuple[float, float, float]) -> History:
    history = History()
    for at_s, celsius, ratio in messages:
        document = document_from_payload(_thermal(celsius, ratio))
        assert document is not None
        history.add(document, at_s)
    return history


def test_a_curve_goes_from_its_lowest_to_its_highest_sign() -> None:
    assert curve([0.0, 0.5, 1.0, None, -1.0, 2.0], 0.0, 1.0) == "▁▅█ ▁█"


def test_what_was_said_last_holds_until_something_else_is() -> None:
    moments = _history((0.0, 70.0, 1.0), (4 * STEP_S, 80.0, 0.5)).moments(6 * STEP_S)
    assert [moment.celsius for moment in moments] == [70.0] * 4 + [80.0] * 3


def test_one_step_of_time_keeps_its_newest_message() -> None:
    moments = _history((0.0, 70.0, 1.0), (0.1, 71.0, 0.9)).moments(0.2)
    assert [(moment.celsius, moment.rate_ratio) for moment in moments] == [(71.0, 0.9)]


def test_a_curve_is_never_longer_than_its_cells() -> None:
    history = _history(*((index * STEP_S, 70.0 + index, 1.0) for index in range(3 * CELLS)))
    moments = history.moments(3 * CELLS * STEP_S)
    assert len(moments) == CELLS
    assert moments[-1].celsius == 70.0 + 3 * CELLS - 1


def _drawn(view: FleetView, now_s: float) -> str:
    console = Console(width=120, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(view, now_s=now_s))
    return capture.get()


def test_the_picture_shows_temperature_limit_and_rate() -> None:
    view = FleetView("edge")
    for step, (celsius, ratio) in enumerate([(75.0, 1.0), (82.0, 1.0), (88.0, 0.5)]):
        view.update("edge/dev/thermal", _thermal(celsius, ratio), now_s=step * STEP_S)
    drawn = _drawn(view, 2 * STEP_S)
    assert "▁▅▇  88.0 °C of 89.0 °C" in drawn
    assert "██▅  50 % of the configured rate" in drawn


def test_a_camera_that_the_configuration_no_longer_has_is_not_shown() -> None:
    view = FleetView("edge")
    for camera in ("old", "new"):
        health = json.dumps({"schema": "camera-health/1", "camera": camera, "state": "connected"}).encode()
        view.update(f"edge/dev/camera/{camera}/health", health, now_s=0.0)
    runtime = json.dumps({"schema": "runtime/1", "cameras": {"new": {}}, "models": {}}).encode()
    view.update("edge/dev/runtime", runtime, now_s=0.0)
    drawn = _drawn(view, 0.0)
    assert "new" in drawn
    assert "old" not in drawn
