"""scripts/package-deb as far as it needs neither root nor network: refusals, and that dpkg-deb takes what we write.

The whole walk (install, upgrade, downgrade, purge in a system of its own) is `scripts/package-deb --try`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.package_deb import main

_ROOT = Path(__file__).parents[2]
_SCRIPT = _ROOT / "scripts" / "package-deb"


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(_SCRIPT), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--ouput", "dist"], ["--try"], ["--try", "/"]])
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    done = _run(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Making the environment" not in done.stderr


@pytest.mark.skipif(sys.base_prefix == "/usr", reason="this interpreter is the distribution's own")
def test_an_interpreter_that_no_package_brings_is_refused() -> None:
    done = _run(PYTHON=sys.executable)
    assert done.returncode == 69
    assert "is not the distribution's, on which the package would depend" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="without root the trial is refused before it looks at the folder")
def test_a_folder_that_is_no_system_is_refused(tmp_path: Path) -> None:
    done = _run("--try", str(tmp_path), "some.deb")
    assert done.returncode == 69
    assert "is no Debian or Ubuntu system. Make one: debootstrap" in done.stderr


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here, and this is no Debian")
def test_dpkg_deb_takes_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tmp_path / "tree"
    site_packages = tree / "opt/agent/lib/python3.11/site-packages"
    site_packages.mkdir(parents=True)
    (site_packages / "big").write_bytes(b"x" * 4096)
    arguments = [str(tree), "python3.11", "0.1.0+gabcdef012", "abcdef012", "20261130120000"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "0.1.0+20261130120000.gabcdef012\n"
    for name in ("preinst", "postinst", "prerm", "postrm"):
        shutil.copy(_ROOT / "scripts" / "deb" / name, tree / "DEBIAN")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, tmp_path], check=True, timeout=60)
    (made,) = tmp_path.glob("*.deb")
    fields = subprocess.run(["dpkg-deb", "-f", made], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "Version: 0.1.0+20261130120000.gabcdef012\n" in fields
    assert "Depends: python3.11, " in fields
    assert "Installed-Size: 5\n" in fields
