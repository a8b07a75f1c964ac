"""House rules that no linter knows: sizes, directions of imports, broad excepts, reasons, traces of a machine.

    python scripts/dev/house_rules.py [FOLDER]

Reads the files of FOLDER (default: this checkout) that git tracks or would track, prints one line for each breach,
`file:line: what is wrong: what to do`, and exits 1 if there is any.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

_MAX_MODULE_LINES = 450
_MAX_TEST_MODULE_LINES = 500
_MAX_FUNCTION_LINES = 50
# The top of every stage's thread and the top of the program may catch everything; each further place hides mistakes.
_MAX_BROAD_EXCEPTS = 2

_PROGRAM = ("agent", "engines")
_VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
# Who may be imported by whom: the key's importers all start with one of the values.
_IMPORTERS = {
    "agent": ("agent", "tests", "scripts"),
    "agent.app": ("agent.app", "agent.cli", "agent.__main__", "tests", "scripts"),
    "agent.cli": ("agent.cli", "agent.__main__", "tests"),
}

# Written so that these patterns do not find themselves.
_TRACES = {
    "a path of one machine": re.compile(
        r"(?<![\w.*-])/(?:work|farm|root|builds|workspace|tmp/venv|tmp/w|home/(?!\$|<|(?:agent|someone|user|you)/)[\w-]+|Users/[\w-]+)/"
    ),
    "an address of a package index": re.compile(
        r"--(?:(?:extra-)?index-url|find-links)|PIP_(?:EXTRA_)?INDEX_URL\s*=|https?://[^\s\"']*/simple(?:[/\"\s]|$)"
    ),
}
_EXEMPTIONS = {
    "type: ignore": re.compile(r"#\s*type:\s*ignore(?P<codes>\[[\w, -]+\])?(?P<rest>.*)"),
    "noqa": re.compile(r"#\s*noqa(?P<codes>:\s*[A-Z]+[0-9]+(?:[, ]+[A-Z]+[0-9]+)*)?(?P<rest>.*)"),
}
_SKIPS = {"skip": 0, "skipif": 1, "xfail": 1, "importorskip": 9}


def main(arguments: list[str]) -> int:
    root = Path(arguments[0] if arguments else Path(__file__).parents[2]).resolve()
    breaches = sorted(breaches_in(root))
    for breach in breaches:
        print(breach)
    return 1 if breaches else 0


def breaches_in(root: Path) -> Iterator[str]:
    """Every breach below root, as `file:line: text`."""
    broad: list[str] = []
    for path in _files(root):
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image, a clip, a model
            continue
        place = path.relative_to(root)
        yield from _traces(place, source)
        if path.suffix == ".py":
            tree = ast.parse(source)
            yield from _module_breaches(place, source, tree)
            if place.parts[0] in _PROGRAM:
                broad += [f"{place}:{line}" for line in _broad_excepts(tree)]
    if len(broad) > _MAX_BROAD_EXCEPTS:
        yield (
            f"{broad[-1]}: {len(broad)} broad excepts, {_MAX_BROAD_EXCEPTS} are allowed ({', '.join(broad)}): "
            "name the exceptions that can come"
        )


def _files(root: Path) -> list[Path]:
    """Files that git tracks or would track; all files where root is no checkout."""
    if not (root / ".git").exists():
        return sorted(path for path in root.rglob("*") if path.is_file())
    listing = subprocess.run(
        # The checkout may belong to another user than this one, as in a container.
        [
            "git",
            "-c",
            f"safe.directory={root}",
            "-C",
            str(root),
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    # A file may be deleted and not yet committed.
    return sorted(path for name in listing.stdout.split("\0") if name and (path := root / name).is_file())


def _traces(place: Path, source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), 1):
        for what, pattern in _TRACES.items():
            if found := pattern.search(line):
                yield f"{place}:{number}: {what}, {found[0]!r}: take it out"


def _module_breaches(place: Path, source: str, tree: ast.Module) -> Iterator[str]:
    size = source.count("\n")
    limit = _MAX_TEST_MODULE_LINES if place.parts[0] == "tests" else _MAX_MODULE_LINES
    if size > limit:
        yield f"{place}:1: {size} lines, {limit} are allowed: split the module"
    if place.stem in _VAGUE_NAMES:
        yield f"{place}:1: the name says nothing: name the module after its one job"
    found = [*_long_functions(tree), *_bare_skips(tree), *_wrong_imports(place, tree), *_bare_exemptions(source)]
    yield from (f"{place}:{number}: {text}" for number, text in found)


def _long_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > _MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {size} lines, {_MAX_FUNCTION_LINES} are allowed: split it"


def _broad_excepts(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None or _names_everything(node.type):
                yield node.lineno
        elif isinstance(node, ast.Call) and _last_name(node.func) == "suppress":
            yield from (node.lineno for argument in node.args if _names_everything(argument))


def _names_everything(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_names_everything(element) for element in node.elts)
    return _last_name(node) in {"Exception", "BaseException"}


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _wrong_imports(place: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    importer = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
    statements = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    for node in statements:
        for name in _imported(node, importer, is_package=place.name == "__init__.py"):
            for target, importers in _IMPORTERS.items():
                if _is_in(name, target) and not any(_is_in(importer, allowed) for allowed in importers):
                    yield node.lineno, f"{importer} imports {name}: only {', '.join(importers)} may"


def _imported(node: ast.Import | ast.ImportFrom, importer: str, *, is_package: bool) -> list[str]:
    """Full names of the modules (or of what is taken from them) that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parts = importer.split(".")
    up = node.level - 1 if is_package else node.level
    start = ".".join(parts[: len(parts) - up]) if node.level else ""
    base = ".".join(part for part in (start, node.module or "") if part)
    return [f"{base}.{alias.name}" for alias in node.names]


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _bare_skips(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls and marks of pytest that leave a test out and do not say why."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_pytest_skip(node.func):
            reason_at = _SKIPS[_last_name(node.func)]
            has_reason = any(keyword.arg == "reason" for keyword in node.keywords)
            if not has_reason and not (reason_at == 0 and node.args):
                yield node.lineno, "a test is left out without a reason: add reason="
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Attribute) and _is_pytest_skip(decorator):
                    yield decorator.lineno, "a test is left out without a reason: add (reason=...)"


def _is_pytest_skip(node: ast.expr) -> bool:
    return _last_name(node) in _SKIPS and ast.unparse(node).startswith("pytest.")


def _bare_exemptions(source: str) -> Iterator[tuple[int, str]]:
    """Comments that switch a tool off and do not say for which rule or why."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        for what, pattern in _EXEMPTIONS.items():
            if found := pattern.search(token.string):
                if not found["codes"]:
                    yield token.start[0], f"`{what}` names no rule: write which one it silences"
                elif not re.search(r"\w{2}", found["rest"]):
                    yield token.start[0], f"`{what}` without a reason: add it in the same comment"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
