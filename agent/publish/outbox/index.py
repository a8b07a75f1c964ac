"""What the outbox keeps in memory: the newest rows, rows read ahead for each topic, and how many wait."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from agent.publish.outbox.base import KeysByTopic
from agent.publish.outbox.file import Row


class ReadAhead:
    """A page of rows of each topic for the next reads, and the rows that were returned and are not confirmed yet.

    Used under its owner's lock.
    """

    def __init__(self) -> None:
        self._pages: dict[str, OrderedDict[int, Row]] = {}
        self._read_up_to: dict[str, int] = {}
        self._in_hand: dict[int, Row] = {}

    def start_over(self, topic: str) -> None:
        """Reading ``topic`` starts at its oldest row again."""
        self._pages.pop(topic, None)
        self._read_up_to.pop(topic, None)

    def clear(self) -> None:
        """Forget everything, because the file is damaged."""
        self._pages.clear()
        self._read_up_to.clear()
        self._in_hand.clear()

    def has_read(self, topic: str, before: int) -> bool:
        """Whether no row of ``topic`` with a key below ``before`` is left to read."""
        return self._read_up_to.get(topic, 0) >= before

    def fill(self, topic: str, rows: Iterable[Row], *, up_to: int | None) -> None:
        """Replace the page of ``topic`` by ``rows``, in the order of their keys.

        ``up_to``: these are the last rows below this key; None if there may be more.
        """
        page = OrderedDict((row.key, row) for row in rows)
        if page:
            self._pages[topic] = page
        else:
            self._pages.pop(topic, None)
        if up_to is not None:
            self._read_up_to[topic] = up_to

    def first_after(self, topic: str, after: int) -> Row | None:
        """The first row of ``topic`` with a key above ``after``; earlier rows are removed from the page."""
        page = self._pages.get(topic)
        while page:
            key = next(iter(page))
            if key > after:
                return page[key]
            del page[key]
        self._pages.pop(topic, None)
        return None

    def hand_out(self, row: Row) -> None:
        """Remember that ``row`` was returned to the reader."""
        self._in_hand[row.key] = row

    def is_in_hand(self, key: int) -> bool:
        """Whether the row was returned to the reader and is not confirmed."""
        return key in self._in_hand

    def take_out(self, key: int) -> Row | None:
        """Remove and return the row, None if it is not known here."""
        row = self._in_hand.pop(key, None)
        for page in self._pages.values() if row is None else filter(None, [self._pages.get(row.packet.topic)]):
            row = page.pop(key, row)
        return row


class Tail:
    """The newest waiting rows, all of them from some key on. Used under its owner's lock."""

    def __init__(self) -> None:
        self._rows: OrderedDict[int, Row] = OrderedDict()
        self._keys = KeysByTopic()
        self.size_bytes = 0

    def add(self, row: Row) -> None:
        """Add the newest row."""
        self._rows[row.key] = row
        self._keys.add(row.packet.topic, row.key)
        self.size_bytes += row.size_bytes

    def pop(self, key: int) -> Row | None:
        """Remove and return a row, None if it is not here."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._keys.remove(row.packet.topic, key)
            self.size_bytes -= row.size_bytes
        return row

    def first(self, topic: str, after: int) -> Row | None:
        """The first row of ``topic`` with a key above ``after``."""
        key = self._keys.first(topic, after)
        return None if key is None else self._rows[key]

    def rows(self) -> dict[int, Row]:
        """The rows by key, in order; a copy."""
        return dict(self._rows)

    @property
    def oldest(self) -> int:
        """The lowest key; there must be one."""
        return next(iter(self._rows))

    def __contains__(self, key: int) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)


class WaitingTopics:
    """The number of waiting packets of each topic. Used under its owner's lock."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, topic: str, count: int = 1) -> None:
        """Add ``count`` packets."""
        self._counts[topic] += count

    def remove(self, topic: str) -> None:
        """Remove one packet."""
        self._counts[topic] -= 1
        if self._counts[topic] <= 0:
            del self._counts[topic]

    def counts(self) -> dict[str, int]:
        """The number of packets by topic."""
        return dict(self._counts)
