"""The service that is installed on this machine, as far as its unit says what the agent will see."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

_UNIT = "agent.service"
_FOLDERS = ("usr/lib/systemd/system", "lib/systemd/system", "run/systemd/system", "etc/systemd/system")
"""Where units lie, the least important first. Source: systemd.unit(5), "Unit File Load Path"."""
_STATE = Path("/var/lib")
_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class InstalledService:
    """``state_dir`` is what `state_dir: auto` means in it; ``unit`` the file that says so."""

    unit: Path
    config: Path
    state_dir: Path


def installed_service(root: Path = Path("/")) -> InstalledService | None:
    """The service by its unit and drop-ins below ``root``; None where there is none that can be understood."""
    unit = next((file for folder in reversed(_FOLDERS) if (file := root / folder / _UNIT).is_file()), None)
    if unit is None:
        return None
    command, state = "", ""
    for key, value in _settings([unit, *_drop_ins(root)]):
        if key == "ExecStart":
            command = value
        elif key == "StateDirectory":
            state = value
    config = _config_of(command)
    if config is None or not state.split():
        return None
    # systemd makes several, and gives them to the service with colons between them; the first one counts.
    return InstalledService(unit, config, _STATE / state.split()[0].split(":")[0])


def service_of(config: Path, root: Path = Path("/")) -> InstalledService | None:
    """The installed service where it runs with ``config``, else None."""
    service = installed_service(root)
    if service is None:
        return None
    try:
        is_same = config.resolve() == service.config.resolve()
    except (OSError, RuntimeError):  # a folder that cannot be entered, or links in a circle
        return None
    return service if is_same else None


def _drop_ins(root: Path) -> list[Path]:
    """In the order in which they count; one in /etc replaces one of the same name elsewhere."""
    found = {file.name: file for folder in _FOLDERS for file in (root / folder / f"{_UNIT}.d").glob("*.conf")}
    return [found[name] for name in sorted(found)]


def _settings(files: list[Path]) -> Iterator[tuple[str, str]]:
    for file in files:
        try:
            with file.open("rb") as stream:
                text = stream.read(_MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith(("#", ";")):
                yield key.strip(), value.strip()


def _config_of(command: str) -> Path | None:
    """What follows --config or -c."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word in {"-c", "--config"} and following:
            return Path(following)
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
    return None
