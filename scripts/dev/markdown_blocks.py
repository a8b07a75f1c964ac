"""The fenced blocks of a Markdown page. The standard library alone: a bare machine reads the tutorial with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

SHELLS = frozenset({"sh", "bash", "shell", "console"})

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\s`]*)[^\n]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(
    r"<!-- (?P<what>run|board|elsewhere)(?: until \"(?P<until>[^\"]+)\")?(?P<codes>, exit code 0 or 1)? -->\s*$"
)
_FILE = re.compile(r"<!-- file: (?P<name>[\w./-]+) -->\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        line: where its content starts, 1 is the first line
        language: as written behind the fence; empty for text
        body: its content, without the indentation of the fence
        what: the mark above it: run | board | elsewhere | unmarked
        until: text that the commands print before they are interrupted; None where they end without help
        may_fail: exit code 1 is an answer too
        file: the file that the reader writes it to, named above it; None for every other block
    """

    line: int
    language: str
    body: str
    what: str = "unmarked"
    until: str | None = None
    may_fail: bool = False
    file: str | None = None

    @property
    def script(self) -> str:
        """The commands alone, without prompts and output."""
        if self.language != "console":
            return self.body
        return "".join(part[2:] + "\n" for part in self.body.splitlines() if part.startswith("$ "))


def blocks_of(markdown: str) -> list[Block]:
    """All fenced blocks of a text."""
    blocks = []
    for fence in _FENCE.finditer(markdown):
        before, indent = markdown[: fence.start()], len(fence["indent"])
        mark, file = _MARK.search(before), _FILE.search(before)
        what, until, may_fail = (
            (mark["what"], mark["until"], bool(mark["codes"])) if mark else ("unmarked", None, False)
        )
        body = "".join(line[indent:] for line in fence["body"].splitlines(keepends=True))
        line = before.count("\n") + 2
        name = file["name"] if file else None
        blocks.append(Block(line, fence["language"], body, what, until, may_fail, name))
    return blocks
