"""A refused command says what is wrong in our words, with the nearest key, as a configuration does."""

from __future__ import annotations

from typing import cast

import pytest

from agent.commands.contract import CommandRefused, require_known
from agent.commands.requests import request_from_payload
from agent.config.sections.subscribers import Verb

_PYDANTIC = ("Input should", "Extra inputs", "Field required", "Value error", "Unable to", "String should", "JSON:")


@pytest.mark.parametrize(
    ("verb", "payload", "words"),
    [
        ("set", '{"id": "1", "camera": "front", "rate": 5}', ["rate: unknown key; did you mean `rate_hz`?"]),
        (
            "set",
            '{"id": "1", "camera": "front", "classifer": "x", "entr": 0.5}',
            ["classifer: unknown key; did you mean `classifier`?", "entr: unknown key; did you mean `enter`?"],
        ),
        (
            "set",
            '{"id": "a b", "camera": "Front", "rate_hz": "5"}',
            ["id: this text is not allowed", "camera: this text is not allowed", "write it without quotes: 5"],
        ),
        ("set", '{"id": "1", "camera": "front"}', ["nothing to change: give rate_hz, enter, exit or enabled"]),
        ("set", '{"id": "1", "camera": "front", "enter": 0.5}', ["give its name as classifier"]),
        ("set", '{"id": "1", "camera": "front", "enabled": 1}', ["enabled: 1 is not allowed; give true or false"]),
        ("set", '{"camera": "front", "rate_hz": -1}', ["id: is missing", "rate_hz: -1 is not allowed; give a number"]),
        ("snapshot", '{"id": "1", "camera": "front", "quality": 200}', ["give a whole number, 1 to 95"]),
        ("reload", '{"id": "1", "expires_at": "tomorrow"}', ["expires_at: this text is not allowed; give a time"]),
        ("reload", '{"id": "1", "expires_at": -4}', ["expires_at: expected seconds since 1970"]),
        ("explain", "[1]", ["the payload is a list, but a command is an object such as"]),
        ("explain", '{"id"', ["the payload is no JSON"]),
        ("explain", "", ["the payload is no JSON"]),
    ],
)
def test_a_fault_is_told_in_our_words(verb: str, payload: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        request_from_payload(cast("Verb", verb), payload.encode())
    text = str(caught.value)
    for expected in words:
        assert expected in text
    assert not any(theirs in text.replace("no JSON:", "") for theirs in _PYDANTIC)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(CommandRefused, match=r"there is no camera 'frnt'.*did you mean `front`\?"):
        require_known({"front": 1, "back": 2}, "frnt", "camera")
