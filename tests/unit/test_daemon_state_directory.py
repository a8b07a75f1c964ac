from __future__ import annotations

import io
import multiprocessing
import os
from pathlib import Path

import pytest

from agent.daemon.state_directory import StateDirectory
from agent.runtime import logs
from agent.runtime.errors import ConfigError, InUse


def _session(path: Path) -> int:
    with StateDirectory(path) as state:
        return state.session


def test_sessions_count_the_starts(tmp_path: Path) -> None:
    assert [_session(tmp_path / "state") for _ in range(3)] == [1, 2, 3]


def test_a_second_agent_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with StateDirectory(tmp_path), pytest.raises(InUse, match=f"process {os.getpid()}") as refused:
        _session(tmp_path)
    assert refused.value.exit_code == 75


def test_a_killed_agent_leaves_the_directory_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_hold_and_die, args=(tmp_path,))
    child.start()
    child.join(30)
    assert child.exitcode == 1
    child.close()
    assert _session(tmp_path) == 2


def _hold_and_die(path: Path) -> None:
    StateDirectory(path).open()
    os._exit(1)


def test_a_torn_session_file_does_not_turn_the_count_back(tmp_path: Path) -> None:
    _session(tmp_path)
    (tmp_path / "session").write_bytes(b"\0\0\0\0")
    assert _session(tmp_path) > 1_000_000_000


def test_files_that_a_killed_agent_was_writing_are_deleted_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / ".new-abc").write_text("half")
    (tmp_path / "outbox").mkdir()
    assert _session(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last-exit", "lock", "outbox", "session"]


def test_a_second_agent_leaves_the_unfinished_files_of_the_first(tmp_path: Path) -> None:
    with StateDirectory(tmp_path):
        (tmp_path / ".new-abc").write_text("half")
        with pytest.raises(InUse):
            _session(tmp_path)
        assert (tmp_path / ".new-abc").exists()


def test_a_directory_that_cannot_be_made_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Make it writable"):
        _session(tmp_path / "file" / "state")


@pytest.mark.parametrize("name", ["lock", "session", "last-exit"])
def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError) as refused:
        _session(tmp_path)
    assert f"{tmp_path / name} must be a regular file and is none. Delete it or move it away" in refused.value.message
    assert refused.value.fields["file"] == str(tmp_path / name)


def test_a_fifo_in_place_of_the_count_is_named_and_one_in_place_of_the_exit_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last-exit")
    assert _session(tmp_path) == 1
    (tmp_path / "session").unlink()
    os.mkfifo(tmp_path / "session")
    with pytest.raises(ConfigError, match=f"{tmp_path / 'session'} must be a regular file"):
        _session(tmp_path)


def test_a_lock_that_is_a_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"{tmp_path / 'lock'}: Too many levels"):
        _session(tmp_path)


def test_the_next_session_learns_how_the_last_one_ended(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as first:
        assert first.previous_exit is None
        first.record_exit("stopped")
    with StateDirectory(tmp_path) as second:
        assert second.previous_exit == "stopped"
    with StateDirectory(tmp_path) as third:
        assert third.previous_exit is not None
        assert "killed" in third.previous_exit


def _with_a_full_disk(path: Path, results: multiprocessing.SimpleQueue[int]) -> None:
    import resource

    logs.configure(stream=io.StringIO())
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    with StateDirectory(path) as state:
        results.put(state.session)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        state.record_exit("stopped")


def test_a_full_disk_is_no_reason_not_to_start_and_the_count_goes_on_from_there(tmp_path: Path) -> None:
    assert _session(tmp_path) == 1
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_with_a_full_disk, args=(tmp_path, results))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    child.close()
    session = results.get()
    results.close()
    assert session > 1_000_000_000
    with StateDirectory(tmp_path) as state:
        assert (state.session, state.previous_exit) == (session + 1, "stopped")
