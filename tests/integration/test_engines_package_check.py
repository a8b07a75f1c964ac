"""A package that is new to this device is read in a child first; what it does to its reader stays there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agent.config.loader import load_config
from agent.reload import load_packages
from engines import ImageRejected, ModelRejected, SandboxFailed, SandboxOptions, read_image
from engines.sandbox.package_check import check_in_sandbox
from tests.fixtures.agent_process import write_config
from tests.fixtures.packages import PackageFiles


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return PackageFiles.of().write(tmp_path)


def _plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An onnx library that does this to each process that imports it; this process already has the real one."""
    planted = tmp_path / "planted" / "onnx"
    planted.mkdir(parents=True)
    (planted / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(planted.parent), str(Path.cwd())]))


_CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"


def test_a_package_that_kills_its_reader_kills_the_child_and_is_remembered_only_once_read(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with monkeypatch.context() as planted:
        _plant(tmp_path, planted, _CRASH)
        with pytest.raises(SandboxFailed, match=r"first reading of trees-1\.0\.0 .*signal 11 \(SIGSEGV\)"):
            check_in_sandbox(package, cache)
        assert not (cache / "checked_packages").exists()
    check_in_sandbox(package, cache)
    (record,) = (cache / "checked_packages").iterdir()
    with monkeypatch.context() as planted:
        shutil.rmtree(tmp_path / "planted")
        _plant(tmp_path, planted, _CRASH)
        check_in_sandbox(package, cache)  # known: no child
        record.chmod(0o666)  # others could have written it
        with pytest.raises(SandboxFailed, match="SIGSEGV"):
            check_in_sandbox(package, cache)


@pytest.mark.parametrize(
    ("planted", "limits", "words"),
    [
        ("ballast = bytearray(1)*(600 << 20)\nimport time\ntime.sleep(60)\n", SandboxOptions(memory_bytes=300 << 20),
         "of memory, but the limit is 300 MiB"),
        ("import time\ntime.sleep(60)\n", SandboxOptions(timeout_s=0.5), "of time, but the limit is 0 s"),
    ],
)  # fmt: skip
def test_a_package_that_takes_too_much_is_ended_and_named(
    planted: str, limits: SandboxOptions, words: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(tmp_path, monkeypatch, planted)
    with pytest.raises(SandboxFailed, match=words) as caught:
        check_in_sandbox(package, tmp_path / "cache", limits)
    assert str(package) in caught.value.message
    assert "check where it comes from" in caught.value.message


def test_a_refusal_of_the_child_is_raised_unchanged(package: Path, tmp_path: Path) -> None:
    (package / "labels.txt").write_text("one\ntwo\n")
    with pytest.raises(ModelRejected, match="labels") as caught:
        check_in_sandbox(package, tmp_path / "cache")
    assert caught.value.exit_code == 78


def test_the_daemon_reads_no_new_package_before_its_child_has(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
    config = write_config(tmp_path, {"models": {"inspect": {"package": str(package)}}, "cameras": {"a": camera}})
    loaded = load_config(config)
    with monkeypatch.context() as planted:
        _plant(tmp_path, planted, _CRASH)
        with pytest.raises(SandboxFailed, match="SIGSEGV"):
            load_packages(loaded)
    assert load_packages(loaded)["inspect"].name == "trees"


@pytest.mark.parametrize("name", ["model.yaml", "model.onnx", "labels.txt"])
def test_a_pipe_in_a_package_is_refused_and_blocks_nobody(name: str, package: Path, tmp_path: Path) -> None:
    (package / name).unlink()
    os.mkfifo(package / name)
    with pytest.raises(ModelRejected, match="not a regular file"):
        check_in_sandbox(package, tmp_path / "cache")


def test_a_pipe_instead_of_an_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "golden.png")
    with pytest.raises(ImageRejected, match=r"golden\.png cannot be read: it is not a regular file"):
        read_image(tmp_path / "golden.png")
