"""How results become a stable label: thresholds, votes, durations, and the rules of single labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from agent.config.sections.base import PlacedError, Section

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0, le=600.0)]

STALE = "stale"
"""What the state says instead of a label when no results come; no label may have this name."""
_VOTES, _WINDOW = 3, 5


@dataclass(frozen=True, slots=True)
class LabelRule:
    """The rule of one label: thresholds from 0 to 1, and how much evidence decides.

    ``needed`` of ``window``: results, or nanoseconds of captured time if ``is_timed``.
    """

    enter: float
    exit: float
    needed: int
    window: int
    is_timed: bool

    def figure(self, amount: int) -> float:
        """An amount of evidence for people: results, or seconds."""
        return amount / 1e9 if self.is_timed else amount


class LabelConfig(Section):
    """One label of a model that finds several in an image; null takes what holds for all its labels."""

    enter: Ratio | None = None
    """Confidence from which a result votes for the label; null takes its threshold in the package, or that of all."""
    exit: Ratio | None = None
    """Confidence below which the label stops being confirmed; null keeps the ratio of `exit` to `enter` of all."""
    votes: int | None = Field(default=None, ge=1, le=1000)
    """Votes within `window` that make the label come or go."""
    hold_s: Seconds | None = None
    """Seconds for which the label must hold to come or go; only if `hold_s` of all is set."""

    @model_validator(mode="after")
    def _bounds_agree(self) -> LabelConfig:
        if self.enter is not None and self.exit is not None and self.exit > self.enter:
            raise ValueError(f"exit {self.exit} is above enter {self.enter}: lower exit or raise enter")
        if self.votes is not None and self.hold_s is not None:
            raise ValueError(_counts_and_seconds("votes", self.votes, self.hold_s))
        return self


class DecideConfig(Section):
    """How a stream of scores becomes a stable label."""

    top_k: int = Field(default=3, ge=1, le=100)
    """Number of best classes in every event, and in every result with `mqtt.results.detail: full`."""
    enter: Ratio = 0.7
    """Confidence from which a result votes for its class."""
    exit: Ratio = 0.5
    """Confidence below which the decided class stops being confirmed; at most `enter`."""
    votes: int | None = Field(default=None, ge=1, le=1000)
    """Votes within the window that change the label; null is 3. Not with `hold_s`."""
    window: int | None = Field(default=None, ge=1, le=1000)
    """How many of the latest results count, at least `votes`; null is 5. Not with `hold_s`."""
    hold_s: Seconds | None = None
    """Seconds for which a label must hold to be decided, at any frame rate; null counts `votes` instead."""
    window_s: Seconds | None = None
    """Seconds within which a label must hold for `hold_s` in all, at least `hold_s`; null: without interruption."""
    unknown: str = Field(default="unknown", min_length=1, max_length=64)
    """State while results come but confirm no label; neither `stale` nor a label of the model."""
    stale_after_s: float = Field(default=10.0, gt=0.0, le=86400.0)
    """Seconds without a result after which the state is `stale`."""
    labels: dict[str, LabelConfig] = Field(default_factory=dict)
    """Rules of single labels of a model with `task: multi_label`."""

    @model_validator(mode="after")
    def _bounds_agree(self) -> DecideConfig:
        if self.exit > self.enter:
            raise ValueError(f"exit {self.exit} is above enter {self.enter}: lower exit or raise enter")
        if self.unknown == STALE:
            raise ValueError(
                "unknown is the word while results confirm no label, but `stale` is the word while none come; "
                "choose another word"
            )
        self._check_durations()
        for label in self.labels:
            self._check_label(label)
        return self

    def rule(self, label: str | None = None, *, stated: float | None = None) -> LabelRule:
        """The rule of ``label``, None for the rule of all; ``stated`` is its threshold in the package's manifest."""
        own = LabelConfig() if label is None else self.labels.get(label, LabelConfig())
        enter = next(one for one in (own.enter, stated, self.enter) if one is not None)
        if own.exit is not None:
            exits_below = min(own.exit, enter)
        elif enter == self.enter:
            exits_below = self.exit
        else:
            exits_below = round(enter * self.exit / self.enter, 6) if self.enter else 0.0
        if self.hold_s is None:
            return LabelRule(
                enter, exits_below, own.votes or self.votes or _VOTES, self.window or _WINDOW, is_timed=False
            )
        hold_s = own.hold_s or self.hold_s
        window_s = max(hold_s, self.window_s or hold_s)
        return LabelRule(enter, exits_below, round(hold_s * 1e9), round(window_s * 1e9), is_timed=True)

    def _check_durations(self) -> None:
        if self.hold_s is None:
            if self.window_s is not None:
                raise ValueError(
                    f"window_s {self.window_s:g} says within which time a label must hold, but hold_s does not say "
                    "for how long; give hold_s, or use window, which counts results"
                )
            votes, window = self.votes or _VOTES, self.window or _WINDOW
            if votes > window:
                raise ValueError(f"votes {votes} do not fit in window {window}: raise window or lower votes")
            return
        for name, value in (("votes", self.votes), ("window", self.window)):
            if value is not None:
                raise ValueError(_counts_and_seconds(name, value, self.hold_s))
        if self.window_s is not None and self.hold_s > self.window_s:
            raise ValueError(
                f"hold_s {self.hold_s:g} does not fit in window_s {self.window_s:g}: raise window_s or lower hold_s"
            )

    def _check_label(self, label: str) -> None:
        own, window, text = self.labels[label], self.window or _WINDOW, ""
        if own.votes is not None and self.hold_s is not None:
            text = _counts_and_seconds("votes", own.votes, self.hold_s)
        elif own.votes is not None and own.votes > window:
            text = f"votes {own.votes} do not fit in window {window}: raise window or lower votes"
        elif own.hold_s is not None and self.hold_s is None:
            text = (
                f"hold_s {own.hold_s:g} is in seconds, but the other labels count votes; give hold_s for all of them"
            )
        elif own.hold_s is not None and self.window_s is not None and own.hold_s > self.window_s:
            text = f"hold_s {own.hold_s:g} does not fit in window_s {self.window_s:g}: raise window_s or lower hold_s"
        if text:
            raise PlacedError(text, "labels", label)


def _counts_and_seconds(name: str, value: int, hold_s: float) -> str:
    return f"{name} {value} counts results, but hold_s {hold_s:g} is in seconds; remove one of them"
