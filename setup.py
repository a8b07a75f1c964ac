"""What pyproject.toml cannot say: the version carries the commit, and what is built keeps it in agent/commit.txt."""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

_ROOT = Path(__file__).resolve().parent
# Run and not imported: the build has none of what the agent needs.
_VERSION = runpy.run_path(str(_ROOT / "agent/version.py"))


def _write_commit(package: Path) -> None:
    commit = _VERSION["commit_of"](_ROOT / "agent")
    if commit is not None:
        # A source archive is made of hard links: written in place, the checkout's own file would change.
        (package / "commit.txt").unlink(missing_ok=True)
        (package / "commit.txt").write_text(f"{commit}\n", encoding="ascii")


class BuildWithCommit(build_py):
    """A wheel knows its commit; an editable installation asks git."""

    def run(self) -> None:
        """Copy the modules, then write the commit beside them."""
        super().run()
        if not self.editable_mode:
            _write_commit(Path(self.build_lib) / "agent")


class SourceWithCommit(sdist):
    """A source archive knows its commit, and so does the wheel that is built from it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Lay out the archive, then write the commit into it."""
        super().make_release_tree(base_dir, files)
        _write_commit(Path(base_dir) / "agent")


setup(
    version=_VERSION["version_of"](_ROOT / "agent"),
    cmdclass={"build_py": BuildWithCommit, "sdist": SourceWithCommit},
)
