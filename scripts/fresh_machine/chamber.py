"""Runs a command in a root as if it were a machine of its own: own processes, own mounts, the host's network.

When the namespaces end, also because this process is killed (`unshare --kill-child`), the kernel kills their processes
and drops their mounts. So nothing has to be unmounted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.fresh_machine.host import INSIDE, Carried

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL_BYTES = 4000

# Arguments: a Python and _PIVOT, the root, pairs of a path in it and the file or folder mounted there, `--`, the
# command. The root gets the harmless devices, its own terminals and shared memory, as a container does. pivot_root,
# because the kernel refuses user namespaces in a chroot, and a real machine has them.
_ENTER = """
python=$1 pivot=$2 root=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"; done
while [ "$1" != -- ]; do
  mount --bind "$2" "$root$1"
  mount -o remount,bind,ro "$root$1"
  shift 2
done
shift
cd "$root"
mkdir -p .host
"$python" -c "$pivot"
exec chroot . sh -ec 'umount -l /.host; rmdir /.host; cd /; exec "$@"' sh "$@"
"""

# The program pivot_root is not in the base system of Debian 14. Source of the numbers: asm/unistd_64.h and
# asm-generic/unistd.h.
_PIVOT = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall({"x86_64": 155, "aarch64": 41}[platform.machine()], b".", b".host"):
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "pivot_root")
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code, None where its time was up, and the seconds that it took."""

    code: int | None
    seconds: float


class Chamber:
    """A root at ``root``, prepared to be entered; ``carried`` is what it sees of this machine."""

    def __init__(self, root: Path, carried: Carried) -> None:
        self.root = root
        self._carried = carried
        self._write(INSIDE / "pip.conf", carried.pip_configuration)
        for inside, here in carried.mounts.items():
            if here.is_dir():
                self.place(inside).mkdir(parents=True, exist_ok=True)
            elif not self.place(inside).exists():
                self._write(inside, "")
        # Links to what a service writes would lead nowhere in the root.
        for name in ("/etc/resolv.conf", "/etc/hosts"):
            if Path(name).exists():
                self._write(Path(name), Path(name).read_text(encoding="utf-8"))

    def place(self, inside: Path | str) -> Path:
        """Where on this machine a path of the root lies."""
        return self.root / Path(inside).relative_to("/")

    def run(
        self, command: Sequence[str], *, log: Path, limit_s: float, variables: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run ``command`` as root of the root, its output at the end of ``log``; killed after ``limit_s``."""
        mounts = [str(one) for pair in self._carried.mounts.items() for one in pair]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        arguments = [sys.executable, _PIVOT, str(self.root), *mounts, "--", *command]
        enter = [*namespaces, "sh", "-ec", _ENTER, "sh", *arguments]
        began = time.monotonic()
        with log.open("ab") as output:
            with subprocess.Popen(
                enter,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._usual(), **self._carried.environment, **(variables or {})},
                start_new_session=True,
            ) as process:
                try:
                    code: int | None = process.wait(limit_s)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = None
                except BaseException:
                    process.kill()
                    raise
            if code is None:
                output.write(f"\nfresh-machine: ended after {limit_s:g} s\n".encode())
        return Outcome(code, time.monotonic() - began)

    def check(self, command: Sequence[str], *, log: Path, limit_s: float) -> None:
        """As ``run``, for what has to work.

        Raises:
            ChamberError: it failed; the message ends with what it wrote.
        """
        before = log.stat().st_size if log.exists() else 0
        outcome = self.run(command, log=log, limit_s=limit_s)
        if outcome.code != 0:
            with log.open("rb") as text:
                text.seek(max(before, log.stat().st_size - _TAIL_BYTES))
                tail = text.read().decode("utf-8", "replace")
            raise ChamberError(f"{' '.join(command)[:200]} ended with {outcome.code} in {self.root}:\n{tail}")

    def _usual(self) -> dict[str, str]:
        return {
            "PATH": _PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "DEBIAN_FRONTEND": "noninteractive",
        }

    def _write(self, inside: Path, text: str) -> None:
        file = self.place(inside)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            file.unlink()
        file.write_text(text, encoding="utf-8")
        os.chmod(file, 0o644)  # noqa: PTH101 - follows no link that was just removed


class ChamberError(Exception):
    """A step that prepares a root has failed."""
