"""A result made without validation equals the validated one."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agent.mqtt.messages import Result, result_from_classification
from agent.mqtt.topics import encode
from agent.runtime.records import Classification, Score, StageTimes
from tests.fixtures.publish_samples import classification

SHARES = st.floats(0.0, 1.0001, exclude_max=True)
TIMES = st.floats(0.0, 1e7)
# A deviation that rounding removes is not a fault.
NO_SHARE = st.floats().filter(lambda value: not -1e-6 <= value < 1.0002)
NO_TIME = st.floats().filter(lambda value: not -1e-4 <= value < float("inf"))


def _message(record: Classification) -> Result:
    return result_from_classification(record, device="line-3", session=1, seq=0, clock_state="synced")


@example(
    margin=1.00009999, top=[Score(0, "a", 1.00009999)], times=StageTimes(1.0, 1.0, 1.0, 1.0, 1.0), image_fault=None
)
@given(
    margin=SHARES,
    top=st.lists(st.builds(Score, st.integers(0, 999), st.text(min_size=1), SHARES), min_size=1, max_size=5),
    times=st.builds(StageTimes, TIMES, TIMES, TIMES, TIMES, TIMES),
    image_fault=st.none() | st.just("black"),
)
def test_an_unvalidated_result_equals_the_validated_one(
    margin: float, top: list[Score], times: StageTimes, image_fault: str | None
) -> None:
    message = _message(replace(classification(), margin=margin, top=tuple(top), times=times, image_fault=image_fault))
    validated = TypeAdapter(Result).validate_python(asdict(message))
    assert validated == message
    assert encode(validated) == encode(message)


@given(NO_SHARE)
def test_an_impossible_confidence_is_refused(value: float) -> None:
    best = replace(classification().top[0], confidence=value)
    for record in (replace(classification(), margin=value), replace(classification(), top=(best,))):
        with pytest.raises(ValidationError):
            _message(record)


@given(NO_TIME, st.integers(0, 4))
def test_an_impossible_time_is_refused(value: float, place: int) -> None:
    times = [1.0] * 5
    times[place] = value
    with pytest.raises(ValidationError):
        _message(replace(classification(), times=StageTimes(*times)))
