"""The page's files, read once and compressed once."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file; ``packed`` is its content as gzip."""

    content_type: str
    content: bytes
    packed: bytes
    tag: str


def page_files() -> dict[str, PageFile]:
    """Every file by its name."""
    folder = Path(__file__).with_name("static")
    return {path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in _TYPES}


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return PageFile(_TYPES[path.suffix], content, gzip.compress(content, mtime=0), tag)
