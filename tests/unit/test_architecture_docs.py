"""docs/architecture.md names the packages, threads, drop reasons, child processes and state files of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cameras.frame_counters import Drop
from scripts.dev.house_rules import ENGINE_LAYERS, LAYERS

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs/architecture.md"
_THREAD_CLASSES = {"StageThread", "Thread", "Timer", "ThreadPoolExecutor"}


def _section(title: str) -> str:
    text = _PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no section {title!r}"
    return found[1]


def _cells(section: str, column: int) -> set[str]:
    """Everything in backticks in one column of the section's tables."""
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[column + 1])}


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("agent", "engines"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            yield path.relative_to(_ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _pattern(node: ast.expr | None) -> str | None:
    """A name in the code with `*` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return None


def _names_of_threads(tree: ast.Module) -> Iterator[str | None]:
    """The name of each thread that a module makes; None for one that has no name, which is a breach."""
    names_set_later = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Attribute)
        and node.targets[0].attr == "name"
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or _last_name(node.func) not in _THREAD_CLASSES:
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if _last_name(node.func) == "StageThread":
            yield _pattern(node.args[0])
        elif _last_name(node.func) == "Timer":
            yield from names_set_later or (None,)
        elif "thread_name_prefix" in keywords:
            yield f"{_pattern(keywords['thread_name_prefix'])}_*"
        elif not isinstance(keywords.get("name"), ast.Name):  # StageThread passes on the name that it was given
            yield _pattern(keywords.get("name"))


def test_every_thread_is_described_and_every_described_thread_exists() -> None:
    section = _section("Threads")
    made = {path: set(_names_of_threads(tree)) for path, tree in _trees()}
    in_code = {name for names in made.values() for name in names if name is not None}
    described = {re.sub(r"(?<=[-_])[A-Z]+", "*", name) for name in _cells(section, 0)}
    assert len(in_code) > 12
    assert [str(path) for path, names in made.items() if None in names] == [], "give each thread a name"
    assert described == in_code
    files = {str(path) for path, names in made.items() if names}
    assert files <= _cells(section, 1) | {"agent/runtime/threads.py"}


def test_every_package_is_described() -> None:
    described = _cells(_section("The packages"), 0)
    rooms = [room.replace(".", "/") for layer in (*LAYERS, *ENGINE_LAYERS) for room in layer]
    folders = {room for room in rooms if (_ROOT / room).is_dir()}
    files = {f"{room}.py" for room in rooms if (_ROOT / f"{room}.py").is_file()}
    assert len(folders) > 20
    assert folders | files <= described


def test_the_drawing_has_the_layers_in_their_order() -> None:
    drawing = _section("The packages").split("```")[1]
    drawn = [tuple(line.split()) for line in drawing.splitlines() if line.strip()]
    expected = []
    for layer in LAYERS:
        names = [room.replace(".", "/") for room in layer]
        paths = [f"{name}.py" if (_ROOT / f"{name}.py").is_file() else name for name in names]
        if present := tuple(path for path in paths if (_ROOT / path).exists()):
            expected.append(present)
    assert drawn == expected


def test_every_reason_for_a_dropped_frame_is_in_the_table() -> None:
    assert _cells(_section("Where a frame can be dropped"), 0) == {drop.value for drop in Drop}


def test_the_methods_that_drop_frames_are_those_of_the_table() -> None:
    named = re.findall(r"`(\w+)\.(\w+)`", _section("Where a frame can be dropped"))
    classes = {
        node.name: {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
        for _, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert [f"{name}.{method}" for name, method in named if method not in classes.get(name, ())] == []


def _reasons(tree: ast.Module) -> Iterator[str]:
    """Why messages are dropped: arguments of the counting methods, and what `send` of a sink returns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last_name(node.func) in {
            "drop",
            "_drop",
            "_drop_stored",
            "_give_up",
            "lost",
        }:
            yield from _strings(*node.args)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "PROBLEMS.get":
            yield ast.literal_eval(node.args[1])
        elif isinstance(node, ast.Subscript) and _last_name(node.value) == "_dropped":
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                yield node.slice.value
        elif isinstance(node, ast.FunctionDef) and node.name in {"send", "stream", "_stream_alone"}:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    yield from _strings(inner.value)
        elif isinstance(node, ast.Assign) and _last_name(node.targets[0]) == "PROBLEMS":
            yield from ast.literal_eval(node.value).values()


def _strings(*nodes: ast.expr) -> Iterator[str]:
    for node in nodes:
        # Not what is compared: `"stale" if problem == "backlog" else problem`.
        parts = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value
            elif isinstance(part, ast.IfExp):
                yield from _strings(part)


def test_every_reason_for_a_dropped_message_is_in_the_table() -> None:
    in_code = {
        reason
        for path, tree in _trees()
        if path.parts[:2] in {("agent", "publish"), ("agent", "mqtt")}
        for reason in _reasons(tree)
    }
    assert len(in_code) > 10
    assert _cells(_section("Where a message can be dropped"), 0) == in_code


def test_every_child_process_is_described() -> None:
    described = set(re.findall(r"`([^`]+)`", _section("Child processes")))
    starters = {
        str(path)
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (_last_name(node.func) in {"Popen", "JsonChild"} or ast.unparse(node.func) == "subprocess.run")
    }
    children = {
        str(path) for path, tree in _trees() if path.stem.endswith("_child") and "__main__" in ast.unparse(tree)
    }
    assert len(children) > 8
    assert children <= described
    # A limited child is started through engines/sandbox by the files that the table names.
    assert starters - described == {"engines/sandbox/json_child.py", "engines/sandbox/child.py"}


def _texts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_state_file_is_written_where_the_table_says() -> None:
    rows = [line.split("|") for line in _section("State files").splitlines() if line.startswith("| `")]
    assert len(rows) > 8
    for row in rows:
        files = [_ROOT / name for name in re.findall(r"`([^`]+)`", row[2])]
        names = re.findall(r"`([^`]+)`", row[1])
        for name in names:
            texts = {text for file in files for text in _texts(ast.parse(file.read_text(encoding="utf-8")))}
            assert name in texts, f"{name} is not in {row[2]}"


@pytest.mark.parametrize(
    ("titles", "allowed"),
    [(("The path of a result",), 12), (("The path of a result", "The path of an event"), 20)],
)
def test_a_message_passes_few_files(titles: tuple[str, ...], allowed: int) -> None:
    files = {file for title in titles for file in re.findall(r"^\d+\. `([^`]+\.py)`", _section(title), re.MULTILINE)}
    assert 8 <= len(files) <= allowed
