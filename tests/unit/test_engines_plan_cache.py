"""Plans are native code: only complete ones of this user, built for this device, are read from the cache."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engines import BuildCancelled, EngineUnavailable
from engines.backends.tensorrt.crash_counter import STARTS, CrashCounter
from engines.store.plan_cache import PlanCache, PlanKey

_KEY = PlanKey("tensorrt", "colours-1.0.0", "fp32", {"tensorrt": "10.3.0", "gpu": "Orin", "batch": [1, 1, 4]})
_CONTENT = {"engine.plan": b"a plan" * 100}


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache")


def _plan(cache: PlanCache) -> Path:
    return cache.directory(_KEY) / "engine.plan"


def test_a_stored_plan_is_read_back(cache: PlanCache) -> None:
    assert cache.read(_KEY) is None
    cache.store(_KEY, _CONTENT, {"build_s": 3})
    assert cache.read(_KEY) == _CONTENT
    (entry,) = cache.entries()
    assert (entry.engine, entry.model, entry.precision) == ("tensorrt", "colours-1.0.0", "fp32")
    assert entry.notes == {"build_s": 3}
    assert entry.facts == _KEY.facts


def test_different_facts_are_different_plans(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    other = replace(_KEY, facts={**_KEY.facts, "tensorrt": "10.7.0"})
    assert cache.read(other) is None
    assert cache.why_not_another(other) == (
        f"plan {_KEY.name} does not fit: it was built for tensorrt 10.3.0, but this device has 10.7.0"
    )


def _flip_a_bit(cache: PlanCache) -> None:
    data = bytearray(_plan(cache).read_bytes())
    data[17] ^= 4
    _plan(cache).write_bytes(data)


def _link_the_plan(cache: PlanCache) -> None:
    elsewhere = cache.root.parent / "elsewhere"
    elsewhere.write_bytes(_plan(cache).read_bytes())
    _plan(cache).unlink()
    _plan(cache).symlink_to(elsewhere)


def _change_a_fact(cache: PlanCache) -> None:
    path = cache.directory(_KEY) / "entry.json"
    record = json.loads(path.read_text())
    record["facts"]["gpu"] = "Thor"
    path.write_text(json.dumps(record))


def _put_a_pipe(cache: PlanCache) -> None:
    _plan(cache).unlink()
    os.mkfifo(_plan(cache), 0o600)


def _link_the_folder(cache: PlanCache) -> None:
    target = cache.root.parent / "moved"
    cache.directory(_KEY).rename(target)
    cache.directory(_KEY).symlink_to(target)


_DAMAGES: dict[str, tuple[Callable[[PlanCache], object], str]] = {
    "flipped bit": (_flip_a_bit, "sha256"),
    "truncated": (lambda cache: _plan(cache).write_bytes(b"a plan"), "6 bytes"),
    "link to another file": (_link_the_plan, "engine.plan"),
    "linked folder": (_link_the_folder, "no folder of ours"),
    "writable by others": (lambda cache: _plan(cache).chmod(0o666), "mode 666: others may write it"),
    "folder writable by others": (lambda cache: cache.directory(_KEY).chmod(0o777), "others may write it"),
    "stray file": (lambda cache: (cache.directory(_KEY) / "extra").write_bytes(b"x"), "other files"),
    "missing plan": (lambda cache: _plan(cache).unlink(), "other files"),
    "record that is no JSON": (lambda cache: (cache.directory(_KEY) / "entry.json").write_text("{"), "not JSON"),
    "record of another form": (
        lambda cache: (cache.directory(_KEY) / "entry.json").write_text("[]"),
        "not in this program's format",
    ),
    "record of another board": (_change_a_fact, "built for gpu Thor, but this device has Orin"),
    "pipe in place of the plan": (_put_a_pipe, "no plain file"),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_an_untrusted_entry_is_quarantined_with_its_reason(damage: str, cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    harm, words = _DAMAGES[damage]
    harm(cache)
    assert cache.read(_KEY) is None
    assert not cache.directory(_KEY).exists()
    assert words in str(cache.why_quarantined(_KEY))
    cache.store(_KEY, _CONTENT, {})
    assert cache.read(_KEY) == _CONTENT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_plan_of_another_user_is_not_read(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    os.chown(_plan(cache), 12345, -1)
    assert cache.read(_KEY) is None
    assert "belongs to user 12345" in str(cache.why_quarantined(_KEY))


def test_an_unfinished_entry_counts_as_absent(cache: PlanCache) -> None:
    folder = cache.begin(_KEY)
    (folder / "engine.plan").write_bytes(b"half of")
    assert cache.read(_KEY) is None
    assert cache.entries() == []
    assert cache.why_quarantined(_KEY) is None
    cache.store(_KEY, _CONTENT, {})
    assert cache.read(_KEY) == _CONTENT


def test_a_library_may_write_its_files_itself(cache: PlanCache) -> None:
    folder = cache.begin(_KEY)
    (folder / "plans").mkdir()
    (folder / "plans" / "one.engine").write_bytes(b"1")
    (folder / "context.onnx").write_bytes(b"2")
    cache.seal(_KEY, {})
    assert cache.read(_KEY) == {"context.onnx": b"2", "plans/one.engine": b"1"}


def test_the_least_recently_used_plan_is_deleted_first(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path, max_bytes=25_000)
    keys = [replace(_KEY, model=f"m-{index}") for index in range(3)]
    for index, key in enumerate(keys[:2]):
        cache.store(key, {"engine.plan": bytes(10_000)}, {})
        os.utime(cache.directory(key) / "entry.json", (1000 + index, 1000 + index))
    cache.read(keys[0])
    cache.store(keys[2], {"engine.plan": bytes(10_000)}, {})
    assert {entry.model for entry in cache.entries()} == {"m-0", "m-2"}


def test_the_newest_plan_is_kept_even_if_larger_than_the_cache(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path, max_bytes=10)
    cache.store(_KEY, _CONTENT, {})
    assert cache.read(_KEY) == _CONTENT
    assert [entry.name for entry in cache.prune()] == [_KEY.name]


def test_only_the_newest_few_stay_in_quarantine(cache: PlanCache) -> None:
    for _ in range(7):
        cache.store(_KEY, _CONTENT, {})
        _flip_a_bit(cache)
        cache.read(_KEY)
    quarantine = cache.root.parent / "quarantine"
    assert len(list(quarantine.glob("*.txt"))) == 4
    assert len([path for path in quarantine.iterdir() if path.is_dir()]) == 4


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = PlanCache(tmp_path / "cache")
    with pytest.raises(EngineUnavailable, match="cannot be used"):
        cache.store(_KEY, _CONTENT, {})


def test_one_builds_while_the_other_waits(cache: PlanCache) -> None:
    order: list[str] = []
    inside, waiting = threading.Event(), threading.Event()

    def second() -> None:
        with cache.locked(_KEY, is_cancelled=lambda: False, on_wait=waiting.set):
            order.append("second")

    with cache.locked(_KEY, is_cancelled=lambda: False, on_wait=inside.set):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert not inside.is_set()


def test_waiting_for_another_build_can_be_cancelled(cache: PlanCache) -> None:
    with (
        cache.locked(_KEY, is_cancelled=lambda: False, on_wait=lambda: None),
        pytest.raises(BuildCancelled),
        cache.locked(_KEY, is_cancelled=lambda: True, on_wait=lambda: None),
    ):
        pytest.fail("two hold the same lock")


def test_an_entry_that_another_process_is_writing_is_left_alone(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    with cache.locked(_KEY, is_cancelled=lambda: False, on_wait=lambda: None):
        _plan(cache).write_bytes(b"half of a new plan")
        assert PlanCache(cache.root.parent).read(_KEY) is None
        assert _plan(cache).read_bytes() == b"half of a new plan"
        cache.store(_KEY, _CONTENT, {})
    assert cache.read(_KEY) == _CONTENT
    assert cache.why_quarantined(_KEY) is None


def test_a_locked_entry_is_not_pruned(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    with cache.locked(_KEY, is_cancelled=lambda: False, on_wait=lambda: None):
        assert PlanCache(cache.root.parent).prune(max_bytes=0) == []
        assert cache.is_complete(_KEY)
    assert [entry.name for entry in cache.prune(max_bytes=0)] == [_KEY.name]
    assert list(cache.root.iterdir()) == []


def test_a_lock_whose_file_was_deleted_meanwhile_is_acquired_again(cache: PlanCache) -> None:
    """Otherwise the waiter would hold a deleted file, and a third process could build at the same time."""
    cache.store(_KEY, _CONTENT, {})
    path = cache.root / f"{_KEY.name}.lock"
    held = contextlib.ExitStack()
    held.enter_context(cache.locked(_KEY, is_cancelled=lambda: False, on_wait=lambda: None))

    def let_go() -> None:
        path.unlink(missing_ok=True)
        held.close()

    with (
        cache.locked(_KEY, is_cancelled=lambda: False, on_wait=let_go),
        pytest.raises(BuildCancelled),
        cache.locked(_KEY, is_cancelled=lambda: True, on_wait=lambda: None),
    ):
        pytest.fail("two hold the same lock")


def test_a_world_writable_plan_folder_is_closed_before_it_is_used(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    cache.root.chmod(0o777)
    with cache.locked(_KEY, is_cancelled=lambda: False, on_wait=lambda: None):
        assert cache.root.stat().st_mode & 0o777 == 0o755


_WRITER = """
import os, sys
from pathlib import Path
from engines.store import files, plan_cache
from engines.store.plan_cache import PlanCache, PlanKey
key = PlanKey("tensorrt", "colours-1.0.0", "fp32", {"tensorrt": "10.3.0", "gpu": "Orin", "batch": [1, 1, 4]})
with PlanCache(Path(sys.argv[1])).locked(key, is_cancelled=lambda: False, on_wait=lambda: None):
    folder = PlanCache(Path(sys.argv[1])).begin(key)
    with open(folder / ".new-half", "wb") as stream:
        stream.write(b"half a plan")
        stream.flush()
        (folder / "engine.plan").write_bytes(b"another half")
        print("writing", flush=True)
        sys.stdin.read()
