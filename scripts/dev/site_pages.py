"""Builds the documentation as a site, by mkdocs; see scripts/dev/site.

The pages stand in the site as they stand in the checkout, so each link is right in both.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parents[2]
SETTINGS = Path(__file__).with_name("mkdocs.yml")
_PARTS = ("README.md", "CHANGELOG.md", "LICENSE", "docs", "configs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build it; 1 where a link leads nowhere, or a page would load something from another host."""
    parser = argparse.ArgumentParser(prog="scripts/dev/site", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=_ROOT / "build" / "site", metavar="DIR", help="default: build/site"
    )
    output: Path = parser.parse_args(arguments).output.resolve()
    with tempfile.TemporaryDirectory(prefix="site-") as folder:
        stage = Path(folder)
        pages = stage / "pages"
        pages.mkdir()
        for part in _PARTS:
            copy = shutil.copytree if (_ROOT / part).is_dir() else shutil.copy
            copy(_ROOT / part, pages / part)
        settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
        settings["nav"] = whole_nav(settings["nav"], pages_of(pages, settings["exclude_docs"]))
        (stage / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(output)]
        # The theme's own advertisement for its successor.
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run(command, cwd=stage, env=environment, check=False)
    if done.returncode != 0:
        return 1
    for page in output.rglob("*.html"):
        if found := loaded_from_elsewhere(page.read_text(encoding="utf-8")):
            print(f"{page} loads {found[0]}, but the site has to work without a network", file=sys.stderr)
            return 1
    print(f"wrote {output / 'index.html'}")
    return 0


def loaded_from_elsewhere(page: str) -> list[str]:
    """Addresses of other hosts from which a browser would load something to show this page; links are none."""
    tags = re.findall(r"<(?:script|img|link|iframe|source|video|object)\b[^>]*>", page)
    shown = [tag for tag in tags if 'rel="canonical"' not in tag]
    return [address for tag in shown for address in re.findall(r"(?:src|href|data)=\"((?:https?:)?//[^\"]+)", tag)]


def pages_of(folder: Path, left_out: str) -> list[str]:
    """The Markdown files below ``folder``, as paths in it, without those that fit the pattern ``left_out``."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.md"))
    return [page for page in found if not fnmatch(page, left_out)]


def whole_nav(nav: list[Any], pages: Sequence[str]) -> list[Any]:
    """The navigation with its patterns replaced by pages, and a last section for the pages that it does not name."""
    named = set(_names(nav))
    left = [page for page in pages if page not in named]
    expanded = _expanded(nav, left)
    more = sorted(set(pages) - set(_names(expanded)))
    return [*expanded, {"More": more}] if more else expanded


def _names(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from _names(below)


def _expanded(nav: list[Any], pages: Sequence[str]) -> list[Any]:
    result: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            result.append({title: _expanded(below, pages) for title, below in entry.items()})
        elif "*" in entry:
            result += [page for page in pages if fnmatch(page, entry)]
        else:
            result.append(entry)
    return result


if __name__ == "__main__":
    sys.exit(main())
