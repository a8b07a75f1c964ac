"""Why a classifier has decided no label, from its messages."""

from __future__ import annotations

from collections.abc import Iterator

from agent.inference.standing import why
from agent.runtime.records import Standing
from agent.tools.watch.documents import Document
from agent.tools.watch.fleet import ClassifierView, DeviceView

_STALE = "stale"


def reasons(device: DeviceView) -> Iterator[tuple[str, str, str]]:
    """Camera, classifier and a sentence, for each classifier whose state is a word instead of a label."""
    for camera in device.visible_cameras():
        for key, classifier in sorted(device.cameras[camera].classifiers.items()):
            rules = device.message("runtime").section("cameras", camera, "classifiers", key)
            if (text := reason(classifier, rules)) is not None:
                yield camera, key, text


def reason(classifier: ClassifierView, rules: Document) -> str | None:
    """Why the state is ``unknown`` or ``stale``; None if labels are decided. ``rules`` are those in ``runtime``."""
    decision = classifier.result.section("decision")
    # A result is newer than the state where both are known.
    word = decision.text("label") if decision else classifier.state.text("label")
    state = classifier.state.text("label")
    if state == _STALE:
        return "stale: no result comes; see the camera, its drops and its gate"
    if word is None or word != (rules.text("unknown") or "unknown"):
        return None
    standing = _standing(classifier.result, decision, rules)
    return f"{word}: {'no result yet' if standing is None else why(standing)}"


def _standing(result: Document, decision: Document, rules: Document) -> Standing | None:
    candidate, confidence = decision.text("candidate"), decision.number("confidence")
    votes = decision.number("votes")
    if candidate is None or confidence is None or votes is None:
        return None
    label_rules = rules.section("labels", candidate)
    enter, needed = label_rules.number("enter"), label_rules.number("needed")
    enter = rules.number("enter") if enter is None else enter
    needed = rules.number("needed") if needed is None else needed
    window = rules.number("window")
    if enter is None or needed is None or window is None:  # an agent of another version
        return None
    return Standing(
        label=decision.text("label"),
        labels=(),
        candidate=candidate,
        confidence=confidence,
        threshold=enter,
        votes=votes,
        needed=needed,
        window=window,
        is_timed=rules.number("hold_s") is not None,
        runner_up=_runner_up(result, candidate),
    )


def _runner_up(result: Document, candidate: str) -> tuple[str, float] | None:
    found = result.value("top_k")
    for one in map(Document, filter(_is_object, found if isinstance(found, list) else [])):
        label, confidence = one.text("label"), one.number("confidence")
        if label is not None and label != candidate and confidence is not None:
            return label, confidence
    return None


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
