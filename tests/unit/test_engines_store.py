"""Files are complete or absent, addresses depend on facts, and only intact records are read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import EngineUnavailable
from engines.store.files import (
    cache_errors,
    content_address,
    read_owned_with_checksum,
    read_regular,
    read_with_checksum,
    write_atomic,
    write_with_checksum,
)
from engines.store.owned import EntryDamaged
from engines.store.records import JsonRecord, RecordDamaged, record_path


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder"])
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "retained.json"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/full")
    else:
        path.mkdir()
    with pytest.raises(OSError, match="it is not a regular file") as refused:
        read_regular(path)
    assert refused.value.filename == str(path)
    with pytest.raises(RecordDamaged, match="it is not a regular file"):
        _record(path).read()
    with pytest.raises(OSError, match="it is not a regular file"):
        read_with_checksum(path)


def test_a_file_is_read_up_to_the_size_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_bytes(b"12345")
    assert read_regular(path, max_bytes=5) == b"12345"
    with pytest.raises(ValueError, match="session is larger than 4 bytes"):
        read_regular(path, max_bytes=4)


def _record(path: Path, *, is_owned: bool = False, form: int = 1, **facts: object) -> JsonRecord[int]:
    return JsonRecord(path, encode=int, decode=lambda value: value["count"] if form == 3 else int(value), form=form,
                      facts=facts, is_owned=is_owned)  # fmt: skip


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path, is_durable: bool) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"first, and longer", is_durable=is_durable)
    write_atomic(path, b"second", is_durable=is_durable)
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_private_file_is_for_this_user_and_others_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "private", b"x")
        write_atomic(tmp_path / "shared", b"x", is_private=False)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("private", "shared")]
    assert modes == [0o600, 0o640]


def test_a_link_instead_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    (tmp_path / "file").symlink_to(target)
    write_atomic(tmp_path / "file", b"new")
    assert (target.read_bytes(), (tmp_path / "file").is_symlink()) == (b"untouched", False)


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(EngineUnavailable, match=r"cannot be used: No space left.*free some space"),
        cache_errors(tmp_path),
    ):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "another content": lambda path: path.write_bytes(b"contents"),
    "a shorter content": lambda path: path.write_bytes(b"conten"),
    "no content": lambda path: path.unlink(),
    "another checksum": lambda path: path.with_name("file.sha256").write_text("0" * 64),
    "an empty checksum": lambda path: path.with_name("file.sha256").write_text(""),
    "no checksum": lambda path: path.with_name("file.sha256").unlink(),
}


@pytest.mark.parametrize("damage", _DAMAGE.values(), ids=_DAMAGE)
@pytest.mark.parametrize("read", [read_with_checksum, read_owned_with_checksum])
def test_content_with_a_wrong_checksum_is_not_read(
    tmp_path: Path, read: Callable[[Path], bytes | None], damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "folder" / "file"
    assert read(path) is None
    write_with_checksum(path, b"content")
    assert read(path) == b"content"
    damage(path)
    assert read(path) is None


def test_owned_content_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_with_checksum(path, b"content")
    path.chmod(0o622)
    with pytest.raises(EntryDamaged, match="others may write"):
        read_owned_with_checksum(path)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.integers())))
def test_an_address_depends_on_the_facts_and_not_on_their_order(facts: dict[str, object]) -> None:
    other = dict(reversed(list(facts.items())))
    assert content_address(facts) == content_address(other)
    assert content_address(facts) != content_address({**facts, "": [facts]})
    assert len(content_address(facts, chars=16)) == 16


def test_a_record_is_read_only_with_its_facts(tmp_path: Path) -> None:
    path = record_path(tmp_path / "records", {"a": 1}, prefix="model-")
    assert path.name.startswith("model-")
    assert path != record_path(tmp_path / "records", {"a": 2}, prefix="model-")
    _record(path, a=1, b=(1, 2)).save(7)
    assert _record(path, a=1, b=(1, 2)).load() == 7
    assert _record(path, a=1, b=[1, 2]).load() == 7
    assert _record(path, a=2, b=(1, 2)).load() is None
    assert _record(path, a=1, b=(1, 2), form=2).load() is None


def test_a_missing_record_and_a_damaged_one_raise_different_errors(tmp_path: Path) -> None:
    record = _record(tmp_path / "record.json")
    with pytest.raises(FileNotFoundError):
        record.read()
    record.path.write_bytes(b"\0\0")
    with pytest.raises(RecordDamaged, match=r"record\.json"):
        record.read()
    assert record.load() is None


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"form": 1, "facts": {}}', '{"form": 1, "value": 7}',
                                     '{"form": 1, "facts": {}, "value": "x"}',
                                     '{"form": 1, "facts": {}, "value": null}'])  # fmt: skip
def test_a_file_that_is_no_record_is_damaged(tmp_path: Path, content: str) -> None:
    record = _record(tmp_path / "record.json")
    record.path.write_text(content)
    with pytest.raises(RecordDamaged):
        record.read()


def test_a_record_that_cannot_be_decoded_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"form": 3, "facts": {}, "value": 7}))
    with pytest.raises(RecordDamaged):
        _record(path, form=3).read()


def test_an_owned_record_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "records" / "record.json"
    _record(path).save(7)
    assert _record(path, is_owned=True).load() == 7
    path.chmod(0o666)
    assert _record(path).load() == 7
    assert _record(path, is_owned=True).load() is None
