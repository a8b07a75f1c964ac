"""What a root needs from this machine to reach packages: mirrors, apt's proxies, pip's configuration.

None of it is written into the checkout: the root gets it by its environment, a copy of pip's configuration and
read-only mounts.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = Path("/run/host")
"""Where a root sees this machine's files that pip's configuration names."""

_VARIABLES = re.compile(
    r"(PIP_\w+|(HTTPS?|NO|ALL|FTP)_PROXY|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)", re.IGNORECASE
)
# pip's own state and the caller's options, which have nothing to do with the network.
_NOT_CARRIED = {"PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV"}
_CONFIGURATIONS = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
_PATH = re.compile(r"(?:(?<=file://)|(?<![\w/:.]))/[^\s,;'\"]+")
_APT = re.compile(r"^Acquire::(?:\w+::Proxy|Check-Valid-Until|Check-Date|Retries)\b", re.IGNORECASE)


@dataclass(slots=True)
class Carried:
    """Variables, pip's configuration with the root's paths, and mounts (path in the root: path here)."""

    environment: dict[str, str] = field(default_factory=dict)
    pip_configuration: str = ""
    mounts: dict[Path, Path] = field(default_factory=dict)


def carried(environment: Mapping[str, str], home: Path) -> Carried:
    """Read it from ``environment`` and pip's files, including those of the user at ``home``."""
    found = Carried()
    for name, text in environment.items():
        if _VARIABLES.fullmatch(name) and name.upper() not in _NOT_CARRIED:
            found.environment[name] = _seen_inside(text, found.mounts)
    merged = configparser.RawConfigParser()
    places = [place.replace("~", str(home)) for place in _CONFIGURATIONS]
    merged.read([*places, *filter(None, [environment.get("PIP_CONFIG_FILE")])], encoding="utf-8")
    for section in merged.sections():
        for key, text in merged.items(section):
            merged.set(section, key, _seen_inside(text, found.mounts))
    written = io.StringIO()
    merged.write(written)
    found.pip_configuration = written.getvalue()
    found.environment["PIP_CONFIG_FILE"] = str(INSIDE / "pip.conf")
    return found


def _seen_inside(text: str, mounts: dict[Path, Path]) -> str:
    """``text`` with each path that exists here replaced by the one in a root; notes it in ``mounts``."""

    def replace(match: re.Match[str]) -> str:
        here = Path(match[0])
        if not here.exists():
            return match[0]
        # The pages of a local index, `DIR/simple`, link to files beside that folder.
        seen = here.parent if here.name == "simple" and here.is_dir() else here
        mounts[INSIDE / seen.relative_to("/")] = seen.resolve()
        return str(INSIDE / here.relative_to("/"))

    return _PATH.sub(replace, text)


def apt_lines() -> str:
    """This machine's apt settings that a root's apt needs: proxies, and whether lists may be old."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if _APT.match(line))


def mirrors() -> dict[str, str]:
    """Addresses of the archives `debian` and `ubuntu` that this machine's apt uses."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return mirrors_in(listing.split())


def mirrors_in(addresses: list[str]) -> dict[str, str]:
    """The first address of each archive; without one for Ubuntu, one beside Debian's is tried."""
    found: dict[str, str] = {}
    for address in (one.rstrip("/") for one in addresses):
        name = address.rpartition("/")[2]
        if name in {"debian", "ubuntu"}:
            found.setdefault(name, address)
    beside = f"{found['debian'].rpartition('/')[0]}/ubuntu" if "debian" in found else None
    if "ubuntu" not in found and beside is not None and _answers(f"{beside}/dists/jammy/Release"):
        found["ubuntu"] = beside
    return found


def _answers(address: str) -> bool:
    if urllib.parse.urlsplit(address).scheme not in {"http", "https"}:
        return False
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - its scheme was looked at
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - as above
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refusal:
        refusal.close()  # it holds the answer open
        return False
    except (urllib.error.URLError, OSError):
        return False


def lines(found: Carried) -> list[str]:
    """It as lines for a shell script: `variable` or `mount`, name or path in the root, value or path here; by tabs."""
    variables = [f"variable\t{name}\t{text}" for name, text in found.environment.items()]
    return [*variables, *(f"mount\t{inside}\t{here}" for inside, here in found.mounts.items())]


if __name__ == "__main__":
    this_machine = carried(os.environ, Path.home())
    Path(sys.argv[1]).write_text(this_machine.pip_configuration, encoding="utf-8")
    print("\n".join(lines(this_machine)))
