"""The page on cameras: every snippet loads, every source has its section and is in the table."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pydantic
import pytest
import yaml

from agent.config.sections.sources import SourceConfig

_PAGE = (Path(__file__).parents[2] / "docs" / "cameras.md").read_text(encoding="utf-8")
_SNIPPETS = re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)
_KINDS = [typing.get_args(kind.model_fields["type"].annotation)[0] for kind in typing.get_args(SourceConfig)]


@pytest.mark.parametrize("snippet", _SNIPPETS)
def test_every_snippet_loads_as_a_source(snippet: str) -> None:
    adapter: pydantic.TypeAdapter[SourceConfig] = pydantic.TypeAdapter(SourceConfig)
    adapter.validate_python(yaml.safe_load(snippet)["source"])


@pytest.mark.parametrize("kind", _KINDS)
def test_every_source_has_a_section_and_a_table_row(kind: str) -> None:
    assert f"\n| `{kind}` |" in _PAGE
    assert f"\n## {kind}\n" in _PAGE
    assert any(f"type: {kind}" in snippet for snippet in _SNIPPETS)
