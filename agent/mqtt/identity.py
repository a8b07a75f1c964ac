"""Who speaks: the same in every message of one session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.mqtt.base import Packet
from agent.mqtt.messages import Status
from agent.mqtt.topics import STATUS, Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """``session`` counts the starts of the agent on this device; ``started`` is its start in RFC 3339, UTC."""

    device: str
    session: int
    agent: str
    started: str
    topics: Topics

    def status(
        self, state: Literal["online", "offline", "stopped"], *, reason: Literal["moved"] | None = None
    ) -> Packet:
        """The retained status message; with ``offline`` it is the last will."""
        status = Status(
            device=self.device,
            session=self.session,
            state=state,
            agent=self.agent,
            since=self.started,
            reason=reason,
        )
        return STATUS.packet(status, self.topics)
