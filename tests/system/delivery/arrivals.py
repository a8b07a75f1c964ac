"""What arrived at a broker, and how old it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import orjson

from tests.system.delivery.checker import Identity, identity_of


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message that the broker accepted; ``at`` is seconds since 1970."""

    topic: str
    payload: bytes
    at: float


def first_arrivals(arrivals: Iterable[Arrival]) -> dict[Identity, tuple[float, float]]:
    """When each event was put and when it first arrived, both in seconds since 1970."""
    times: dict[Identity, tuple[float, float]] = {}
    for one in arrivals:
        if one.topic.endswith("/event"):
            put = datetime.fromisoformat(orjson.loads(one.payload)["at"].replace("Z", "+00:00")).timestamp()
            times.setdefault(identity_of(one.topic, one.payload), (put, one.at))
    return times
