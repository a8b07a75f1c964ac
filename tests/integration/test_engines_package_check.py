"""A package that is new to this device is read in a child first; what it does to its reader stays there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.__main__ import main
from agent.config.loader import load_config
from agent.reload import load_packages
from engines import ImageRejected, ModelRejected, SandboxFailed, SandboxOptions, read_image
from engines.package.load import load_package
from engines.sandbox.package_check import check_in_sandbox, check_model_in_sandbox
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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the commands' own cache."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state/cache"


@pytest.mark.parametrize(
    "command",
    [
        ["verify"],
        ["build"],
        ["benchmark", "--quick", "--engines", "ort-cpu"],
    ],
    ids=lambda command: str(command[0]),
)
def test_a_command_reads_no_new_package_before_its_child_has(
    command: list[str],
    package: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _plant(tmp_path, monkeypatch, _CRASH)
    assert main([*command, "--package", str(package)]) == SandboxFailed.exit_code
    error = capsys.readouterr().err
    assert "first reading of trees-1.0.0" in error
    assert "SIGSEGV" in error
    assert not (cache / "checked_packages").exists()


def test_a_build_of_a_configuration_reads_no_new_package_before_its_child_has(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}
    config = write_config(tmp_path, {"models": {"inspect": {"package": str(package)}}, "cameras": {"a": camera}})
    _plant(tmp_path, monkeypatch, _CRASH)
    assert main(["build", "-c", str(config)]) == SandboxFailed.exit_code
    assert "SIGSEGV" in capsys.readouterr().err


def test_a_package_that_kills_its_reader_is_rejected_in_a_list_of_others(
    package: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "packages"
    shutil.move(package, folder / "good")
    assert main(["model", "list", str(folder)]) == 0
    assert len(list((cache / "checked_packages").iterdir())) == 1
    bad = shutil.copytree(folder / "good", folder / "bad")
    manifest = bad / "model.yaml"
    manifest.write_text(manifest.read_text() + "\n# changed\n")
    capsys.readouterr()
    _plant(tmp_path, monkeypatch, _CRASH)
    assert main(["model", "list", str(folder), "--json"]) == 1
    rows = {Path(row["directory"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert rows["good"]["name"] == "trees"
    assert "SIGSEGV" in rows["bad"]["rejected"]
    assert "check where it comes from" in rows["bad"]["rejected"]


def test_an_import_reads_no_model_before_its_child_has(
    package: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["model", "import", str(package / "model.onnx"), "--labels", str(package / "labels.txt")]
    command += ["--preset", "raw255", "--output", str(tmp_path / "out")]
    with monkeypatch.context() as planted:
        _plant(tmp_path, planted, _CRASH)
        assert main(command) == SandboxFailed.exit_code
    error = capsys.readouterr().err
    assert "first reading of model.onnx" in error
    assert "SIGSEGV" in error
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    assert len(list((cache / "checked_packages").iterdir())) == 1


def test_a_refusal_of_a_model_by_the_child_is_raised_unchanged(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\x08\x07 not a model")
    with pytest.raises(ModelRejected, match="not an ONNX model") as caught:
        check_model_in_sandbox(model, tmp_path / "cache")
    assert caught.value.exit_code == 78
    assert not (tmp_path / "cache").exists()


def test_a_known_package_is_loaded_without_the_library_that_parses_models(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = (
        "import sys; from pathlib import Path; from engines import load_unknown_package;"
        "found = load_unknown_package(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(found.signature, found.facts.last_operator, found.digest, 'onnx' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(package), str(cache)]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout for _ in range(2)
    )
    assert first == second
    assert second.split()[-1] == "False"
    parsed = load_package(package)
    assert second.startswith(f"{parsed.signature} {parsed.facts.last_operator} {parsed.digest} ")


def test_a_model_replaced_behind_a_known_package_is_refused(package: Path, tmp_path: Path) -> None:
    known = check_in_sandbox(package, tmp_path / "cache")
    assert known is not None
    (package / "model.onnx").write_bytes(b"x" + (package / "model.onnx").read_bytes()[1:])
    with pytest.raises(ModelRejected, match="but the manifest states"):
        load_package(package, known=known)
