"""The findings of the checks, and the report made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

State = Literal["ok", "absent", "warning", "failed"]

_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    ``absent``: missing, and not needed. ``warning``: works, but not well. ``failed``: does not work.
    ``is_needed``: the configuration cannot run without it.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""
    is_needed: bool = False
    facts: Mapping[str, object] = field(default_factory=lambda: _NOTHING)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "detail": self.detail,
            "remedy": self.remedy,
            "needed": self.is_needed,
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


@dataclass(frozen=True, slots=True)
class Section:
    """Findings of one area."""

    name: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All findings in display order. ``subject`` names what was checked: a configuration or the machine."""

    subject: str
    sections: tuple[Section, ...]

    @property
    def failures(self) -> list[str]:
        """``area: name`` of everything that is needed and does not work."""
        return self._needed("failed")

    @property
    def reservations(self) -> list[str]:
        """``area: name`` of everything that is needed and works, but not as configured."""
        return self._needed("warning")

    def _needed(self, state: State) -> list[str]:
        return [
            f"{section.name}: {finding.name}"
            for section in self.sections
            for finding in section.findings
            if finding.state == state and finding.is_needed
        ]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "subject": self.subject,
            "ok": not self.failures,
            "failures": self.failures,
            "reservations": self.reservations,
            "sections": {section.name: [one.as_dict() for one in section.findings] for section in self.sections},
        }


def sections_from(findings: Sequence[tuple[str, Sequence[Finding]]]) -> tuple[Section, ...]:
    """Sections by name, in the order of first appearance, without empty ones."""
    by_name: dict[str, list[Finding]] = {}
    for name, found in findings:
        by_name.setdefault(name, []).extend(found)
    return tuple(Section(name, tuple(found)) for name, found in by_name.items() if found)
