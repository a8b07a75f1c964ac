"""The configuration as YAML, which the strict reader reads back unchanged."""

from __future__ import annotations

import re
from typing import Any

import yaml

from agent.config.model import AgentConfig
from agent.config.source_address import public_value

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*\Z")
_SPECIAL = re.compile(r"(?i:yes|no|on|off|y|n|true|false|null)\Z")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that some YAML version reads as another type."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the library's signature
        """Repeat values instead of writing aliases, which the reader refuses."""
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.match(value) is not None and _SPECIAL.match(value) is None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_plain else '"')


_Dumper.add_representer(str, _text)


def yaml_from_config(config: AgentConfig) -> str:
    """Every key with its value, also defaults, in the order of the documentation.

    Addresses are whole, and may hold a token: for a file, not for people.
    """
    return _yaml(config.model_dump(mode="json"))


def public_yaml(config: AgentConfig) -> str:
    """As ``yaml_from_config``, for people: addresses of sources as in ``public_config``."""
    return _yaml(public_config(config))


def public_config(config: AgentConfig) -> dict[str, Any]:
    """The configuration with what is public of each source (``agent/config/source_address.py``)."""
    data = config.model_dump(mode="json")
    for camera in data["cameras"].values():
        camera["source"] = {key: public_value(key, value) for key, value in camera["source"].items()}
    return data


def _yaml(data: dict[str, Any]) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
