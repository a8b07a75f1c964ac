"""Runs ``agent run`` as a child process with its own configuration, for the pipeline measurement."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.errors import Unavailable
from engines import module_command

_TICKS_HZ = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_READY_WITHIN_S = 600.0
_END_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class AgentProcess:
    """One running agent."""

    pid: int
    ready_s: float
    """From the start of its interpreter until it published what it runs."""

    def cpu_s(self) -> float:
        """CPU time of all its threads. Source: proc(5), fields 14 and 15 of stat."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_HZ

    def resident_bytes(self) -> int:
        """Memory in use."""
        return int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


@contextmanager
def running_agent(
    config: Mapping[str, object],
    cache_dir: Path,
    is_ready: Callable[[float], bool],
    *,
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[AgentProcess]:
    """`agent run` with ``config``; ``is_ready`` waits at most the seconds it is given. It ends with the block.

    ``prepare`` gets the state directory before the start.

    Raises:
        Unavailable: it ended, or does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="agent-benchmark-") as folder, tempfile.TemporaryFile() as words:
        state = Path(folder) / "state"
        state.mkdir(mode=0o700)
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / "cache").symlink_to(cache_dir.resolve())
        if prepare is not None:
            prepare(state)
        path = Path(folder) / "agent.yaml"
        # JSON is YAML too.
        path.write_text(json.dumps({**config, "state_dir": str(state)}, indent=1), encoding="utf-8")
        path.chmod(0o600)
        began_s = time.monotonic()
        process = subprocess.Popen(
            module_command("agent", "--log-format", "json", "run", "-c", str(path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
        )
        try:
            while not is_ready(0.1):
                if process.poll() is not None or time.monotonic() - began_s > _READY_WITHIN_S:
                    words.seek(0)
                    raise Unavailable(f"the agent did not become ready: {_last_line(words.read())}")
            yield AgentProcess(process.pid, time.monotonic() - began_s)
        finally:
            process.terminate()
            try:
                process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _last_line(text: bytes) -> str:
    """The error line of the command, or its last line."""
    lines = text.decode(errors="replace").strip().splitlines() or ["(no output)"]
    said = [line for line in lines if line.startswith("error: ")]
    return (said or lines)[-1][:400]
