"""What the outbox keeps in memory about its file: rows read ahead, and the newest key of each topic."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from agent.publish.outbox.file import Row


class ReadAhead:
    """A page of rows for the next reads, and the rows that were returned and are not confirmed yet.

    Used under its owner's lock.
    """

    def __init__(self) -> None:
        self._page: OrderedDict[int, Row] = OrderedDict()
        self._in_hand: dict[int, Row] = {}

    def start_over(self) -> None:
        """Forget everything: reading starts at the oldest row again."""
        self._page.clear()
        self._in_hand.clear()

    def drop_page(self) -> None:
        """Forget the page, because the file is damaged."""
        self._page.clear()

    def fill(self, rows: Iterable[Row]) -> None:
        """Replace the page by ``rows``, in the order of their keys."""
        self._page = OrderedDict((row.key, row) for row in rows)

    def first_after(self, after: int) -> Row | None:
        """The first row with a key above ``after``; earlier rows are removed from the page."""
        while self._page:
            key = next(iter(self._page))
            if key > after:
                return self._page[key]
            del self._page[key]
        return None

    def hand_out(self, row: Row) -> None:
        """Remember that ``row`` was returned to the reader."""
        self._in_hand[row.key] = row

    def is_in_hand(self, key: int) -> bool:
        """Whether the row was returned to the reader and is not confirmed."""
        return key in self._in_hand

    def take_out(self, key: int) -> Row | None:
        """Remove and return the row, None if it is not known here."""
        ahead = self._page.pop(key, None)
        return self._in_hand.pop(key, None) or ahead


class WaitingTopics:
    """The newest key of each topic that has waiting packets. Used under its owner's lock."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self._counts: Counter[str] = Counter()

    def add(self, topic: str, key: int, count: int = 1) -> None:
        """Add ``count`` packets; ``key`` is the newest of them."""
        self._newest[topic] = max(key, self._newest.get(topic, 0))
        self._counts[topic] += count

    def remove(self, topic: str) -> None:
        """Remove one packet. The newest key stays, even if its packet is gone, while older packets wait."""
        self._counts[topic] -= 1
        if self._counts[topic] <= 0:
            del self._counts[topic]
            self._newest.pop(topic, None)

    def newest_keys(self) -> dict[str, int]:
        """The newest key by topic."""
        return dict(self._newest)
