"""What the kernel says of another process. Source: proc(5), ``/proc/PID/status``, sizes in kB."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil


def _status(pid: int, name: str) -> int:
    """The number behind ``name``.

    Raises:
        ProcessLookupError: the process has ended.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    found = next((line for line in lines if line.startswith(f"{name}:")), None)
    if found is None:  # also one that has ended and was not waited for
        raise ProcessLookupError(f"process {pid} has ended")
    return int(found.split()[1])


def resident_mib(pid: int) -> float:
    """Memory in use."""
    return _status(pid, "VmRSS") / 1024


def peak_mib(pid: int) -> float:
    """The largest resident memory so far."""
    return _status(pid, "VmHWM") / 1024


def threads(pid: int) -> int:
    """Number of threads."""
    return _status(pid, "Threads")


def family_cpu_s(pids: Iterable[int]) -> float:
    """CPU time of the processes and all that they started and that still run."""
    times = [one.cpu_times() for one in _families(pids)]
    return sum(one.user + one.system for one in times)


def family_peak_mib(pids: Iterable[int]) -> float:
    """The largest resident memory of each of them, added up; what they share is counted more than once."""
    return sum(peak_mib(one.pid) for one in _families(pids))


def _families(pids: Iterable[int]) -> list[psutil.Process]:
    try:
        heads = [psutil.Process(pid) for pid in pids]
        return [one for head in heads for one in (head, *head.children(recursive=True))]
    except psutil.NoSuchProcess as exc:
        raise ProcessLookupError(f"process {exc.pid} has ended") from exc
