"""What the Debian package says of itself, and that dpkg agrees."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.package_deb import Contents, architecture, copyright_page, debian_version

_ROOT = Path(__file__).parents[2]

# In the order in which one replaces the other.
_ORDER = (
    debian_version("0.1.0.dev3"),
    debian_version("0.1.0a1"),
    debian_version("0.1.0b2"),
    debian_version("0.1.0rc1"),
    debian_version("0.1.0rc2"),
    debian_version("0.1.0"),
    debian_version("0.1.0+gffffffff", commit="ffffffff", committed_at="20261129235959"),
    debian_version("0.1.0+g00000000", commit="00000000", committed_at="20261130000000"),
    debian_version("0.1.0.post1"),
    debian_version("0.1.1"),
    debian_version("0.10.0"),
)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg compares the versions, and this is no Debian")
@pytest.mark.parametrize(("older", "newer"), list(pairwise(_ORDER)))
def test_dpkg_sorts_versions_as_they_were_made(older: str, newer: str) -> None:
    compared = subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=False)
    assert compared.returncode == 0, f"{older} is not before {newer}"
    subprocess.run(["dpkg", "--validate-version", newer], check=True)


@pytest.mark.parametrize("version", ["", "v1.0", "1.0 beta", "1!2.0"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="no version of Debian"):
        debian_version(version)


def test_a_machine_without_wheels_is_refused() -> None:
    assert (architecture("x86_64"), architecture("aarch64")) == ("amd64", "arm64")
    with pytest.raises(ValueError, match="armv7l: only x86_64, aarch64"):
        architecture("armv7l")


def test_the_control_file_depends_on_the_interpreter_that_the_environment_was_made_with() -> None:
    control = Contents(version="0.1.0", size_kib=7, python="python3.11", architecture="arm64").control()
    fields = dict(line.split(": ", 1) for line in control.splitlines() if line and not line.startswith(" "))
    assert fields["Depends"].split(", ")[0] == "python3.11"
    assert (fields["Architecture"], fields["Version"], fields["Installed-Size"]) == ("arm64", "0.1.0", "7")


def test_every_bundled_package_is_named_with_its_licence(tmp_path: Path) -> None:
    folder = tmp_path / "lib/python3.11/site-packages"
    for name, lines in {
        "new": "License-Expression: MIT",
        "old": "Classifier: License :: OSI Approved :: BSD License",
        "bare": "License: ISC\n  and a long text",
        "silent": "Summary: nothing",
    }.items():
        about = folder / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{lines}\n")
    page = copyright_page(folder)
    for row in ("new 1.0: MIT", "old 1.0: BSD License", "bare 1.0: ISC", "silent 1.0: see its files"):
        assert f"  {row}\n" in page


@pytest.mark.parametrize("name", ["preinst", "postinst", "prerm", "postrm"])
def test_the_maintainer_scripts_run_in_a_plain_shell_and_end_at_the_first_failure(name: str) -> None:
    path = _ROOT / "scripts" / "deb" / name
    text = path.read_text()
    assert text.startswith("#!/bin/sh\nset -e\n")
    assert path.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", str(path)], check=True)


def test_the_unit_starts_what_the_package_brings() -> None:
    unit = (_ROOT / "systemd" / "agent.service").read_text()
    script = (_ROOT / "scripts" / "package-deb").read_text()
    started = re.search(r"^ExecStart=(\S+) run --config (\S+)$", unit, re.MULTILINE)
    assert started is not None
    assert started[1] == "/opt/agent/bin/agent"
    assert f"{started[2]} >" in script.replace('>"', ">"), "the configuration of the unit is no conffile"
