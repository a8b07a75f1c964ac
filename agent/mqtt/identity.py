"""Device and session: the fields that are equal in every message of one session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.mqtt.base import Packet
from agent.mqtt.messages import Status
from agent.mqtt.topics import STATUS, Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """``session`` counts the agent's starts on this device; ``started`` is the start of this one, RFC 3339 in UTC."""

    device: str
    session: int
    agent: str
    started: str
    topics: Topics

    def status(
        self, state: Literal["online", "offline", "stopped"], *, reason: Literal["moved"] | None = None
    ) -> Packet:
        """The retained status message; ``offline`` is the last will."""
        status = Status(
            device=self.device,
            session=self.session,
            state=state,
            agent=self.agent,
            since=self.started,
            reason=reason,
        )
        return STATUS.packet(status, self.topics)
