"""The docstrings below the fields of a class, read from its source when a schema or the reference needs them.

pydantic's ``use_attribute_docstrings`` reads them whenever a class is made: that was a fifth of the time it takes to
import the agent, for texts that a running agent never uses.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue


def field_docs(cls: type) -> Mapping[str, str]:
    """The docstring of each field of ``cls`` that has one, also of those that it inherits."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        docs |= _docs_in(owner.__module__).get(owner.__qualname__, {})
    return docs


class DescribedJsonSchema(GenerateJsonSchema):
    """Describes fields by their docstrings; a description that a field states itself wins.

    Pass it to pydantic as ``schema_generator``.
    """

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """See GenerateJsonSchema."""
        return _described(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        """See GenerateJsonSchema."""
        return _described(super().dataclass_schema(schema), schema["cls"])


def _described(made: JsonSchemaValue, cls: type) -> JsonSchemaValue:
    docs = field_docs(cls)
    for name, field in made.get("properties", {}).items():
        if name in docs:
            field.setdefault("description", docs[name])
    return made


@lru_cache(maxsize=64)
def _docs_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """The docstrings of fields in ``module``, by the class's name; empty for a module without a source."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):  # built into the interpreter
        return {}
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {node.name: dict(_docs_of(node)) for node in classes}


def _docs_of(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(node.body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if (
            isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield field.target.id, inspect.cleandoc(below.value.value)
