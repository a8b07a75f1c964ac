"""The heap of the C library, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from agent.app import Agent
from agent.daemon import heap
from agent.daemon.control import ControlSocket

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
_IMAGES = """
import ctypes, resource, sys, threading
from agent.daemon import heap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
said = heap.keep_image_memory()
def faults(size, rounds=20):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(rounds):
        blocks = [ctypes.c_void_p(libc.malloc(size)) for _ in range(2)]
        for one in blocks: ctypes.memset(one, 1, size)
        for one in blocks: libc.free(one)
    return (resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before) // rounds
def camera():
    for size in (1280 * 720 * 3, 3840 * 2160 * 3):
        faults(size, 1)
        print(faults(size))
print(said)
if sys.argv[1] == "asked": sys.exit()
camera()
thread = threading.Thread(target=camera)
thread.start(); thread.join()
"""
_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072",
}


def _run(code: str, *arguments: str, **environ: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", *_ENVIRONMENT)}
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


_IS_64_BIT = sys.maxsize > 2**32


@pytest.mark.skipif(not _IS_64_BIT, reason="the threshold is above the largest one of 32 bits")
def test_images_come_from_memory_that_stays() -> None:
    said, *faults = _run(_IMAGES, "kept")
    assert said == "True"
    assert len(faults) == 4, "720p and 4K, in the main thread and in another one"
    assert all(int(count) < 50 for count in faults), "of 1350 pages at 720p"


@pytest.mark.parametrize("name", _ENVIRONMENT)
def test_thresholds_of_the_environment_go_before(name: str) -> None:
    assert _run(_IMAGES, "asked", **{name: _ENVIRONMENT[name]}) == ["False"]


@pytest.mark.parametrize("answers", [None, 0])
def test_a_c_library_without_the_setting_is_left_alone(answers: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refusing(number: int, _: int) -> int:
        asked.append(number)
        return 0

    monkeypatch.setattr(heap, "_of_libc", lambda _: None if answers is None else refusing)
    for name in _ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert not heap.keep_image_memory()
    assert asked == ([] if answers is None else [-3]), "the trim threshold alone would make it worse"


class _Stop(Exception):
    pass


def test_the_agent_asks_for_both_before_it_opens_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Control(ControlSocket):
        def open(self) -> None:
            done.append("open")
            raise _Stop

    monkeypatch.setattr(heap, "bound_arenas", lambda: done.append("arenas"))
    monkeypatch.setattr(heap, "keep_image_memory", lambda: done.append("images"))
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    nothing: Any = None
    with pytest.raises(_Stop):
        Agent(nothing, control=Control(None)).run()
    assert done == ["arenas", "images", "open"]
