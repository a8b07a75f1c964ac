"""The heap of the C library, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(__import__("ctypes").CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)

_THREADS = 8
_ARENAS = f"""
import ctypes, re, sys, threading
from agent.daemon import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
said = heap.bound_arenas()
# Each thread stays inside until all have allocated, so no arena is free for the next one.
meeting = threading.Barrier({_THREADS})
def allocate():
    for _ in range(200):
        libc.malloc(1000)
    meeting.wait()
threads = [threading.Thread(target=allocate) for _ in range({_THREADS})]
for one in threads: one.start()
for one in threads: one.join()
stream = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(stream)); libc.fclose(ctypes.c_void_p(stream))
print(said, len(re.findall("<heap nr=", open(sys.argv[1]).read())))
"""
_TRIM = """
import ctypes
from agent.daemon import heap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
blocks = [libc.malloc(4000) for _ in range(20_000)]
for one in blocks: ctypes.memset(ctypes.c_void_p(one), 1, 4000)
for one in blocks[:-1]: libc.free(ctypes.c_void_p(one))
full = resident()
print(heap.trim(), full - resident())
"""


def _run(code: str, *arguments: str, **environ: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env={**inherited, **environ}, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_threads_share_few_arenas(tmp_path: object) -> None:
    said, count = _run(_ARENAS, f"{tmp_path}/info")
    assert said == "True"
    assert int(count) <= 2


def test_the_environment_goes_before(tmp_path: object) -> None:
    said, count = _run(_ARENAS, f"{tmp_path}/info", MALLOC_ARENA_MAX="5")
    assert said == "False"
    assert 2 < int(count) <= 5


def test_trim_gives_back_what_was_freed_below_a_block_in_use() -> None:
    was_any, given_back = _run(_TRIM)
    assert was_any == "True"
    assert int(given_back) > 50, "of about 76 MiB"
