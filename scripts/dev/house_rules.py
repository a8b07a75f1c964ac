"""House rules that no linter knows: layers, circles, words, sizes, broad excepts, reasons, traces of a machine.

    python scripts/dev/house_rules.py [FOLDER]
    python scripts/dev/house_rules.py --structure [FOLDER]

Reads the files of FOLDER (default: this checkout) that git tracks or would track, prints one line for each breach,
`file:line: what is wrong: what to do`, and exits 1 if there is any. With `--structure`: files and lines of each
package, and the circles of imports.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

_WARN_MODULE_LINES = 450
_MAX_MODULE_LINES = 800
_MAX_FUNCTION_LINES = 50
# The top of every stage's thread and the top of the program may catch everything; each further place hides mistakes.
_MAX_BROAD_EXCEPTS = 2

_PROGRAM = ("agent", "engines")
_VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
# From the top: a package may import what stands below it, never what stands above nor its neighbours on one line.
# A module that is no package of its own (agent.app) has a line of its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("agent.__main__",),
    ("agent.cli",),
    ("agent.tools",),
    ("agent.app",),
    ("agent.supervise",),
    ("agent.build",),
    ("agent.reload",),
    ("agent.web", "agent.commands", "agent.telemetry", "agent.updates"),
    ("agent.inference", "agent.publish", "agent.thermal"),
    ("agent.cameras", "agent.mqtt", "agent.daemon"),
    ("agent.config",),
    ("agent.runtime", "agent.demo"),
    ("agent",),
    ("engines",),
)
# The same inside engines.
ENGINE_LAYERS: tuple[tuple[str, ...], ...] = (
    ("engines.select",),
    ("engines.check",),
    ("engines.backends",),
    ("engines.environment",),
    ("engines.probes",),
    ("engines.sandbox",),
    ("engines.graph",),
    ("engines.package",),
    ("engines.store",),
    ("engines.host", "engines.percentiles"),
    ("engines.errors", "engines.base"),
)

# Words that only their authors know; docs/glossary.md has what to write instead. Written so as not to match here.
_WORDS = re.compile(
    r"\b(?:ane[w]|whoeve[r]|in place o[f]|go(?:es|ne)? over t[o]|(?:is|became|becomes) anothe[r]|by itsel[f]|"
    r"farewel[l]|last word[s]|in the terms o[f]|(?:is|are|was|were|be) tol[d])\b|"
    r"\b_?(?:leas[t]|mos[t]|longes[t]|LEAS[T]|MOS[T]|LONGES[T]|HIGHES[T]|LOWES[T]|SHORTES[T])_\w+"
)
_WORDED = ("agent", "engines", "scripts", "configs", "docs", "README.md")
_WORDLESS = ("docs/glossary.md", "docs/benchmarks")

# Written so that these patterns do not find themselves.
_TRACES = {
    "a path of one machine": re.compile(
        r"(?<![\w.*-])/(?:work|farm|root|builds|workspace|tmp/venv|tmp/w|home/(?!\$|<|(?:agent|someone|user|you)/)[\w-]+|Users/[\w-]+)/"
    ),
    "a package that no index has, so a name that anybody may take": re.compile(r"edge-inference-agent\["),
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
    folders = [argument for argument in arguments if argument != "--structure"]
    root = Path(folders[0] if folders else Path(__file__).parents[2]).resolve()
    if "--structure" in arguments:
        return structure(root)
    breaches = sorted(breaches_in(root))
    for breach in breaches:
        print(breach)
    return 1 if breaches else 0


def breaches_in(root: Path) -> Iterator[str]:
    """Every breach below root, as `file:line: text`."""
    broad: list[str] = []
    graph = module_graph(root)
    files = {_module_of(place): place for path in files_of(root) if _is_module(place := path.relative_to(root))}
    yield from _layer_breaches(graph, files)
    for circle in circles(graph):
        yield f"{files[circle[0]]}:1: a circle of imports, {' > '.join(circle)}: move what they share further down"
    for path in files_of(root):
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image, a clip, a model
            continue
        place = path.relative_to(root)
        yield from _traces(place, source)
        yield from _stilted_words(place, source)
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


def files_of(root: Path) -> list[Path]:
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
    if size > _MAX_MODULE_LINES:
        yield f"{place}:1: {size} lines, {_MAX_MODULE_LINES} are allowed: split the module"
    elif size > _WARN_MODULE_LINES:
        print(f"warning: {place}:1: {size} lines: does it have one job?", file=sys.stderr)
    if place.stem in _VAGUE_NAMES:
        yield f"{place}:1: the name says nothing: name the module after its one job"
    found = [*_long_functions(tree), *_bare_skips(tree), *_bare_exemptions(source)]
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


def _stilted_words(place: Path, source: str) -> Iterator[str]:
    if (
        place.parts[0] not in _WORDED
        or str(place).startswith(_WORDLESS)
        or place.suffix not in {".py", ".md", ".yaml"}
    ):
        return
    for number, line in enumerate(source.splitlines(), 1):
        if found := _WORDS.search(line):
            yield f"{place}:{number}: {found[0]!r}: docs/glossary.md has the word to write instead"


def module_graph(root: Path) -> dict[str, dict[str, int]]:
    """Every module of the program, what it imports of the program, and the line where it does so first."""
    paths = {_module_of(path.relative_to(root)): path for path in files_of(root) if _is_module(path.relative_to(root))}
    graph: dict[str, dict[str, int]] = {}
    for importer, path in paths.items():
        imports: dict[str, int] = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for name in _imported(node, importer, is_package=path.name == "__init__.py"):
                    if name.split(".")[0] in _PROGRAM and _known(name, paths) != importer:
                        imports.setdefault(_known(name, paths), node.lineno)
        graph[importer] = imports
    return graph


def _is_module(place: Path) -> bool:
    return place.suffix == ".py" and place.parts[0] in _PROGRAM


def _module_of(place: Path) -> str:
    parts = place.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _known(name: str, modules: Mapping[str, Path]) -> str:
    """The module itself where ``name`` is something in it; a module that does not exist keeps its name."""
    parent = name.rpartition(".")[0]
    return parent if name not in modules and parent in modules else name


def _layer_breaches(graph: Mapping[str, Mapping[str, int]], files: Mapping[str, Path]) -> Iterator[str]:
    for importer, imports in sorted(graph.items()):
        for name, line in sorted(imports.items(), key=lambda item: item[1]):
            text = _layer_breach(importer, name, LAYERS) or _layer_breach(importer, name, ENGINE_LAYERS)
            if text is not None:
                yield f"{files[importer]}:{line}: {text}"


def _layer_breach(importer: str, name: str, layers: Sequence[Sequence[str]]) -> str | None:
    (importing, room), (imported, other) = _layer_of(importer, layers), _layer_of(name, layers)
    if importing is None or imported is None or room == other or importing < imported:
        return None
    why = "stands above it" if importing > imported else "stands beside it"
    return f"{importer} imports {name}: {other} {why} in the layers, so move what both need further down"


def _layer_of(module: str, layers: Sequence[Sequence[str]]) -> tuple[int | None, str]:
    """Index of the layer and the package; the longest name that fits counts."""
    rooms = [(len(room), index, room) for index, layer in enumerate(layers) for room in layer if _is_in(module, room)]
    if not rooms:
        return None, ""
    _, index, found = max(rooms)
    return index, found


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Groups of modules that reach each other by imports, each sorted. Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        waiting.append(module)
        for target in sorted(graph.get(module, ())):
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in waiting:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            group = waiting[waiting.index(module) :]
            del waiting[waiting.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def structure(root: Path) -> int:
    """Print files and lines of each package, and the circles of imports; 1 where there is a circle."""
    rooms: dict[str, list[int]] = {}
    for path in files_of(root):
        if _is_module(place := path.relative_to(root)):
            rooms.setdefault(str(place.parent), []).append(path.read_text(encoding="utf-8").count("\n"))
    for room, sizes in sorted(rooms.items()):
        print(f"{room:42} {len(sizes):3} files {sum(sizes):6} lines, the longest {max(sizes)}")
    found = circles(module_graph(root))
    for circle in found:
        print(f"circle: {' > '.join(circle)}")
    print(f"{len(found)} circles of imports")
    return 1 if found else 0


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
