"""Why a classifier has decided its labels or none, and what commands have changed, from an agent's messages."""

from __future__ import annotations

from collections.abc import Iterator

from agent.config.overridden import in_words
from agent.inference.decisions.standing import why
from agent.runtime.records import Standing
from agent.tools.watch.documents import Document, printable
from agent.tools.watch.fleet import ClassifierView, DeviceView, FleetView

_STALE = "stale"
_MAX_OVERRIDES = 20
"""Sentences for one device; the rest is counted."""


def explanation_lines(view: FleetView, camera: str | None) -> Iterator[str]:
    """A line for each classifier, of ``camera`` alone if that is given; and one for a camera that is not connected.

    The values that commands have changed follow, for all cameras of the device.
    An agent that does not run has one line: what it said of its cameras and classifiers is no longer true.
    """
    for device_name, device in sorted(view.devices.items()):
        if not device.is_running:
            yield from _of_stopped(device_name, device, camera)
            continue
        for name in device.visible_cameras():
            if camera not in {None, name}:
                continue
            health = device.cameras[name].health
            if (state := health.text("state")) not in {None, "connected"}:
                error = health.text("error")
                yield f"{device_name} {name}: the camera is {state}" + (f": {error}" if error else "")
            for key, classifier in sorted(device.cameras[name].classifiers.items()):
                yield f"{device_name} {name}/{key} is {explained(classifier, _rules(device, name, key))}"
        if camera in {None, *device.visible_cameras()}:
            yield from (f"{device_name} {text}" for text in overrides(device))


def _of_stopped(name: str, device: DeviceView, camera: str | None) -> Iterator[str]:
    if camera is not None and camera not in device.visible_cameras():
        return
    if device.message("status").text("state") == "stopped":
        yield f"{name} is stopped: the broker keeps what it published, but the agent has ended; start it again"
    else:
        yield (
            f"{name} is offline: the broker keeps what it published, but has no connection to the agent; look at its "
            "power, its network and its log"
        )


def reasons(device: DeviceView) -> Iterator[tuple[str, str, str]]:
    """Camera, classifier and a sentence, for each classifier whose state is a word instead of a label."""
    for camera in device.visible_cameras():
        for key, classifier in sorted(device.cameras[camera].classifiers.items()):
            if (text := reason(device, camera, key, classifier)) is not None:
                yield camera, key, text


def overrides(device: DeviceView) -> Iterator[str]:
    """A sentence for each key of the configuration that a command has changed, while the agent runs."""
    in_file = device.message("runtime").section("overridden")
    names = in_file.names() if device.is_running else []
    for name in names[:_MAX_OVERRIDES]:
        value = in_file.value(name)
        if value is None or isinstance(value, bool | int | float):
            yield f"{printable(name)} is set by command; the file says {in_words(value)}"
    if len(names) > _MAX_OVERRIDES:
        yield f"{len(names) - _MAX_OVERRIDES} more values are set by command"


def reason(device: DeviceView, camera: str, key: str, classifier: ClassifierView) -> str | None:
    """Why the state is ``unknown`` or ``stale``; None if labels are decided, or no state has come."""
    rules = _rules(device, camera, key)
    if classifier.state.text("label") not in {_STALE, rules.text("unknown") or "unknown"}:
        return None
    return explained(classifier, rules)


def explained(classifier: ClassifierView, rules: Document) -> str:
    """The state and why it is so. ``rules`` are those of the classifier in ``runtime``."""
    if classifier.state.text("label") == _STALE:
        return "stale: no result comes; see the camera, its drops and its gate"
    standing = _standing(classifier, rules)
    if standing is not None:
        text = why(standing)
    else:
        text = "its newest result gives no reason" if classifier.result else "no result yet"
    return f"{classifier.decided or 'without a state'}: {text}"


def _rules(device: DeviceView, camera: str, key: str) -> Document:
    return device.message("runtime").section("cameras", camera, "classifiers", key)


def _standing(classifier: ClassifierView, rules: Document) -> Standing | None:
    """Where the decision stood with the newest result; None without one, or if the agent is of another version."""
    result, decision = classifier.result, classifier.result.section("decision")
    # A compact result leaves out a candidate that is its own label.
    speaks = decision if decision.text("candidate") is not None else result
    candidate = decision.text("candidate") or (result.text("label") if decision else None)
    confidence, votes = speaks.number("confidence"), decision.number("votes")
    own = rules.section("labels", candidate or "")
    # The rule of the label, else that of all.
    figures = {key: own.number(key) if own else rules.number(key) for key in ("enter", "exit", "needed")}
    window = rules.number("window")
    if candidate is None or confidence is None or votes is None or window is None:
        return None
    word = decision.text("label")
    # Of one label the result is as new as its decision; a set is in the state alone.
    labels = tuple(classifier.state.texts("labels")) if word is None else (word,)
    threshold, needed = figures["exit" if candidate in labels else "enter"], figures["needed"]
    if threshold is None or needed is None:
        return None
    return Standing(
        label=word,
        labels=labels,
        candidate=candidate,
        confidence=confidence,
        threshold=threshold,
        votes=votes,
        needed=needed,
        window=window,
        is_timed=rules.number("hold_s") is not None,
        # Of several labels each has its own threshold, so the next best says nothing.
        runner_up=None if own else _runner_up(result, candidate),
    )


def _runner_up(result: Document, candidate: str) -> tuple[str, float] | None:
    found = result.value("top_k")
    ranked = found if isinstance(found, list) else [result.value("next_best")]
    for one in map(Document, filter(_is_object, ranked)):
        label, confidence = one.text("label"), one.number("confidence")
        if label is not None and label != candidate and confidence is not None:
            return label, confidence
    return None


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
