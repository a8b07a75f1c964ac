"""Measures every figure of docs/performance.md and docs/scale.md and writes the tables. Run by scripts/measure."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from agent.runtime import logs
from agent.runtime.errors import AgentError
from engines.errors import EngineError
from scripts.performance.page import Origin, head, machine, marks, replace_tables, versions, write_block
from scripts.performance.parts import GROUPS, PARTS, Setting, tables_from_reports
from scripts.performance.verdict import LoadWatch

_ROOT = Path(__file__).parents[2]
_WORK = _ROOT / ".cache" / "measure"
_PAGE = "performance.md"


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write each as soon as it is done; return 1 if one failed."""
    given = _parser().parse_args(arguments)
    if given.from_reports:
        return _write_from_reports(given.output or _ROOT / "docs")
    chosen = _chosen(given.only)
    out = given.output or (_WORK / "quick" if given.quick else _ROOT / "docs")
    _make_pages(out)
    logs.configure(level="error")
    setting = Setting(
        work=_WORK,
        reports=out / "benchmarks",
        is_quick=given.quick,
        pythons=dict(one.split("=", 1) for one in given.python),
    )
    failed = [name for name in chosen if not _measured(name, setting, out / PARTS[name].page)]
    print(f"{out}: {', '.join(name for name in chosen if name not in failed) or 'nothing'} written", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}. Again: scripts/measure --only {','.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/measure", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="all parts in minutes, marked as not valid")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts with commas, of {', '.join(_names())}")
    parser.add_argument(
        "--from-reports", action="store_true", help="write the tables of engines and path again, without measuring"
    )
    parser.add_argument("--output", type=Path, help="folder of performance.md and benchmarks/  [default: docs]")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="set by scripts/measure")
    return parser


def _write_from_reports(out: Path) -> int:
    try:
        for name, lines in tables_from_reports(out / "benchmarks").items():
            replace_tables(out / _PAGE, name, lines)
    except (AgentError, OSError, ValueError) as exc:
        print(f"scripts/measure: the tables could not be written: {exc}", file=sys.stderr)
        return 1
    print(f"{out / _PAGE}: engines, path written from the reports", file=sys.stderr)
    return 0


def _chosen(text: str) -> list[str]:
    words = [name.strip() for name in text.split(",") if name.strip()]
    names = dict.fromkeys(name for word in words for name in GROUPS.get(word, (word,)))
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        wrong = f"there is no part {', '.join(unknown)}" if unknown else "--only names no part"
        print(f"scripts/measure: {wrong}; there are {', '.join(_names())}", file=sys.stderr)
        raise SystemExit(2)
    return [*names]


def _names() -> list[str]:
    return [*PARTS, *GROUPS]


def _make_pages(out: Path) -> None:
    """Create each page that is not in the folder, with empty blocks."""
    (out / "benchmarks").mkdir(parents=True, exist_ok=True)
    for page in {part.page for part in PARTS.values()}:
        if not (out / page).is_file():
            names = [name for name, part in PARTS.items() if part.page == page]
            places = "\n".join(f"## {name}\n\n{''.join(marks(name))}" for name in names)
            (out / page).write_text(f"# Figures\n\n{places}", encoding="utf-8")


def _measured(name: str, setting: Setting, page: Path) -> bool:
    """Measure one part and write its block; after a failure the block is unchanged."""
    part = PARTS[name]
    print(f"== {name}", file=sys.stderr)
    began = datetime.now(timezone.utc)
    try:
        part.prepare(setting)
        began_s, watch = time.monotonic(), LoadWatch()
        lines = list(part.run(setting, watch))
    except (
        AgentError,
        EngineError,
        subprocess.CalledProcessError,
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
    ) as exc:
        print(f"{name} could not be measured: {type(exc).__name__}: {exc}{_last_line(exc)}", file=sys.stderr)
        return False
    load, wall_s = watch.load(), time.monotonic() - began_s
    origin = Origin(
        command=f"scripts/measure{' --quick' if setting.is_quick else ''} --only {name}",
        machine=machine(),
        versions=versions(),
        began=began.strftime("%Y-%m-%d %H:%M UTC"),
        wall_s=wall_s,
        load=load,
        is_quick=setting.is_quick,
    )
    write_block(page, name, [*head(origin), *lines])
    print(f"{name}: {wall_s:.0f} s, {load.words}", file=sys.stderr)
    return True


def _last_line(error: BaseException) -> str:
    words: Sequence[str] = str(getattr(error, "stderr", None) or "").strip().splitlines()
    return f": {words[-1]}" if words else ""


if __name__ == "__main__":
    sys.exit(main())
