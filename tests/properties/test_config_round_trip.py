"""A configuration that is written out and read again is the same configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.dump import yaml_from_config
from agent.config.loader import load_config
from agent.config.model import AgentConfig
from agent.runtime.errors import ConfigError

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
ratios = st.floats(0.0, 1.0, allow_nan=False)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
yaml_traps = st.sampled_from(["no", "010", "12:30", "1e3", "0x1F", "~", "2026-01-02", "=", "<<", "- a", "a: b", "#"])
labels = st.one_of(texts, yaml_traps)

sources = st.one_of(
    st.fixed_dictionaries({"type": st.just("file"), "path": labels}, optional={"loop": st.booleans()}),
    st.fixed_dictionaries({"type": st.just("pattern")}, optional={"fps": st.floats(0.001, 1000.0)}),
    st.fixed_dictionaries({"type": st.just("images"), "path": labels}),
)
thresholds = {"enter": st.floats(0.5, 1.0), "exit": st.floats(0.0, 0.5)}
rules = st.fixed_dictionaries({}, optional={**thresholds, "votes": st.none() | st.integers(1, 3)})
counted = st.fixed_dictionaries(
    {},
    optional={
        **thresholds,
        "window": st.none() | st.integers(5, 1000),
        "unknown": labels,
        "labels": st.dictionaries(labels, rules, max_size=3),
    },
)
timed = st.fixed_dictionaries(
    {"hold_s": st.floats(0.001, 60.0)}, optional={**thresholds, "window_s": st.floats(60.0, 600.0), "unknown": labels}
)

keys = st.sampled_from(["version", "models", "cameras", "mqtt", "device", "classify", "source", "type", "m", "when"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | labels
anything = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=4), max_leaves=20
)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, object]:
    models = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    option_values = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), labels, st.floats(-1e6, 1e6))
    cameras: dict[str, object] = {}
    for camera in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        keys = draw(st.lists(names, min_size=1, max_size=3, unique=True))
        source = draw(sources)
        # Files without a rate have no seconds to count.
        decides = counted | timed if source["type"] == "pattern" else counted
        classify: list[dict[str, object]] = []
        for key in keys:
            entry: dict[str, object] = {"model": draw(st.sampled_from(models)), "name": key, "decide": draw(decides)}
            is_gated: bool = draw(st.booleans())
            if classify and is_gated:
                gate = draw(st.sampled_from(keys[: len(classify)]))
                entry["when"] = {"classifier": gate, "labels": draw(st.lists(labels, min_size=1, max_size=3))}
            classify.append(entry)
        cameras[camera] = {
            "source": source,
            "classify": classify,
            "rate_hz": draw(st.none() | st.floats(0.1, 1000)),
        }
    return {
        "version": 1,
        "device": {
            "id": draw(st.just("auto") | st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)),
            "name": draw(labels),
        },
        "models": {
            name: {"package": draw(labels), "options": draw(st.dictionaries(names, option_values, max_size=2))}
            for name in models
        },
        "cameras": cameras,
    }


@given(configurations())
@settings(max_examples=60)
def test_every_configuration_survives_being_written_and_read(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, object]
) -> None:
    config = AgentConfig.model_validate(data)
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(yaml_from_config(config), encoding="utf-8")
    assert load_config(path, check_files=False).config == config


@given(anything)
@settings(max_examples=60)
def test_no_yaml_at_all_makes_the_loader_fail_otherwise_than_by_its_own_error(
    tmp_path_factory: pytest.TempPathFactory, data: object
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(path)
