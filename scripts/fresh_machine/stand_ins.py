"""Packages that replace those of JetPack, as far as the installation reads them.

They contain no code: importing `tensorrt` fails as it does without its library.
"""

from __future__ import annotations

from pathlib import Path

from scripts.fresh_machine.chamber import Chamber

_PLACE = "/opt/stand-ins"
_LIMIT_S = 300.0
_BINDINGS = '''"""Stands in for TensorRT's bindings."""

raise ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory")
'''
_CONTROL = """Package: {name}
Version: {version}
Architecture: all
Maintainer: scripts/fresh-machine <nobody@localhost>
Description: stands in for a package of JetPack
"""


def install_stand_ins(chamber: Chamber, *, l4t: str, tensorrt: str, log: Path) -> None:
    """Build and install them: /etc/nv_tegra_release, nvidia-jetpack, python3-libnvinfer.

    Raises:
        ChamberError: a package could not be built or installed.
    """
    release, _, revision = l4t.partition(".")
    l4t_release = f"# R{release} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64\n"
    bindings = {
        "usr/lib/python3/dist-packages/tensorrt/__init__.py": _BINDINGS,
        f"usr/lib/python3/dist-packages/tensorrt-{tensorrt}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {tensorrt}\n"
        ),
    }
    packages = {
        ("nvidia-l4t-core", f"{l4t}-1"): {"etc/nv_tegra_release": l4t_release},
        ("nvidia-jetpack", "7.0" if release == "38" else "6.2"): {},
        ("python3-libnvinfer", f"{tensorrt}-1"): bindings,
    }
    for (name, version), files in packages.items():
        tree = chamber.place(_PLACE) / name
        control = tree / "DEBIAN/control"
        control.parent.mkdir(parents=True)
        control.write_text(_CONTROL.format(name=name, version=version), encoding="utf-8")
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text, encoding="utf-8")
    build = 'for name; do dpkg-deb --build --root-owner-group "$name"; dpkg -i "$name.deb"; done'
    names = [name for name, _ in packages]
    chamber.check(["sh", "-ec", f"cd {_PLACE}; {build}", "sh", *names], log=log, limit_s=_LIMIT_S)
