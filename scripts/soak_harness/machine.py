"""Injects disk and clock faults into the agent's process while it runs."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_FORM = struct.Struct("=4q")
_AHEAD, _SYNC, _ERRNO, _SHOWN = (index * 8 for index in range(4))


class Machine:
    """Controls a process started with ``environment``, through a preloaded library.

    ``disk``: the folder whose files can become slow or unwritable. Needs a C compiler.
    """

    def __init__(self, directory: Path, disk: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise SystemExit(
                "disk and clock faults need a small C library, and there is no C compiler: "
                "install gcc, on Debian and Ubuntu: sudo apt-get install gcc"
            )
        library, shared = directory / "machine.so", directory / "machine"
        source = Path(__file__).with_name("machine.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        shared.write_bytes(bytes(_FORM.size))
        with shared.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _FORM.size)
        self.environment = {"LD_PRELOAD": str(library), "SOAK_MACHINE": str(shared), "SOAK_DISK": str(disk)}

    def heal(self) -> None:
        """End the clock and disk faults."""
        for place in (_AHEAD, _SYNC, _ERRNO):
            self._set(place, 0)

    def set_clock(self, ahead_s: float) -> None:
        """Shift UTC by this much; monotonic time stays."""
        self._set(_AHEAD, round(ahead_s * 1e9))

    def slow_disk(self, sync_s: float) -> None:
        """Make each fsync of a file on the disk take this long."""
        self._set(_SYNC, round(sync_s * 1000))

    def fail_disk(self, number: int) -> None:
        """Make every write to the disk fail with this errno; reads work."""
        self._set(_ERRNO, number)

    @property
    def shown(self) -> int:
        """Number of syncs delayed and writes refused so far."""
        return int(struct.unpack_from("=q", self._memory, _SHOWN)[0])

    def close(self) -> None:
        """Release the shared memory."""
        self._memory.close()

    def _set(self, place: int, value: int) -> None:
        struct.pack_into("=q", self._memory, place, value)
