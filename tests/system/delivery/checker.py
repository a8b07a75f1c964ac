"""Compares the agent's ledger with what a broker acknowledged or a subscriber recorded.

``lost = committed - delivered`` and ``unexpected = delivered - put`` must be empty; first deliveries keep the order of
each topic; duplicates are allowed and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson

Identity = tuple[str, int, int]
"""Topic, session and seq identify an event."""


def identity_of(topic: str, payload: bytes) -> Identity:
    """The identity in the payload of an event."""
    message = orjson.loads(payload)
    return topic, int(message["session"]), int(message["seq"])


@dataclass(frozen=True, slots=True)
class Ledger:
    """The agent's record of all its sessions: events put, and events committed."""

    put: tuple[Identity, ...]
    committed: frozenset[Identity]


def read_ledger(path: Path) -> Ledger:
    """Parse lines of ``P`` or ``C``, topic, session, seq; a last line cut off by a kill is ignored."""
    put: list[Identity] = []
    committed: set[Identity] = set()
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text.split("\n")[:-1]:
        kind, topic, session, seq = line.split(" ")
        if kind == "P":
            put.append((topic, int(session), int(seq)))
        else:
            committed.add((topic, int(session), int(seq)))
    return Ledger(tuple(put), frozenset(committed))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The faults found; ``is_good`` if there are none. Duplicates are no fault."""

    committed: int
    delivered: int
    lost: tuple[Identity, ...]
    unexpected: tuple[Identity, ...]
    out_of_order: tuple[Identity, ...]
    duplicates: int

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing made up, nothing out of order."""
        return not (self.lost or self.unexpected or self.out_of_order)

    def __str__(self) -> str:
        return (
            f"committed {self.committed}, delivered {self.delivered}, lost {len(self.lost)}, unexpected "
            f"{len(self.unexpected)}, out of order {len(self.out_of_order)}, duplicates {self.duplicates}"
        )


def judge(ledger: Ledger, delivered: Iterable[Identity], *, order: Iterable[Identity] | None = None) -> Verdict:
    """Compare ``delivered``, repetitions included, with the ledger; ``order`` where that is not the order of arrival
    (a broker may acknowledge in another one)."""
    arrivals = list(delivered)
    counts = Counter(arrivals)
    return Verdict(
        committed=len(ledger.committed),
        delivered=len(counts),
        lost=tuple(sorted(ledger.committed - counts.keys())),
        unexpected=tuple(sorted(counts.keys() - set(ledger.put))),
        out_of_order=tuple(_out_of_order(arrivals if order is None else list(order))),
        duplicates=sum(counts.values()) - len(counts),
    )


def _out_of_order(arrivals: list[Identity]) -> Iterable[Identity]:
    newest: dict[str, tuple[int, int]] = {}
    seen: set[Identity] = set()
    for identity in arrivals:
        if identity in seen:
            continue
        seen.add(identity)
        topic, *number = identity
        position = (number[0], number[1])
        if position < newest.get(topic, (0, -1)):
            yield identity
        newest[topic] = max(position, newest.get(topic, position))
