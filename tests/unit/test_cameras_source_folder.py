"""A watched folder takes each whole image once, and one rewritten image is a frame for each content."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydantic
import pytest
import structlog

from agent.cameras.sources.images.folder import WatchedFolder, pause_s
from agent.cameras.sources.images.rewritten_image import RewrittenImage
from agent.cameras.sources.images.seen_files import FileVersion, SeenFiles
from agent.config.sections.sources import FolderSource, ImageSource
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable

_HOUR_S = 3600.0


def _write(path: Path, level: int, *, age_s: float = _HOUR_S) -> Path:
    assert cv2.imwrite(str(path), np.full((6, 8, 3), level, np.uint8))
    written_s = time.time() - age_s
    os.utime(path, (written_s, written_s))
    return path


def _folder(directory: Path, *, state_dir: Path | None = None, **settings: Any) -> WatchedFolder:
    (directory / "inbox").mkdir(exist_ok=True)
    config = FolderSource(type="folder", path="inbox", poll_s=0.01, **settings)
    return WatchedFolder(config, base_dir=directory, clock=SystemClock(), state_dir=state_dir, idle_s=0.05)


def _levels(source: WatchedFolder | RewrittenImage, count: int) -> list[int]:
    captures = [source.read() for _ in range(count)]
    return [-1 if capture is None else int(capture.image[0, 0, 0]) for capture in captures]


def test_an_empty_folder_waits_and_takes_what_comes(tmp_path: Path) -> None:
    with closing(_folder(tmp_path)) as source:
        source.open()
        assert _levels(source, 2) == [-1, -1]
        _write(tmp_path / "inbox" / "a.png", 7)
        assert _levels(source, 3) == [7, -1, -1]


@pytest.mark.parametrize(("looked_s", "pause"), [(0.0, 0.5), (0.01, 0.5), (0.1, 2.0), (30.0, 10.0)])
def test_a_folder_that_takes_long_to_list_is_listed_less_often(looked_s: float, pause: float) -> None:
    assert pause_s(0.5, looked_s) == pause


@pytest.mark.parametrize(("order", "expected"), [("arrival", [1, 2, 3]), ("name", [2, 3, 1])])
def test_waiting_images_come_in_the_configured_order(tmp_path: Path, order: str, expected: list[int]) -> None:
    with closing(_folder(tmp_path, order=order)) as source:
        for name, level, age_s in (("c.png", 1, 300.0), ("a.png", 2, 200.0), ("b.png", 3, 100.0)):
            _write(tmp_path / "inbox" / name, level, age_s=age_s)
        source.open()
        assert _levels(source, 3) == expected


def test_a_frame_names_its_file_and_the_hash_of_its_bytes(tmp_path: Path) -> None:
    with closing(_folder(tmp_path)) as source:
        path = _write(tmp_path / "inbox" / "part 17.png", 7)
        source.open()
        capture = source.read()
    assert capture is not None
    assert capture.origin is not None
    assert capture.origin.file == "part 17.png"
    assert capture.origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("has_state", [True, False])
def test_an_image_is_taken_once_also_after_a_restart(tmp_path: Path, has_state: bool) -> None:
    state_dir = tmp_path / "state" if has_state else None
    inbox = tmp_path / "inbox"
    with closing(_folder(tmp_path, state_dir=state_dir)) as source:
        _write(inbox / "a.png", 1)
        source.open()
        assert _levels(source, 2) == [1, -1]
        source.close()
        source.open()
        assert _levels(source, 1) == [-1], "a new connection forgets nothing"
    with closing(_folder(tmp_path, state_dir=state_dir)) as source:
        _write(inbox / "b.png", 2, age_s=60.0)
        source.open()
        assert _levels(source, 2) == ([2, -1] if has_state else [1, 2])


def test_a_file_with_new_content_is_another_image(tmp_path: Path) -> None:
    with closing(_folder(tmp_path, state_dir=tmp_path / "state")) as source:
        _write(tmp_path / "inbox" / "a.png", 1)
        source.open()
        assert _levels(source, 1) == [1]
        _write(tmp_path / "inbox" / "a.png", 2, age_s=60.0)
        assert _levels(source, 2) == [2, -1]


def test_the_record_forgets_files_that_are_gone_while_others_stay(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    _write(tmp_path / "inbox" / "stays.png", 9, age_s=2 * _HOUR_S)
    for number in range(3):
        with closing(_folder(tmp_path, state_dir=tmp_path / "state")) as source:
            path = _write(tmp_path / "inbox" / f"{number}.png", number)
            source.open()
            assert _levels(source, 2) == ([9, 0] if number == 0 else [number, -1])
            path.unlink()
    (record,) = (tmp_path / "state" / "folders").iterdir()
    assert len(record.read_text().splitlines()) == 2


def test_an_empty_mount_point_does_not_make_the_images_of_its_drive_new(tmp_path: Path) -> None:
    inbox, away, state_dir = tmp_path / "inbox", tmp_path / "away", tmp_path / "state"
    inbox.mkdir()
    _write(inbox / "a.png", 1)
    with closing(_folder(tmp_path, state_dir=state_dir)) as source:
        source.open()
        assert _levels(source, 1) == [1]
        inbox.rename(away)
        inbox.mkdir()
        assert _levels(source, 1) == [-1]
    with closing(_folder(tmp_path, state_dir=state_dir)) as source:
        source.open()  # without the drive
        assert _levels(source, 1) == [-1]
    inbox.rmdir()
    away.rename(inbox)
    with closing(_folder(tmp_path, state_dir=state_dir)) as source:
        source.open()
        assert _levels(source, 1) == [-1], "taken before"


def test_an_image_whose_inode_alone_is_another_is_not_new(tmp_path: Path) -> None:
    path = tmp_path / "inbox" / "a.bmp"
    with closing(_folder(tmp_path, state_dir=tmp_path / "state")) as source:
        _write(path, 1)
        source.open()
        assert _levels(source, 1) == [1]
        status = path.stat()
        for level, expected in ((1, -1), (2, 2), (2, -1)):  # as many bytes, and the same time
            _write(tmp_path / "copy.bmp", level)
            os.utime(tmp_path / "copy.bmp", ns=(status.st_mtime_ns, status.st_mtime_ns))
            (tmp_path / "copy.bmp").rename(path)
            assert _levels(source, 1) == [expected]


def test_what_a_crash_left_unfinished_of_the_record_is_left_out(tmp_path: Path) -> None:
    with closing(_folder(tmp_path, state_dir=tmp_path / "state")) as source:
        _write(tmp_path / "inbox" / "a.png", 1)
        source.open()
        assert _levels(source, 1) == [1]
    (record,) = (tmp_path / "state" / "folders").iterdir()
    with record.open("ab") as stream:
        stream.write(b"\xff no line\n17 12 00")
    with closing(_folder(tmp_path, state_dir=tmp_path / "state")) as source:
        source.open()
        assert _levels(source, 1) == [-1]
        _write(tmp_path / "inbox" / "b.png", 2)
        assert _levels(source, 2) == [2, -1]
    assert len(record.read_text(encoding="ascii").splitlines()) == 2


def test_a_folder_whose_images_others_remove_does_not_fill_the_memory() -> None:
    seen = SeenFiles(None)
    newest = FileVersion(60_000, 1, 1, "60000")
    for number in range(60_001):
        seen.add(FileVersion(number, 1, 1, str(number)))
    assert FileVersion(0, 1, 1, "0") in seen
    seen.prune(())
    assert newest in seen
    assert FileVersion(0, 1, 1, "0") not in seen
    seen.prune(())
    assert newest in seen


def test_existing_images_are_skipped_on_request_but_only_the_first_time(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    with closing(_folder(tmp_path, state_dir=tmp_path / "state", existing="skip")) as source:
        _write(inbox / "old.png", 1)
        source.open()
        assert _levels(source, 1) == [-1]
    _write(inbox / "while-away.png", 2)
    with closing(_folder(tmp_path, state_dir=tmp_path / "state", existing="skip")) as source:
        source.open()
        assert _levels(source, 2) == [2, -1]


def test_a_file_that_is_being_written_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    with closing(_folder(tmp_path, settle_s=0.3)) as source:
        whole = _write(tmp_path / "a.png", 9).read_bytes()
        target = tmp_path / "inbox" / "a.png"
        source.open()
        for end in range(10, len(whole), 20):
            target.write_bytes(whole[:end])
            assert _levels(source, 1) == [-1]
        target.write_bytes(whole)
        deadline = time.monotonic() + 20.0
        while (level := _levels(source, 1)[0]) < 0 and time.monotonic() < deadline:
            pass
        assert level == 9
        assert source.statistics().skipped == 0


def test_a_damaged_file_is_skipped_counted_and_named_once(tmp_path: Path) -> None:
    with closing(_folder(tmp_path)) as source, structlog.testing.capture_logs() as logs:
        (tmp_path / "inbox" / "bad.png").write_bytes(b"no image")
        os.utime(tmp_path / "inbox" / "bad.png", (1, 1))
        _write(tmp_path / "inbox" / "good.png", 5)
        source.open()
        assert _levels(source, 3) == [5, -1, -1]
        assert source.statistics().skipped_by_reason == {"unreadable_image": 1}
    assert [line["path"].endswith("bad.png") for line in logs if line["event"] == "image.skipped"] == [True]


def _links_without_end(inbox: Path) -> None:
    for name, target in (("loop.png", "loop.png"), ("there.png", "back.png"), ("back.png", "there.png")):
        (inbox / name).symlink_to(target)


@pytest.mark.parametrize("after", ["keep", "delete"])
def test_links_without_end_are_skipped_and_counted_once(tmp_path: Path, after: str) -> None:
    with closing(_folder(tmp_path, after=after)) as source, structlog.testing.capture_logs() as logs:
        _links_without_end(tmp_path / "inbox")
        (tmp_path / "inbox" / "nowhere.png").symlink_to("absent")
        (tmp_path / "inbox" / "folder.png").mkdir()
        os.mkfifo(tmp_path / "inbox" / "pipe.png")
        _write(tmp_path / "inbox" / "good.png", 5)
        source.open()
        assert _levels(source, 3) == [5, -1, -1]
        assert source.statistics().skipped_by_reason == {"unreadable_image": 3}
        (tmp_path / "inbox" / "loop.png").unlink()
        _write(tmp_path / "inbox" / "loop.png", 6)
        assert _levels(source, 2) == [6, -1]
    skipped = [Path(line["path"]).name for line in logs if line["event"] == "image.skipped"]
    assert sorted(skipped) == ["back.png", "loop.png", "there.png"]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(116, "Stale file handle")])
def test_an_image_that_cannot_be_looked_at_does_not_stop_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    looked_at = Path.stat

    def stat(path: Path, **settings: bool) -> os.stat_result:
        if path.name == "bad.png":
            raise error
        return looked_at(path, **settings)

    with closing(_folder(tmp_path)) as source:
        _write(tmp_path / "inbox" / "bad.png", 4)
        _write(tmp_path / "inbox" / "good.png", 5)
        source.open()
        monkeypatch.setattr(Path, "stat", stat)
        assert sorted(_levels(source, 2)) == [-1, 5]
        assert source.statistics().skipped_by_reason == {"unreadable_image": 1}


def test_a_read_image_is_deleted_on_request(tmp_path: Path) -> None:
    with closing(_folder(tmp_path, after="delete")) as source:
        path = _write(tmp_path / "inbox" / "a.png", 1)
        source.open()
        assert _levels(source, 2) == [1, -1]
        assert not path.exists()


def test_a_read_image_is_moved_and_replaces_none(tmp_path: Path) -> None:
    with closing(_folder(tmp_path, after="move", move_to="done")) as source:
        source.open()
        for level in (1, 2):
            _write(tmp_path / "inbox" / "a.png", level)
            assert _levels(source, 1) == [level]
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["a-1.png", "a.png"]


def test_a_move_replaces_no_link_and_no_file_of_another_camera(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "a.png").symlink_to("absent")
    with closing(_folder(tmp_path, after="move", move_to="done")) as source:
        source.open()
        _write(tmp_path / "inbox" / "a.png", 1)
        assert _levels(source, 1) == [1]
    assert (tmp_path / "done" / "a.png").is_symlink()
    assert (tmp_path / "done" / "a-1.png").stat().st_size > 0


def _other_file_system(_path: Path, _target: Path) -> Path:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_a_move_to_another_file_system_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(_folder(tmp_path, after="move", move_to="done")) as source:
        source.open()
        monkeypatch.setattr(Path, "replace", _other_file_system)
        _write(tmp_path / "inbox" / "a.png", 1)
        image = (tmp_path / "inbox" / "a.png").read_bytes()
        assert _levels(source, 1) == [1]
    assert (tmp_path / "done" / "a.png").read_bytes() == image
    assert list((tmp_path / "inbox").iterdir()) == []


def test_a_file_that_cannot_be_removed_leaves_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inbox").mkdir()
    _write(tmp_path / "inbox" / "a.png", 1)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "inbox":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", _other_file_system)
    monkeypatch.setattr(Path, "unlink", refuse)
    for _ in range(3):
        with closing(_folder(tmp_path, after="move", move_to="done", existing="process")) as source:
            source.open()
            with pytest.raises(SourceLost, match="Operation not permitted"):
                source.read()
    assert list((tmp_path / "done").iterdir()) == []


@pytest.mark.parametrize("move_to", ["inbox", "inbox/.", "inbox/../inbox", "link"])
def test_a_move_into_the_watched_folder_is_refused_before_an_image_is_read(tmp_path: Path, move_to: str) -> None:
    (tmp_path / "link").symlink_to("inbox")
    with closing(_folder(tmp_path, after="move", move_to=move_to)) as source:
        _write(tmp_path / "inbox" / "a.png", 1)
        with pytest.raises(SourceUnavailable, match=r"is .*/inbox, which is the watched folder") as caught:
            source.open()
    assert caught.value.fields["reason"] == "move_to"
    assert [one.name for one in (tmp_path / "inbox").iterdir()] == ["a.png"]


def test_a_move_to_a_folder_in_the_watched_one_takes_each_image_once(tmp_path: Path) -> None:
    with closing(_folder(tmp_path, after="move", move_to="inbox/done")) as source:
        _write(tmp_path / "inbox" / "a.png", 1)
        source.open()
        assert _levels(source, 3) == [1, -1, -1]
    assert [one.name for one in (tmp_path / "inbox" / "done").iterdir()] == ["a.png"]


def test_a_folder_that_vanishes_is_lost_and_comes_back(tmp_path: Path) -> None:
    with closing(_folder(tmp_path)) as source:
        source.open()
        (tmp_path / "inbox").rmdir()
        with pytest.raises(SourceLost, match="No such file") as caught:
            source.read()
        assert caught.value.fields["reason"] == "missing"
        source.close()
        with pytest.raises(SourceUnavailable, match="Create it"):
            source.open()
        (tmp_path / "inbox").mkdir()
        _write(tmp_path / "inbox" / "a.png", 3)
        source.open()
        assert _levels(source, 1) == [3]


@pytest.mark.parametrize("settings", [{"after": "move"}, {"move_to": "done"}, {"after": "delete", "move_to": "x"}])
def test_a_target_without_a_move_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(pydantic.ValidationError, match="belong together"):
        FolderSource.model_validate({"type": "folder", "path": "inbox", **settings})


def _image(directory: Path, **settings: Any) -> RewrittenImage:
    config = ImageSource(type="image", path="latest.png", poll_s=0.01, **settings)
    return RewrittenImage(config, base_dir=directory, clock=SystemClock())


def test_each_new_content_of_an_image_is_one_frame(tmp_path: Path) -> None:
    with closing(_image(tmp_path, read_timeout_s=0.2)) as source:
        path = _write(tmp_path / "latest.png", 1)
        source.open()
        assert _levels(source, 1) == [1]
        _write(path, 2)
        assert _levels(source, 1) == [2]
        os.utime(path, (1, 1))
        with pytest.raises(SourceLost, match=r"has not changed for 0\.2 s") as caught:
            source.read()
    assert caught.value.fields["reason"] == "stalled"


def test_a_half_written_image_is_read_when_it_is_whole(tmp_path: Path) -> None:
    whole = _write(tmp_path / "other.png", 4).read_bytes()
    (tmp_path / "latest.png").write_bytes(whole[:30])
    timer = threading.Timer(0.2, (tmp_path / "latest.png").write_bytes, (whole,))
    with closing(_image(tmp_path, settle_s=20.0)) as source:
        source.open()
        timer.start()
        assert _levels(source, 1) == [4]
        timer.join()
        assert source.statistics().skipped == 0


def test_an_image_that_stays_damaged_is_lost_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "latest.png").write_bytes(b"no image")
    with closing(_image(tmp_path, settle_s=0.1)) as source:
        source.open()
        with pytest.raises(SourceLost, match="is no whole image") as caught:
            source.read()
        assert source.statistics().skipped_by_reason == {"unreadable_image": 1}
    assert caught.value.fields["reason"] == "damaged"


@pytest.mark.parametrize(("make", "what"), [(os.mkdir, "a folder"), (os.mkfifo, "a pipe")])
def test_what_is_no_file_is_refused_as_an_image(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    make(tmp_path / "latest.png")
    with pytest.raises(SourceUnavailable, match=rf"latest\.png must be an image file, but it is {what}") as caught:
        _image(tmp_path).open()
    assert caught.value.fields["reason"] == "no_file"
    assert "Correct `path`" in caught.value.message


def test_an_absent_image_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"there is no image .*latest\.png"):
        _image(tmp_path).open()


def test_an_absent_folder_or_image_is_there_once_it_exists(tmp_path: Path) -> None:
    folder, image = _folder(tmp_path), _image(tmp_path)
    (tmp_path / "inbox").rmdir()
    assert (folder.is_there(), image.is_there()) == (False, False)
    (tmp_path / "inbox").mkdir()
    _write(tmp_path / "latest.png", 1)
    assert (folder.is_there(), image.is_there()) == (True, True)