"""


def test_a_kill_during_a_write_leaves_no_readable_entry(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.send_signal(signal.SIGKILL)
    assert cache.read(_KEY) is None
    with cache.locked(_KEY, is_cancelled=lambda: False, on_wait=lambda: pytest.fail("the lock outlived its holder")):
        cache.store(_KEY, _CONTENT, {})
    assert cache.read(_KEY) == _CONTENT
    assert sorted(path.name for path in cache.directory(_KEY).iterdir()) == ["engine.plan", "entry.json"]


def test_a_plan_that_crashes_three_starts_is_not_loaded_again(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    for _ in range(STARTS):
        CrashCounter(cache.crash_marker(_KEY)).begin(engine="tensorrt")  # and the process is gone
    with pytest.raises(
        EngineUnavailable, match=r"ended this program 3 times within 60 s .*kill -9.*agent build --force"
    ):
        CrashCounter(cache.crash_marker(_KEY)).begin(engine="tensorrt")
    cache.store(_KEY, _CONTENT, {})
    CrashCounter(cache.crash_marker(_KEY)).begin(engine="tensorrt")


def test_starts_that_end_orderly_do_not_count(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    for _ in range(STARTS + 2):
        trial = CrashCounter(cache.crash_marker(_KEY))
        trial.begin(engine="tensorrt")
        assert not trial.note_success(), "proven at once"
        trial.end_well()
    assert CrashCounter(cache.crash_marker(_KEY)).starts == 0


def test_an_orderly_end_does_not_undo_another_process_s_success(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    trial = CrashCounter(cache.crash_marker(_KEY))
    trial.begin(engine="tensorrt")
    cache.crash_marker(_KEY).write_text(json.dumps({"form": 1, "facts": {}, "value": None}))
    trial.end_well()
    assert CrashCounter(cache.crash_marker(_KEY)).starts is None


def test_a_damaged_crash_marker_counts_as_one_crash(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    cache.crash_marker(_KEY).write_bytes(b"\0\0\0")
    assert CrashCounter(cache.crash_marker(_KEY)).starts == 1


def test_a_plan_that_has_run_well_is_no_longer_counted(cache: PlanCache) -> None:
    cache.store(_KEY, _CONTENT, {})
    cache.crash_marker(_KEY).write_text(json.dumps({"form": 1, "facts": {}, "value": None}))
    for _ in range(STARTS + 1):
        trial = CrashCounter(cache.crash_marker(_KEY))
        trial.begin(engine="tensorrt")
        assert trial.note_success()


def test_a_plan_serves_from_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("a file where the folder should be")
    trial = CrashCounter(tmp_path / "plans" / "x.crashes")
    trial.begin(engine="tensorrt")
    assert trial.note_success()
    trial.end_well()
