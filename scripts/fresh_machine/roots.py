"""The roots, and the archives of their bases."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.fresh_machine.chamber import Chamber, ChamberError
from scripts.fresh_machine.host import Carried, apt_lines

PACKAGES = ("git", "python3", "python3-venv")
"""What the README asks for; the scripts install everything else."""
_DEBOOTSTRAP_LIMIT_S = 3600.0
_APT_LIMIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Root:
    """One release. ``script``: debootstrap's script for it; ``l4t``: the release of L4T that boards with it have.

    ``machine_packages``: packages that every real machine has, that debootstrap omits and the installation needs.
    """

    name: str
    title: str
    archive: str
    script: str
    components: str
    l4t: str | None = None
    tensorrt: str | None = None
    machine_packages: tuple[str, ...] = ("systemd",)


_BOARD = ("systemd", "python3-pip")
# Boards have pip, which brings setuptools. An old setuptools that the environment sees has broken an installation.
# Source of L4T and TensorRT: release notes of JetPack 6.2 (36.4.3, 10.3) and JetPack 7.0 (38.2, 10.13).
ROOTS = (
    Root("bookworm", "Debian 12", "debian", "bookworm", "main"),
    Root("forky", "Debian 14 (forky)", "debian", "sid", "main"),
    Root("jammy", "Ubuntu 22.04, JetPack 6", "ubuntu", "jammy", "main,universe", "36.4.3", "10.3.0", _BOARD),
    Root("noble", "Ubuntu 24.04, JetPack 7", "ubuntu", "jammy", "main,universe", "38.2.0", "10.13.2", _BOARD),
)


class Bases:
    """Archives of bases in ``folder``, each made at first use. ``mirrors``: address by archive name."""

    def __init__(self, folder: Path, mirrors: Mapping[str, str], carried: Carried, *, arch: str | None) -> None:
        self._folder = folder
        self._mirrors = mirrors
        self._carried = carried
        self._arch = arch

    def unpack(self, root: Root, target: Path, log: Path) -> Chamber:
        """Unpack a new root at ``target``.

        Raises:
            ChamberError: the base could not be made.
        """
        archive = self._archive(root)
        if not archive.exists():
            self._make(root, archive, log)
        target.mkdir(parents=True)
        subprocess.run(["tar", "-xpf", str(archive), "-C", str(target), "--numeric-owner"], check=True)
        return Chamber(target, self._carried)

    def _archive(self, root: Root) -> Path:
        recipe = repr((root.name, self._arch, self._mirrors.get(root.archive), PACKAGES, root.components))
        digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
        return self._folder / f"base-{root.name}{'-' + self._arch if self._arch else ''}-{digest}.tar"

    def _make(self, root: Root, archive: Path, log: Path) -> None:
        print(f"{root.name}: making its base by debootstrap, log: {log}", file=sys.stderr, flush=True)
        place = self._folder / f"making-{os.getpid()}-{root.name}"
        command = ["debootstrap", "--variant=minbase", f"--components={root.components}"]
        command += [f"--arch={self._arch}"] if self._arch else []
        command += [root.name, str(place)]
        mirror = self._mirrors.get(root.archive)
        script = Path("/usr/share/debootstrap/scripts") / root.script
        # Without a mirror debootstrap uses its default. A script is accepted only after a mirror.
        command += [mirror, str(script)] if mirror else []
        try:
            with log.open("ab") as output:
                made = subprocess.run(command, stdout=output, stderr=output, timeout=_DEBOOTSTRAP_LIMIT_S, check=False)
            if made.returncode != 0:
                raise ChamberError(f"debootstrap of {root.name} ended with {made.returncode}: see {log}")
            (place / "etc/apt/apt.conf.d/90carried").write_text(apt_lines(), encoding="utf-8")
            chamber = Chamber(place, self._carried)
            install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {' '.join(PACKAGES)}"
            chamber.check(["sh", "-ec", f"{install} && apt-get clean"], log=log, limit_s=_APT_LIMIT_S)
            fresh = archive.with_suffix(".new")
            subprocess.run(["tar", "-cpf", str(fresh), "-C", str(place), "--numeric-owner", "."], check=True)
            fresh.rename(archive)
        finally:
            shutil.rmtree(place, ignore_errors=True)
