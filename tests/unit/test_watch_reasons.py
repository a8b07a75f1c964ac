"""`agent watch` and `agent explain` say why a classifier has decided no label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from rich.console import Console

from agent.config.overridden import Value
from agent.mqtt.messages import (
    ClassifierRuntime,
    LabelRuntime,
    Runtime,
    Status,
    compact_from_classification,
    result_from_classification,
    state_from_state_change,
)
from agent.mqtt.topics import encode
from agent.runtime.records import Classification, Score, Standing, StateChange
from agent.tools.watch.fleet import FleetView
from agent.tools.watch.lines import lines_from_fleet
from agent.tools.watch.reasons import explanation_lines, reasons
from agent.tools.watch.terminal import render
from tests.fixtures.publish_samples import (
    DEVICE,
    SESSION,
    TOPICS,
    camera_health,
    classification,
    runtime,
    state_change,
)

UNKNOWN = replace(state_change("unknown", None), labels=())
UNSURE = Standing("unknown", (), "ok", 0.4, 0.7, 2, 3, 5, is_timed=False)


def _runtime(**rules: object) -> Runtime:
    said = runtime()
    front = said.cameras["front"]
    use = ClassifierRuntime(**{  # type: ignore[arg-type]  # the fields of the message
        "model": "inspect", "roi": (0.0, 0.0, 1.0, 1.0), "enter": 0.7, "exit": 0.5, "needed": 3, "window": 5, **rules
    })  # fmt: skip
    return replace(said, cameras={"front": replace(front, classifiers={"inspect": use})})


def _view(
    change: StateChange, standing: Standing | None, *, compact: Classification | None = None, **rules: object
) -> FleetView:
    """``compact`` is sent as a compact result instead of a full one of ``standing``."""
    view = FleetView("edge")
    facts = {"device": DEVICE, "session": SESSION, "seq": 0, "clock_state": "synced"}
    state = state_from_state_change(change, at_utc_ns=0, **facts)  # type: ignore[arg-type]  # as above
    view.update(TOPICS.runtime, encode(_runtime(**rules)), now_s=0.0)
    view.update(TOPICS.camera_health("front"), encode(camera_health()), now_s=0.0)
    view.update(TOPICS.state("front", "inspect"), encode(state), now_s=0.0)
    if standing is not None:
        result = result_from_classification(replace(classification(), standing=standing), **facts)  # type: ignore[arg-type]  # as above
        view.update(TOPICS.result("front", "inspect"), encode(result), now_s=0.0)
    if compact is not None:
        small = compact_from_classification(compact, session=SESSION, seq=0, clock_state="synced")
        view.update(TOPICS.result("front", "inspect"), encode(small), now_s=0.0)
    return view


def _reasons(view: FleetView) -> list[str]:
    return [text for device in view.devices.values() for _, _, text in reasons(device)]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (_view(UNKNOWN, UNSURE), "unknown: ok: confidence 0.40 is below enter 0.7; 2 of 5 votes, 3 needed"),
        (_view(UNKNOWN, UNSURE), "scratch 0.06; clearer images or a lower enter would change this"),
        (_view(UNKNOWN, replace(UNSURE, confidence=0.8)), "ok: confidence 0.80 reaches enter 0.7; 2 of 5 votes"),
        (_view(UNKNOWN, replace(UNSURE, confidence=0.8)), "; 1 more such result decides"),
        (_view(UNKNOWN, replace(UNSURE, votes=1.25), needed=3, window=3, hold_s=3.0), "held for 1.2 s, 3 s needed"),
        (_view(UNKNOWN, None), "unknown: no result yet"),
        (_view(replace(UNKNOWN, label="stale"), UNSURE), "stale: no result comes"),
        (_view(replace(UNKNOWN, label="odd"), replace(UNSURE, label="odd"), unknown="odd"), "odd: ok: confidence"),
    ],
)  # fmt: skip
def test_a_state_without_a_label_has_a_reason(view: FleetView, expected: str) -> None:
    (reason,) = _reasons(view)
    assert expected in reason
    assert reason in next(iter(lines_from_fleet(view, now_s=0.0)))


_SET = replace(UNKNOWN, label=None, labels=("ok",))
_RULES = {"ok": LabelRuntime(enter=0.3, exit=0.2, needed=2), "dent": LabelRuntime(enter=0.9, exit=0.8, needed=2)}


@pytest.mark.parametrize(
    ("change", "standing", "rules"),
    [
        (UNKNOWN, UNSURE, {}),
        (UNKNOWN, replace(UNSURE, confidence=0.8), {}),
        (state_change("ok", None), replace(UNSURE, label="ok", labels=("ok",), votes=5), {}),
        (state_change("dent", None), replace(UNSURE, label="dent", labels=("dent",)), {}),
        (_SET, Standing(None, ("ok",), "dent", 0.3, 0.9, 0, 2, 5, is_timed=False), {"labels": _RULES}),
        (_SET, Standing(None, ("ok",), "ok", 0.4, 0.2, 3, 2, 5, is_timed=False), {"labels": _RULES}),
    ],
)  # fmt: skip
def test_a_compact_result_explains_as_much_as_a_full_one(
    change: StateChange, standing: Standing, rules: dict[str, Any]
) -> None:
    best = standing.confidence if standing.candidate == "ok" else 0.4
    top = (Score(0, "ok", best), Score(1, "dent", 0.3))
    record = replace(classification(), top=top, found=("ok",) if rules else None, standing=standing)
    full = _view(change, None, **rules)
    facts = {"device": DEVICE, "session": SESSION, "seq": 0, "clock_state": "synced"}
    whole = result_from_classification(record, **facts)  # type: ignore[arg-type]  # as above
    full.update(TOPICS.result("front", "inspect"), encode(whole), now_s=0.0)
    (told,) = explanation_lines(_view(change, None, compact=record, **rules), None)
    (expected,) = explanation_lines(full, None)
    is_sure = standing.label == "ok"
    assert told == (expected.replace("; next best dent 0.30", "") if is_sure else expected)
    assert "votes" in told


def test_a_decided_label_has_no_reason_but_an_explanation() -> None:
    decided = Standing("dent", ("dent",), "dent", 0.6, 0.5, 5, 3, 5, is_timed=False)
    view = _view(state_change(), decided)
    assert _reasons(view) == []
    assert next(iter(lines_from_fleet(view, now_s=0.0))).endswith("dropped 2")
    (line,) = explanation_lines(view, None)
    assert line.startswith(f"{DEVICE} front/inspect is dent: dent: confidence 0.60 is not below exit 0.5, so it stays")
    assert list(explanation_lines(view, "back")) == []


def test_several_labels_are_judged_by_their_own_rules() -> None:
    rules = {"ok": LabelRuntime(enter=0.3, exit=0.2, needed=2), "dent": LabelRuntime(enter=0.9, exit=0.8, needed=2)}
    change = replace(state_change(), label=None, labels=("ok",))
    missing = Standing(None, ("ok",), "dent", 0.85, 0.9, 1, 2, 5, is_timed=False)
    (line,) = explanation_lines(_view(change, missing, labels=rules), "front")
    assert "is ok: dent: confidence 0.85 is below enter 0.9; 1 of 5 votes, 2 needed; clearer" in line
    stays = Standing(None, ("ok",), "ok", 0.25, 0.2, 3, 2, 5, is_timed=False)
    (line,) = explanation_lines(_view(change, stays, labels=rules), None)
    assert "ok: confidence 0.25 is not below exit 0.2" in line
    (line,) = explanation_lines(_view(replace(change, labels=()), None, labels=rules), None)
    assert line.endswith("is none: no result yet")


@pytest.mark.parametrize("state", ["stopped", "offline"])
def test_an_agent_that_does_not_run_is_named_instead_of_its_classifiers(state: Literal["stopped", "offline"]) -> None:
    view = _view(UNKNOWN, UNSURE)
    view.update(
        TOPICS.status,
        encode(Status(state=state, agent="1", since="2026-01-01T00:00:00.000Z", device=DEVICE, session=SESSION)),
        now_s=0.0,
    )
    for camera in (None, "front"):
        (line,) = explanation_lines(view, camera)
        assert line.startswith(f"{DEVICE} is {state}: ")
    assert list(explanation_lines(view, "back")) == []


def test_an_agent_of_another_version_is_shown_without_a_reason() -> None:
    (line,) = explanation_lines(_view(UNKNOWN, UNSURE, needed=None, window=None), None)
    assert line.endswith("is unknown: its newest result gives no reason")


def _overridden(
    in_file: dict[str, str | int | float | bool | None], *, state: Literal["online", "stopped"] = "online"
) -> FleetView:
    view = _view(state_change(), None)
    view.update(TOPICS.runtime, encode(replace(_runtime(), overridden=in_file)), now_s=1.0)
    status = Status(device=DEVICE, session=SESSION, state=state, agent="0.1.0", since="2026-11-20T10:00:00.000000Z")
    view.update(TOPICS.status, encode(status), now_s=1.0)
    return view


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cameras.front.rate_hz", 10.0, "10"),
        ("cameras.front.rate_hz", None, "null"),
        ("cameras.front.enabled", True, "true"),
    ],
)
def test_every_view_names_what_commands_have_changed_and_what_the_file_says(
    key: str, value: Value, words: str
) -> None:
    view = _overridden({key: value})
    expected = f"{key} is set by command; the file says {words}"
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(render(view, now_s=1.0, width=160))
    assert expected in capture.get()
    for lines in (lines_from_fleet(view, now_s=1.0), explanation_lines(view, None), explanation_lines(view, "front")):
        assert f"{DEVICE} {expected}" in [*lines]
    assert expected not in " ".join(explanation_lines(view, "other"))


def test_without_overrides_and_of_a_stopped_agent_none_is_named() -> None:
    for view in (_overridden({}), _overridden({"cameras.front.rate_hz": 1.0}, state="stopped")):
        assert "by command" not in " ".join([*lines_from_fleet(view, now_s=1.0), *explanation_lines(view, None)])


def test_many_overrides_are_counted_and_strange_ones_change_no_terminal() -> None:
    view = _overridden({f"cameras.c{index}.rate_hz\x1b[2J": 1.0 for index in range(25)})
    lines = [line for line in lines_from_fleet(view, now_s=1.0) if "by command; the file" in line]
    assert len(lines) == 20
    assert all(line.isprintable() for line in lines)
    assert f"{DEVICE} 5 more values are set by command" in [*lines_from_fleet(view, now_s=1.0)]
    view.update(TOPICS.runtime, b'{"overridden": {"a": [1], "b": {"c": 1}, "d": "text"}}', now_s=2.0)
    assert "by command" not in " ".join(lines_from_fleet(view, now_s=2.0))
