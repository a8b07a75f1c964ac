"""Asks every camera that was found, and writes what they say."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import yaml

from agent.runtime.terminal import escaped
from agent.tools.find_cameras.device import CameraRefused, Login, Profile, profiles_of
from agent.tools.find_cameras.discovery import Found

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class FoundCamera:
    """A camera and its streams; ``error`` says why these are not known."""

    found: Found
    profiles: tuple[Profile, ...]
    error: str | None

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "name": self.found.name,
            "hardware": self.found.hardware,
            "address": self.found.sender,
            "endpoint": self.found.endpoint,
            "xaddrs": list(self.found.addresses),
            "error": self.error,
            "profiles": [asdict(one) for one in self.profiles],
        }


def ask_all(found: Sequence[Found], login: Login | None) -> list[FoundCamera]:
    """Ask each of them, eight at a time; each of its exchanges has five seconds."""
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="find-cameras") as executor:
        return list(executor.map(lambda one: _ask(one, login), found))


def _ask(found: Found, login: Login | None) -> FoundCamera:
    try:
        return FoundCamera(found, tuple(profiles_of(found, login)), None)
    except CameraRefused as exc:
        return FoundCamera(found, (), str(exc))


def as_text(cameras: Sequence[FoundCamera]) -> str:
    """One part for each camera; its streams are sections of a configuration."""
    return "\n".join(line for number, camera in enumerate(cameras, 1) for line in _lines(number, camera))


def _lines(number: int, camera: FoundCamera) -> Iterator[str]:
    found = camera.found
    title = " ".join(part for part in (found.name, found.hardware if found.hardware != found.name else "") if part)
    yield f"# {_one_line(title) or 'a camera without a name'} at {found.sender}"
    if camera.error is not None:
        yield f"#   {_one_line(camera.error)}"
    if not camera.profiles and camera.error is None:
        yield "#   it has no profile: set one up on the camera's own page"
    for place, profile in enumerate(camera.profiles, 1):
        size = "" if profile.width is None else f" {profile.width}x{profile.height}"
        rate = "" if profile.fps is None else f" at {profile.fps:g} fps"
        codec = _one_line(profile.codec) or "unknown codec"
        yield f"# {_one_line(profile.name or profile.token)}: {codec}{size}{rate}"
        if profile.source is None:
            yield f"#   {_one_line(profile.error or '')}"
        else:
            key = f"{_slug(found.name) or f'camera{number}'}-{place}"
            block = yaml.safe_dump({key: {"source": profile.source}}, sort_keys=False, allow_unicode=True, width=1000)
            yield from ("  " + line for line in block.splitlines())
    yield ""


def _one_line(text: str) -> str:
    """A comment of one line: what a camera says must not begin another one, nor hold what YAML refuses."""
    return escaped(" ".join(text.split()))


def _slug(name: str) -> str:
    """A name that the configuration takes; empty if nothing of it can be used."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
