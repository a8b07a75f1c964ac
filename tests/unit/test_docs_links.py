"""Links inside the documentation lead somewhere, and the paths that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGES = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/*.md"), *_ROOT.glob("docs/decisions/*.md")])
_LINK = re.compile(r"(?:\]\(|\b(?:src|srcset)=\")(?!https?:|mailto:)([^)\s\"]*)[)\"]")
_SHOWN = re.compile(r"(?:!\[[^\]]*\]\(|src=\")([^)\"]+\.png)")
_PATH = re.compile(r"`((?:\./)?(?:agent|engines|scripts|tests|docs|configs|systemd|\.ci)/[\w./*-]+)(?:::\w+)?[^`]*`")
_MADE_BY_THE_READER = {"scripts/container/mqtt-password"}


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", _without_code(page.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchors.add(re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-"))
    return anchors


def broken_links(page: Path) -> list[str]:
    """The links of ``page`` whose file or heading does not exist."""
    broken = []
    for link in _LINK.findall(_without_code(page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name).resolve()
        has_anchor = not anchor or (target.suffix == ".md" and target.is_file() and anchor in _anchors(target))
        if not target.exists() or not has_anchor:
            broken.append(link)
    return broken


def charts_for_light_pages_alone(page: Path) -> list[str]:
    """The PNGs that ``page`` shows without another one for dark pages. Photos are JPEG, terminals dark SVG."""
    text = _without_code(page.read_text(encoding="utf-8"))
    dark = set(re.findall(r'media="\(prefers-color-scheme: dark\)" srcset="([^"]+)"', text))
    return [name for name in _SHOWN.findall(text) if f"{name.removesuffix('.png')}-dark.png" not in dark]


def missing_paths(page: Path) -> list[str]:
    """The paths of this repository, or patterns of them, that ``page`` names in backticks and that match nothing."""
    named = _PATH.findall(page.read_text(encoding="utf-8"))
    return [path for path in named if path not in _MADE_BY_THE_READER and not list(_ROOT.glob(path))]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_path_that_is_named_exists(page: Path) -> None:
    assert missing_paths(page) == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_chart_has_one_for_dark_pages(page: Path) -> None:
    assert charts_for_light_pages_alone(page) == []


def test_the_checks_find_what_is_planted(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Two words, `code`\n[a](gone.md) [b](#two-words-code) [c](#gone) [d](https://x.example/gone)\n"
        "`agent/gone.py` `scripts/gone --option` `agent/app.py` `tests/unit/test_gone.py::test_x`\n"
        "`docs/*.md` `docs/*.gone`\n"
        '![x](light.png)\n<source srcset="gone-dark.png"><img src="gone.png">\n'
    )
    assert broken_links(page) == ["gone.md", "#gone", "light.png", "gone-dark.png", "gone.png"]
    assert charts_for_light_pages_alone(page) == ["light.png", "gone.png"]
    assert missing_paths(page) == ["agent/gone.py", "scripts/gone", "tests/unit/test_gone.py", "docs/*.gone"]


def test_decisions_have_one_number_each() -> None:
    names = sorted(path.name for path in (_ROOT / "docs/decisions").glob("0*.md"))
    assert len({name[:4] for name in names}) == len(names)
    for name in names:
        first = (_ROOT / "docs/decisions" / name).read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(f"# {name[:4]}: "), f"{name} begins with {first!r}"
        assert f"({name})" in (_ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
