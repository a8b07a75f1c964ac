"""Commands of setuptools that write the commit into what is built: agent/commit.txt in wheel and source archive.

pyproject.toml names them ([tool.setuptools.cmdclass]), so every copy that a wheel is built from needs this file.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

_ROOT = Path(__file__).resolve().parents[1]
_OWN = "scripts/build_commands.py"


def _write_commit(package: Path) -> None:
    # Run, not imported: `import agent` needs packages that a build does not have.
    commit = runpy.run_path(str(_ROOT / "agent/version.py"))["commit_of"](_ROOT / "agent")
    if commit is not None:
        # A source archive is made of hard links: writing in place would change the checkout's own file.
        (package / "commit.txt").unlink(missing_ok=True)
        (package / "commit.txt").write_text(f"{commit}\n", encoding="ascii")


class BuildWithCommit(build_py):  # type: ignore[misc]  # setuptools has no types
    """A wheel holds its commit; an editable installation asks git."""

    def run(self) -> None:
        """Copy the modules, then write the commit beside them."""
        super().run()
        if not self.editable_mode:
            _write_commit(Path(self.build_lib) / "agent")


class SourceWithCommit(sdist):  # type: ignore[misc]  # setuptools has no types
    """A source archive holds its commit and this file, so that a wheel can be built from it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Lay out the archive, then write the commit into it."""
        # setuptools adds setup.py to an archive, but not the modules of [tool.setuptools.cmdclass].
        super().make_release_tree(base_dir, [*files, _OWN])
        _write_commit(Path(base_dir) / "agent")
