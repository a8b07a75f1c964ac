"""Paths: those in the configuration, and where the agent keeps its state if that does not say. One rule for all."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from agent.runtime.errors import ConfigError

OVERRIDES_FILE = "overrides.json"
"""Kept changes of `set` commands, in the state directory."""


def default_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """What ``state_dir: auto`` means: ``$STATE_DIRECTORY``, else ``.local/state/agent`` in the home directory.

    ``environ`` is the process's environment if it is None.

    Raises:
        ConfigError: there is no home directory either.
    """
    environ = os.environ if environ is None else environ
    # systemd gives several directories with colons between them; the unit asks for one.
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given)
    return home_dir(environ) / ".local" / "state" / "agent"


def default_cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Graphs and plans in the default state directory.

    Raises:
        ConfigError: as ``default_state_dir``.
    """
    return cache_dir_in(default_state_dir(environ))


def cache_dir_in(state_dir: Path) -> Path:
    """Where a state directory holds graphs and plans."""
    return state_dir / "cache"


def resolved_path(path: str, base_dir: Path) -> Path:
    """A path in the configuration: from ``base_dir`` on, and ``~/`` is the home directory.

    Raises:
        ConfigError: it begins with ``~/``, and there is no home directory.
    """
    return base_dir / (home_dir(os.environ) / path.removeprefix("~/") if path.startswith("~/") else path)


def home_dir(environ: Mapping[str, str]) -> Path:
    """``$HOME``, else the directory of this user in the password database.

    Raises:
        ConfigError: neither is set.
    """
    # Path.home() would take HOME= (empty) for the root directory.
    home = environ.get("HOME") or _home_of_user(os.getuid())
    if not home:
        raise ConfigError(
            f"there is no home directory: HOME is not set and this system knows no user number {os.getuid()}. Set "
            "HOME or STATE_DIRECTORY, or give absolute paths: in the configuration as state_dir and instead of ~/, "
            "on the command line with --cache"
        )
    return Path(home)


def _home_of_user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_dir
    except KeyError:
        return ""
