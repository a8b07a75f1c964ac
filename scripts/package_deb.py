"""Metadata of the Debian package: version, control file, licences of the bundled packages."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

PACKAGE = "edge-inference-agent"
# Debian's name for each machine name of the kernel. Source: dpkg-architecture(1), /usr/share/dpkg/cputable.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PRE_RELEASE = re.compile(r"\.?(a|b|rc|dev)(\d+)")
_TILDES = {"dev": "~~"}  # a development version sorts before its first alpha


def debian_version(version: str, *, commit: str = "", committed_at: str = "") -> str:
    """Turn a version of PEP 440 into one that dpkg sorts the same way.

    A pre-release sorts before its release (``~rc1``), a checkout after it: hashes have no order, so the time of the
    commit stands before the hash. ``committed_at`` is ``YYYYmmddHHMMSS`` in UTC; both are empty for a release.

    Raises:
        ValueError: the result is no version of Debian. Source: deb-version(7).
    """
    public, _, _local = version.partition("+")
    upstream = _PRE_RELEASE.sub(lambda match: f"{_TILDES.get(match[1], '~')}{match[1]}{match[2]}", public).replace(
        ".post", "+post"
    )
    if commit:
        upstream = f"{upstream}+{committed_at}.g{commit}"
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~]*", upstream):
        raise ValueError(f"{version!r} and commit {commit!r} make {upstream!r}, which is no version of Debian")
    return upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The tree to be packed: its version and installed size, and the interpreter that it was made with."""

    version: str
    size_kib: int
    python: str
    architecture: str

    def control(self) -> str:
        """The control file. Source: Debian policy, chapter 5."""
        depends = (
            f"{self.python}",
            "libc6, libstdc++6, libgcc-s1",
            "init-system-helpers",
            "systemd | systemd-standalone-sysusers",
        )
        return "\n".join(
            (
                f"Package: {PACKAGE}",
                f"Version: {self.version}",
                f"Architecture: {self.architecture}",
                "Section: misc",
                "Priority: optional",
                "Maintainer: The edge-inference-agent maintainers <maintainers@edge-inference-agent.invalid>",
                f"Installed-Size: {self.size_kib}",
                f"Depends: {', '.join(depends)}",
                "Recommends: systemd",
                "Suggests: mosquitto, python3-libnvinfer",
                "Description: classifies camera frames and publishes results over MQTT",
                " An inference agent for NVIDIA Jetson and Linux, as a systemd service. Everything",
                f" that it needs of Python is below /opt/agent, made for {self.python} alone.",
                "",
            )
        )


def architecture(machine: str) -> str:
    """Debian's name of a machine.

    Raises:
        ValueError: there are no wheels of the dependencies for it.
    """
    if machine not in _ARCHITECTURES:
        raise ValueError(f"no package can be made for {machine}: only {', '.join(_ARCHITECTURES)}")
    return _ARCHITECTURES[machine]


def copyright_page(site_packages: Path) -> str:
    """List every bundled distribution with its licence; the texts are in each ``.dist-info``."""
    rows = sorted({_row(one) for one in distributions(path=[str(site_packages)])}, key=str.lower)
    return "\n".join(
        (
            f"{PACKAGE} is under the Apache License 2.0: /usr/share/common-licenses/Apache-2.0.",
            "",
            f"Bundled in /opt/agent/lib/{site_packages.parent.name}/site-packages; texts in its folders *.dist-info:",
            "",
            *rows,
            "",
        )
    )


def _row(distribution: Distribution) -> str:
    about = distribution.metadata.json
    licence = about.get("license_expression") or _of_classifiers(about.get("classifier") or [])
    short = str(about.get("license") or "").strip().splitlines()
    return f"  {about['name']} {distribution.version}: {licence or (short[0] if short else 'see its files')}"


def _of_classifiers(classifiers: str | list[str]) -> str:
    found = [one.rsplit(" :: ", 1)[1] for one in classifiers if one.startswith("License :: ")]
    return ", ".join(found)


def main(arguments: list[str]) -> int:
    """Write ``DEBIAN/control`` and the copyright page below TREE, and print the version.

    Arguments: TREE PYTHON VERSION COMMIT COMMITTED_AT, the last two empty for a release.
    """
    tree, python, version, commit, committed_at = arguments
    root = Path(tree)
    try:
        full = debian_version(version, commit=commit, committed_at=committed_at)
        machine = architecture(platform.machine())
    except ValueError as exc:
        print(exc, file=sys.stderr)
        return 1
    (site_packages,) = root.glob("opt/agent/lib/python3.*/site-packages")
    page = root / "usr/share/doc" / PACKAGE / "copyright"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(copyright_page(site_packages))
    size = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    contents = Contents(version=full, size_kib=-(-size // 1024), python=python, architecture=machine)
    (root / "DEBIAN").mkdir(exist_ok=True)
    (root / "DEBIAN/control").write_text(contents.control())
    print(full)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
