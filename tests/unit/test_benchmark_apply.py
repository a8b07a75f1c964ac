"""Writing a recommendation into a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.config.loader import load_config
from agent.demo import demo_package
from agent.runtime.errors import ConfigError, UsageError
from agent.tools.benchmark.apply import apply_to, remember_for
from agent.tools.benchmark.edit import with_engine
from agent.tools.benchmark.report import Recommendation
from engines.base import EngineOptions, Measurement
from engines.package.load import load_package
from engines.select.selection import SelectionStore, selection_key_here

INT8 = Recommendation(engine="ort-cpu", precision="int8", reason="measured")
CONFIG = """\
# the line's camera
version: 1
models:
  inspect:   # looks for scratches
    package: demo
    engine: auto        # was tensorrt once
    # fp16 blurs the small scratches
    strict: false
cameras:
  front:
    source: {type: pattern}
    classify: [{model: inspect}]
mqtt: {broker: mqtt://127.0.0.1:1883}
state_dir: state
"""


def _write(tmp_path: Path, text: str = CONFIG) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_bytes(text.encode())
    return path


def test_comments_and_everything_else_stay(tmp_path: Path) -> None:
    path = _write(tmp_path)
    path.chmod(0o640)
    assert apply_to(path, INT8, load_package(demo_package())) == ["inspect"]
    expected = CONFIG.replace(
        "engine: auto        # was tensorrt once\n",
        "engine: ort-cpu     # was tensorrt once\n    precision: int8\n",
    )
    assert path.read_text() == expected
    assert path.stat().st_mode & 0o777 == 0o640
    assert load_config(path, check_files=False).config.models["inspect"].precision == "int8"
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent.yaml"]


def test_applying_twice_changes_nothing(tmp_path: Path) -> None:
    path, package = _write(tmp_path), load_package(demo_package())
    apply_to(path, INT8, package)
    once = path.read_bytes()
    apply_to(path, INT8, package)
    assert path.read_bytes() == once


def test_line_ends_of_windows_stay(tmp_path: Path) -> None:
    path = _write(tmp_path, CONFIG.replace("\n", "\r\n"))
    apply_to(path, INT8, load_package(demo_package()))
    assert b"\n" not in path.read_bytes().replace(b"\r\n", b"")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{package: demo}", "{package: demo, engine: ort-cpu, precision: int8}"),
        ("{package: demo, engine: auto}", "{package: demo, engine: ort-cpu, precision: int8}"),
        (
            "{precision: fp16, package: 'demo'}   # fast",
            "{precision: int8, package: 'demo', engine: ort-cpu}   # fast",
        ),
    ],
)
def test_model_in_one_line_is_edited_in_its_line(before: str, after: str, tmp_path: Path) -> None:
    rest = "\n  # the other line\n  spare: { package: demo,  strict: true }   # kept\n"
    text = CONFIG.replace(CONFIG[CONFIG.index("  inspect:") : CONFIG.index("cameras:")], "  inspect: " + before + rest)
    path = _write(tmp_path, text)
    apply_to(path, INT8, load_package(demo_package()), model="inspect")
    assert path.read_text().split() == text.replace(before, after).split()
    assert "\n  # the other line\n  spare: { package: demo,  strict: true }   # kept\n" in path.read_text()


def test_configuration_of_the_readme_is_edited(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    text = next(block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "inspect: {" in block)
    text = re.sub(r"package: [^,}]+", "package: demo", text)
    path = _write(tmp_path, text)
    apply_to(path, INT8, load_package(demo_package()))
    model = load_config(path, check_files=False).config.models["inspect"]
    assert (model.engine, model.precision) == ("ort-cpu", "int8")
    changed = [line for line in path.read_text().splitlines() if line not in text.splitlines()]
    assert len(changed) == 1


@pytest.mark.parametrize("example", sorted(Path("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_only_lines_of_the_models_change_in_the_examples(example: Path, tmp_path: Path) -> None:
    text = example.read_bytes().decode()
    loaded = load_config(example, check_files=False)
    edited = with_engine(text, list(loaded.config.models), "ort-cpu", "int8")
    path = _write(tmp_path, edited)
    wanted = {
        key: model.model_copy(update={"engine": "ort-cpu", "precision": "int8"})
        for key, model in loaded.config.models.items()
    }
    assert load_config(path, check_files=False).config == loaded.config.model_copy(update={"models": wanted})
    old, new = text.splitlines(), edited.splitlines()
    gone = [line for line in old if line not in new]
    assert all(re.search(r"engine|precision|package", line) for line in gone)
    assert re.findall(r"#.*", text) == re.findall(r"#.*", edited)


def test_comment_between_two_keys_stays_with_the_lower_one(tmp_path: Path) -> None:
    text = CONFIG.replace("    engine: auto        # was tensorrt once\n", "")
    path = _write(tmp_path, text)
    apply_to(path, INT8, load_package(demo_package()))
    assert path.read_text() == text.replace(
        "    package: demo\n", "    package: demo\n    engine: ort-cpu\n    precision: int8\n"
    )


def test_comment_that_would_be_lost_leaves_the_file_alone(tmp_path: Path) -> None:
    block = CONFIG[CONFIG.index("  inspect:") : CONFIG.index("cameras:")]
    text = CONFIG.replace(block, "  inspect: {\n    package: demo, # why this one\n    strict: false\n  }\n")
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"the comment '# why this one' would be lost\. Set engine: ort-cpu and"):
        apply_to(path, INT8, load_package(demo_package()))
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "models:\n    inspect:\n        package: demo\n\n\n# end\ncameras:\n    - 1\n",
            "models:\n    inspect:\n        package: demo\n        engine: ort-cpu\n        precision: int8\n\n\n"
            "# end\ncameras:\n    - 1\n",
            id="four-blanks",
        ),
        pytest.param(
            "models:\n  inspect: {package: demo}\nx: {a: 1,   # kept\n    b:  2}\n",
            "models:\n  inspect: {package: demo, engine: ort-cpu, precision: int8}\nx: {a: 1,   # kept\n    b:  2}\n",
            id="other-braces-over-lines",
        ),
        pytest.param(
            'models:\n  inspect: {package: "a # b", engine: auto}',
            'models:\n  inspect: {package: "a # b", engine: ort-cpu, precision: int8}\n',
            id="sign-of-a-comment-in-quotes",
        ),
        pytest.param(
            "models:\n  inspect:\n    engine: auto\n    package: demo",
            "models:\n  inspect:\n    engine: ort-cpu\n    precision: int8\n    package: demo",
            id="no-end-of-the-last-line",
        ),
    ],
)
def test_only_the_lines_that_have_to_change_are_touched(text: str, expected: str) -> None:
    assert with_engine(text, ["inspect"], "ort-cpu", "int8") == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [1]\n", "not written as a mapping"),
        ("models:\n\tinspect: {package: demo}\n", "cannot start any token"),
        ("models:\n  other: {package: demo}\n", "not written as a mapping"),
        ("- 1\n", "not written as a mapping"),
        ("", "not written as a mapping"),
    ],
)
def test_text_that_has_no_such_model_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_engine(text, ["inspect"], "ort-cpu", "int8")


def test_byte_order_mark_stays(tmp_path: Path) -> None:
    path = _write(tmp_path, "\ufeff" + CONFIG)
    apply_to(path, INT8, load_package(demo_package()))
    assert path.read_bytes().startswith(b"\xef\xbb\xbf# the line's camera\n")


def test_unknown_model_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no model 'other'; it has inspect"):
        apply_to(_write(tmp_path), INT8, load_package(demo_package()), model="other")


def test_nothing_to_recommend_changes_nothing(tmp_path: Path) -> None:
    path, nothing = _write(tmp_path), Recommendation(engine=None, precision=None, reason="all too slow")
    with pytest.raises(UsageError, match="nothing to apply: all too slow"):
        apply_to(path, nothing, load_package(demo_package()))
    assert path.read_text() == CONFIG


def test_auto_finds_what_was_measured(tmp_path: Path) -> None:
    path, package = _write(tmp_path), load_package(demo_package())
    measured = Measurement(engine="ort-cpu", precision="int8", runs=700, p50_ms=1.0, p90_ms=1.1)
    remember_for(path, ["inspect"], package, [measured])
    most = load_config(path).config.models["inspect"].batching.engine_batch
    options = EngineOptions(cache_dir=tmp_path / "state" / "cache", engine="auto", precision="int8", max_batch=most)
    choice = SelectionStore(options.cache_dir).load(selection_key_here(package, options))
    assert choice is not None
    assert choice.engine == "ort-cpu"
