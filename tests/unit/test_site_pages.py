"""The documentation as a site: its navigation names pages that exist, and reaches all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scripts.dev.site_pages import SETTINGS, loaded_from_elsewhere, pages_of, whole_nav

_ROOT = Path(__file__).parents[2]


def _flat(nav: list[Any]) -> list[str]:
    names: list[str] = []
    for entry in nav:
        names += [entry] if isinstance(entry, str) else [name for part in entry.values() for name in _flat(part)]
    return names


def test_the_navigation_names_pages_that_exist_each_once() -> None:
    named = _flat(yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["nav"])
    assert [name for name in named if "*" not in name and not (_ROOT / name).is_file()] == []
    assert len(named) == len(set(named))
    assert len(named) > 25


def test_patterns_and_pages_that_nothing_names_are_filled_in() -> None:
    nav = ["README.md", {"Use": ["docs/a.md", {"Decisions": ["docs/decisions/README.md", "docs/decisions/*.md"]}]}]
    pages = ["README.md", "docs/a.md", "docs/b.md", *(f"docs/decisions/{one}.md" for one in ("1", "2", "README"))]
    decisions = ["docs/decisions/README.md", "docs/decisions/1.md", "docs/decisions/2.md"]
    assert whole_nav(nav, pages) == [
        "README.md",
        {"Use": ["docs/a.md", {"Decisions": decisions}]},
        {"More": ["docs/b.md"]},
    ]


def test_pages_that_are_left_out_are_not_in_the_navigation(tmp_path: Path) -> None:
    (tmp_path / "docs/benchmarks").mkdir(parents=True)
    for name in ("README.md", "docs/a.md", "docs/a.png", "docs/benchmarks/b.md"):
        (tmp_path / name).touch()
    assert pages_of(tmp_path, "docs/benchmarks/*.md") == ["README.md", "docs/a.md"]


def test_what_a_page_loads_from_another_host_is_found_and_links_are_not() -> None:
    page = (
        '<a href="https://a.example">a</a><script src="https://b.example/x.js"></script><img src="//c.example/i">'
        '<link rel="canonical" href="https://d.example/"><link rel="stylesheet" href="assets/x.css"><img src="i.png">'
    )
    assert loaded_from_elsewhere(page) == ["https://b.example/x.js", "//c.example/i"]
