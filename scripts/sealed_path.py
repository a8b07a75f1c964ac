"""Makes a folder of links to the programs that tests and scripts may use, which becomes their whole PATH.

    python scripts/sealed_path.py FOLDER

prints the path of a folder below FOLDER that holds links to
- the programs of the base system: `base_packages` of scripts/lib/system.sh;
- those of the declared packages (`test_needs`, `measure_needs`) and of the packages that these depend on;
- the declared optional ones (`optional_programs`), where they are installed;
- this interpreter, as python3 and python3.N.
An undeclared program is then found on no machine. The folder's name is a hash of its content, so it is made once.
Without dpkg nothing is printed, because the files of a package are unknown. Uses only the standard library.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

_SYSTEM = Path(__file__).parent / "lib" / "system.sh"
_FOLDERS = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
_MORE_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Folders of daemons, which an ordinary user's PATH lacks."""
_PREFIX = "sealed-"
UNSEALED = "UNSEALED_PATH"
"""Variable with the original PATH, for apt: maintainer scripts may call any program."""


def seal(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The variables to set for a sealed PATH, made below ``folder``; empty if it is sealed already or cannot be."""
    path = environment.get("PATH", os.defpath)
    if is_sealed(path):
        return {}
    sealed = make(folder, path)
    return {} if sealed is None else {"PATH": str(sealed), UNSEALED: path}


def is_sealed(path: str) -> bool:
    """Whether ``path`` ends in a folder of this module; tests may put folders before it on purpose."""
    return Path(path.rpartition(os.pathsep)[2]).name.startswith(_PREFIX)


def make(folder: Path, path: str) -> Path | None:
    """The folder of links below ``folder``; declared programs are searched in ``path``.

    None without dpkg.
    """
    if shutil.which("dpkg-query", path=path) is None:
        return None
    links = programs(path)
    content = "\n".join(f"{name} {target}" for name, target in sorted(links.items()))
    sealed = folder / f"{_PREFIX}{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if not sealed.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
        fresh.chmod(0o755)
        for name, target in links.items():
            (fresh / name).symlink_to(target)
        try:
            fresh.rename(sealed)
        except OSError:  # another process made it meanwhile
            shutil.rmtree(fresh)
    return sealed.resolve()


def programs(path: str) -> dict[str, str]:
    """Name and path of every program that may be used here."""
    needs = [need.split(":") for need in declared("test_needs", "measure_needs")]
    installed = _dependencies()
    packages = {name for name in declared("base_packages") if name in installed}
    packages |= _closure([package for _, package in needs], installed)
    found = _programs_of(packages)
    everywhere = os.pathsep.join([path, *_MORE_FOLDERS])
    for name in [*(command for command, _ in needs), *declared("optional_programs")]:
        place = shutil.which(name, path=everywhere)
        if place is not None:
            found[name] = place
    interpreter = _interpreter()
    found["python3"] = found[f"python3.{sys.version_info.minor}"] = interpreter
    return found


def declared(*lists: str) -> list[str]:
    """The entries of these arrays of scripts/lib/system.sh."""
    print_all = " ".join(f'"${{{name}[@]}}"' for name in lists)
    command = ["bash", "-c", f'source "$1" && printf "%s\\n" {print_all}', "bash", str(_SYSTEM)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def _interpreter() -> str:
    """Path of this interpreter, or of the one that its virtual environment was made with."""
    name = f"python3.{sys.version_info.minor}"
    for place in (Path(sys.base_prefix) / "bin" / name, Path(sys.base_prefix) / "bin" / "python3"):
        if place.exists():
            return str(place)
    return sys.executable


def _dependencies() -> dict[str, list[list[str]]]:
    """Dependencies of each installed package, with alternatives; a provided name depends on its provider."""
    form = "${Package}\t${db:Status-Status}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    listing = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[list[str]]] = {}
    for line in listing.splitlines():
        name, status, needs, provides = line.split("\t")
        if status == "installed":
            found[name] = _names(needs)
            for virtual in _names(provides):
                found.setdefault(virtual[0], [[name]])
    return found


def _names(relations: str) -> list[list[str]]:
    """`a (>= 1) | b, c:any` as [[a, b], [c]]."""
    each = [re.split(r"\s*\|\s*", part.strip()) for part in relations.split(",") if part.strip()]
    return [[re.split(r"[\s:(]", alternative)[0] for alternative in alternatives] for alternatives in each]


def _closure(wanted: Iterable[str], installed: Mapping[str, list[list[str]]]) -> set[str]:
    """The installed packages of ``wanted`` and all their dependencies, without recommendations."""
    waiting, found = list(wanted), set[str]()
    while waiting:
        name = waiting.pop()
        if name in installed and name not in found:
            found.add(name)
            waiting += [next((one for one in several if one in installed), "") for several in installed[name]]
    return found


def _programs_of(packages: set[str]) -> dict[str, str]:
    """Programs of these packages, and the alternatives that link to them (awk to mawk)."""
    # A virtual package has no list of files: dpkg-query fails for it and still lists the others.
    command = ["dpkg-query", "-L", *sorted(packages)]
    files = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    places = [Path(line) for line in files if line.startswith("/") and str(Path(line).parent) in _FOLDERS]
    found = {place.name: str(place) for place in places if place.is_file() and os.access(place, os.X_OK)}
    own = {os.path.realpath(place) for place in found.values()}
    for link in (entry for folder in _FOLDERS[:2] for entry in Path(folder).iterdir() if entry.is_symlink()):
        if str(link.readlink()).startswith("/etc/alternatives/") and os.path.realpath(link) in own:
            found.setdefault(link.name, str(link))
    return found


def main(arguments: list[str]) -> int:
    """Print the folder, if there can be one."""
    if len(arguments) != 1:
        print("usage: sealed_path.py FOLDER", file=sys.stderr)
        return 2
    sealed = make(Path(arguments[0]), os.environ.get(UNSEALED) or os.environ.get("PATH", os.defpath))
    if sealed is not None:
        print(sealed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
