"""What the page shows and does, as functions that the agent gives it; each may be called on any thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from agent.mqtt.base import Received
from agent.mqtt.topics import Topics
from agent.runtime.records import Frame
from agent.web.page.feed import PageFeed


@dataclass(frozen=True, slots=True)
class PageSources:
    """``newest_frame`` and ``explain`` raise KeyError for a camera that does not run.

    ``receive`` takes a command as the broker's connection does; whether a reply comes, as a message. ``verbs`` are the
    commands that it accepts. ``heat`` returns the minutes of the last day, oldest first. ``reports_dir`` returns where
    reports of `agent benchmark` lie. ``bundle`` makes a support bundle, a tar.gz, and raises RequestRefused; it takes
    up to minutes.
    """

    feed: PageFeed
    topics: Topics
    agent: str
    verbs: Sequence[str]
    newest_frame: Callable[[str], Frame | None]
    explain: Callable[[str], Mapping[str, JsonValue]]
    receive: Callable[[Received], bool]
    heat: Callable[[], Sequence[Mapping[str, JsonValue]]]
    reports_dir: Callable[[], Path]
    bundle: Callable[[], bytes]
