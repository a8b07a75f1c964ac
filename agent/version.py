"""The version of this program with the commit it was made from, such as ``0.1.0+gfbfbf4012``.

The commit comes from ``commit.txt`` beside this file: building a wheel or a source archive writes it there, and ``git
archive`` fills it in. If the file names none, git is asked, so that an editable installation is never stale. The forms
are:

    0.1.0+gfbfbf4012            this commit
    0.1.0+gfbfbf4012.dirty      this commit, and tracked files that differ from it
    0.1.0+gfbfbf4012.unchecked  this commit; git does not run here, so files may differ from it
    0.1.0+unknown               neither commit.txt nor a checkout

``python agent/version.py`` prints it; this file needs only the standard library and imports nothing of the agent.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

RELEASE = "0.1.0"

_HERE = Path(__file__).resolve().parent
_DIGITS = 9
_COMMIT = re.compile(r"([0-9a-f]{7,64})(\.dirty|\.unchecked)?")
_GIT_S = 5.0


@cache
def version() -> str:
    """The version of the code that runs, as PEP 440 writes it. Found once per process."""
    return version_of(_HERE)


def version_of(package: Path) -> str:
    """The version of the package folder ``package``, with its commit."""
    commit = commit_of(package)
    return f"{RELEASE}+g{commit}" if commit else f"{RELEASE}+unknown"


def commit_of(package: Path) -> str | None:
    """The commit of the folder ``package``, with ``.dirty`` or ``.unchecked``; None if it is unknown."""
    written = _COMMIT.fullmatch(_read(package / "commit.txt"))
    if written:
        return written[1][:_DIGITS] + (written[2] or "")
    # Only beside the package: an installation inside another project's checkout is not of that commit.
    checkout = package.parent
    if not (checkout / ".git").exists():
        return None
    return _asked_of_git(checkout) or _read_from_git(checkout)


def _asked_of_git(checkout: Path) -> str | None:
    import subprocess

    # safe.directory: root may read a user's checkout. Without GIT_*: the variables of a hook name another checkout.
    command = ["git", "-c", f"safe.directory={checkout}", "-C", str(checkout)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        asked = subprocess.run(
            [*command, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
            env=environ,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    commit, _, dirty = asked.stdout.strip().partition("-")
    return commit[:_DIGITS] + (".dirty" if dirty else "") if _COMMIT.fullmatch(commit) else None


def _read_from_git(checkout: Path) -> str | None:
    """Follow HEAD by hand, where git is not installed or will not run.

    Source: gitrepository-layout(5), HEAD, refs, packed-refs, gitfile and commondir.
    """
    directory = checkout / ".git"
    if not directory.is_dir():
        directory = checkout / _read(directory).removeprefix("gitdir:").strip()
    common = directory / (_read(directory / "commondir") or ".")
    head = _read(directory / "HEAD")
    name = head.removeprefix("ref:").strip()
    commit = head if name == head else _read(common / name)
    if not commit:
        lines = (line.split() for line in _read(common / "packed-refs").splitlines())
        commit = next((words[0] for words in lines if words[1:] == [name]), "")
    return f"{commit[:_DIGITS]}.unchecked" if _COMMIT.fullmatch(commit) else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    print(version())  # noqa: T201 the answer
