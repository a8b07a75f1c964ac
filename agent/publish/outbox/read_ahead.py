"""What an outbox has read from its file and not got rid of yet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from agent.publish.outbox.file import Row


class ReadAhead:
    """A page of rows in front of the reader, and those that he was given and that are not confirmed yet.

    Under the lock of its owner.
    """

    def __init__(self) -> None:
        self._page: OrderedDict[int, Row] = OrderedDict()
        self._in_hand: dict[int, Row] = {}

    def start_over(self) -> None:
        """The reader begins at the oldest row again."""
        self._page.clear()
        self._in_hand.clear()

    def drop_page(self) -> None:
        """What was read ahead is not to be trusted any more."""
        self._page.clear()

    def fill(self, rows: Iterable[Row]) -> None:
        """Another page, by rising key."""
        self._page = OrderedDict((row.key, row) for row in rows)

    def first_after(self, after: int) -> Row | None:
        """The first row of the page behind ``after``; those before it have been passed."""
        while self._page:
            key = next(iter(self._page))
            if key > after:
                return self._page[key]
            del self._page[key]
        return None

    def hand_out(self, row: Row) -> None:
        """The reader has it now."""
        self._in_hand[row.key] = row

    def is_in_hand(self, key: int) -> bool:
        """The reader was given it."""
        return key in self._in_hand

    def take_out(self, key: int) -> Row | None:
        """Forget one row; it, where it was known here."""
        ahead = self._page.pop(key, None)
        return self._in_hand.pop(key, None) or ahead
