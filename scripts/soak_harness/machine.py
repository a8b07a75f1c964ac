"""The disk and the clock of the agent's process, which can be made bad while it runs."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_FORM = struct.Struct("=4q")
_AHEAD, _SYNC, _ERRNO, _SHOWN = (index * 8 for index in range(4))


class Machine:
    """Rules a process that is started with ``environment``, through a library that stands before the C library.

    ``disk`` is the folder whose files can become slow or unwritable. Needs a C compiler.
    """

    def __init__(self, directory: Path, disk: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise SystemExit(
                "the soak makes disk and clock fail through a small C library, and there is no C compiler: "
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
        """A right clock and a good disk again."""
        for place in (_AHEAD, _SYNC, _ERRNO):
            self._set(place, 0)

    def set_clock(self, ahead_s: float) -> None:
        """Let UTC be ahead by this much, behind where negative; monotonic time stays."""
        self._set(_AHEAD, round(ahead_s * 1e9))

    def slow_disk(self, sync_s: float) -> None:
        """Let each fsync of a file on the disk take this long."""
        self._set(_SYNC, round(sync_s * 1000))

    def fail_disk(self, number: int) -> None:
        """Let every change of the disk fail with this errno; what is there can be read."""
        self._set(_ERRNO, number)

    @property
    def shown(self) -> int:
        """How often a sync was held up or a change refused so far."""
        return int(struct.unpack_from("=q", self._memory, _SHOWN)[0])

    def close(self) -> None:
        """Let go of the shared memory."""
        self._memory.close()

    def _set(self, place: int, value: int) -> None:
        struct.pack_into("=q", self._memory, place, value)
