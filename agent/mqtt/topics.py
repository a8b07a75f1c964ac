"""Where each message goes: ``<prefix>/<device>/...``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

MAX_TOPIC_BYTES = 65535
"""Longest topic. Source: MQTT Version 5.0, section 1.5.4 (UTF-8 encoded string)."""

_FORBIDDEN = {"%": "%25", "/": "%2F", "+": "%2B", "#": "%23"}


@lru_cache(maxsize=1024)
def level(name: str) -> str:
    """``name`` as exactly one level of a topic.

    Names of the configuration pass unchanged. In any other string the characters that mean something to a broker
    (``/ + # %``), control characters, lone surrogates and a leading ``$`` are percent-encoded, so that two different
    names never share a topic; an empty one becomes ``%``.
    """
    if not name:
        return "%"
    escaped = "".join(_escape(character) for character in name)
    return f"%24{escaped[1:]}" if escaped.startswith("$") else escaped


def _escape(character: str) -> str:
    if character in _FORBIDDEN:
        return _FORBIDDEN[character]
    code = ord(character)
    if code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or (code & 0xFFFE) == 0xFFFE:
        return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
    return character


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one device. ``prefix`` may have several levels and is taken as it is."""

    prefix: str
    device: str

    @property
    def root(self) -> str:
        """What every topic of this device starts with."""
        return f"{self.prefix}/{level(self.device)}"

    @property
    def status(self) -> str:
        """Whether the agent is there; the last will goes here."""
        return f"{self.root}/status"

    @property
    def runtime(self) -> str:
        """What runs."""
        return f"{self.root}/runtime"

    @property
    def latency(self) -> str:
        """Where the time goes."""
        return f"{self.root}/latency"

    @property
    def thermal(self) -> str:
        """Temperatures, power and the governor."""
        return f"{self.root}/thermal"

    @property
    def health(self) -> str:
        """One record of everything."""
        return f"{self.root}/health"

    def camera_health(self, camera: str) -> str:
        """How one camera is."""
        return f"{self.root}/camera/{level(camera)}/health"

    def result(self, camera: str, classifier: str) -> str:
        """Every classification of one classifier."""
        return self._classifier(camera, classifier, "result")

    def state(self, camera: str, classifier: str) -> str:
        """The decided label of one classifier."""
        return self._classifier(camera, classifier, "state")

    def event(self, camera: str, classifier: str) -> str:
        """Each change of one classifier's label."""
        return self._classifier(camera, classifier, "event")

    def snapshot(self, camera: str) -> str:
        """The newest picture of one camera, JPEG."""
        return f"{self.root}/camera/{level(camera)}/snapshot"

    def command(self, verb: str) -> str:
        """Where one command is taken; ``+`` stands for all of them."""
        return f"{self.root}/cmd/{verb}"

    def reply(self, verb: str) -> str:
        """Where the replies to one command go."""
        return f"{self.root}/reply/{verb}"

    def _classifier(self, camera: str, classifier: str, kind: str) -> str:
        return f"{self.root}/camera/{level(camera)}/{level(classifier)}/{kind}"
