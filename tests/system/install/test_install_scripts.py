"""Installing and removing the service: below a staging root and as a dry run, never on the machine of the tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest

from agent.config.loader import load_config
from tests.fixtures.installer import (
    MAIN,
    ROOT,
    install_below,
    jetpack_board,
    run_script,
)

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed; only a systemd machine has it"
)


def test_a_dry_run_explains_every_step_and_changes_nothing(tmp_path: Path) -> None:
    result = run_script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"))
    assert result.returncode == 0, result.stderr
    for step in ("Looking at this machine", "environment", "user agent", "Configuration", "The service", "doctor"):
        assert step in result.stderr
    assert not (tmp_path / "staged").exists()


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_jetpack_is_found_and_its_tensorrt_is_seen_by_the_environment(tmp_path: Path) -> None:
    board = jetpack_board(tmp_path / "board")
    result = run_script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), "--look-in", str(board))
    assert result.returncode == 0, result.stderr
    assert "L4T R36.4.3, JetPack 6.2+b77" in result.stderr
    assert "TensorRT 10.3.0.30" in result.stderr
    assert "gets the system's packages" in result.stderr
    assert "parts: jetson,cpu" in result.stderr


def test_a_staged_installation_is_complete_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    install_below(tmp_path, "--drop-in", "memory")
    unit = tmp_path / "etc/systemd/system/agent.service"
    assert unit.read_bytes() == (ROOT / "systemd/agent.service").read_bytes()
    assert (tmp_path / "etc/systemd/system/agent.service.d/memory.conf").is_file()
    password = tmp_path / "etc/agent/mqtt-password"
    assert (password.stat().st_mode & 0o777, password.read_bytes()) == (0o640, b"")
    assert "agent:" in (tmp_path / "etc/passwd").read_text()
    config = tmp_path / "etc/agent/agent.yaml"
    assert load_config(config, check_files=False).config.cameras

    if os.geteuid() == 0:
        group = next(line for line in (tmp_path / "etc/group").read_text().splitlines() if line.startswith("agent:"))
        assert (password.stat().st_uid, password.stat().st_gid) == (0, int(group.split(":")[2]))
        # An earlier version made it for root alone, and systemd handed a copy to the agent.
        os.chown(password, 0, 0)
    password.chmod(0o600)

    config.write_text(config.read_text() + "# mine\n")
    password.write_text("secret\n")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    second = install_below(tmp_path, "--drop-in", "memory")
    assert "is up to date" in second.stderr
    assert "secret" not in second.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert config.read_text().endswith("# mine\n")
    assert password.read_text() == "secret\n"
    assert password.stat().st_mode & 0o777 == 0o640
    if os.geteuid() == 0:
        assert password.stat().st_gid == int(group.split(":")[2])


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_a_second_installation_at_the_same_time_is_refused_and_names_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "staged/run/agent-install.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as first:
        first.write("4321\n")
        first.flush()
        fcntl.flock(first, fcntl.LOCK_EX)
        result = run_script("install-jetson", "--root", str(tmp_path / "staged"), "--only", "unit")
    assert result.returncode == 1
    assert "another installation is running (process 4321)" in result.stderr
    assert "Wait for it, or end it (kill 4321)" in result.stderr
    assert not (tmp_path / "staged/etc").exists()
    # What a killed one leaves is no obstacle.
    result = run_script("install-jetson", "--root", str(tmp_path / "staged"), "--only", "unit")
    assert result.returncode == 0, result.stderr
    assert not lock.exists()


def test_a_first_configuration_that_is_refused_is_not_kept(tmp_path: Path, installed: Path) -> None:
    root, file = tmp_path / "staged", tmp_path / "given.yaml"
    text = installed.glob("lib/python*/site-packages/agent/__main__.py")
    next(text).write_text(MAIN.format(says="0.1.0", refuses="camers"))
    file.write_text("camers: {}\n")
    arguments = ("--root", str(root), "--only", "user,config", "--config", str(file))
    result = run_script("install-jetson", *arguments)
    assert result.returncode == 1
    assert f"the agent refuses {file}:" in result.stderr
    assert "error: unknown key camers" in result.stderr
    assert "Correct it, or name another with --config, and run this again" in result.stderr
    assert not (root / "etc/agent/agent.yaml").exists()
    file.write_text("cameras: {}\n")
    result = run_script("install-jetson", *arguments)
    assert result.returncode == 0, result.stderr
    # One that was there before stays, whatever the agent says.
    kept = root / "etc/agent/agent.yaml"
    kept.write_text("camers: {}\n")
    result = run_script("install-jetson", *arguments)
    assert result.returncode == 1
    assert f"the agent refuses {kept}:" in result.stderr
    assert kept.read_text() == "camers: {}\n"


def test_a_csi_camera_brings_its_drop_in(tmp_path: Path) -> None:
    install_below(tmp_path, "--config", str(ROOT / "configs/csi-camera.yaml"))
    assert (tmp_path / "etc/systemd/system/agent.service.d/csi.conf").is_file()


def test_a_broker_comes_along_where_the_configuration_wants_one_and_mosquitto_is_not_there(tmp_path: Path) -> None:
    def parts(*arguments: str) -> str:
        result = run_script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), *arguments)
        assert result.returncode == 0, result.stderr
        return result.stderr.partition("parts: ")[2].partition("\n")[0]

    assert parts("--extras", "cpu") == "cpu"
    assert "demo" in parts().split(",")
    assert "demo" not in parts("--config", str(ROOT / "configs/usb-camera.yaml"))
    mosquitto = tmp_path / "staged/usr/sbin/mosquitto"
    mosquitto.parent.mkdir(parents=True)
    mosquitto.touch(mode=0o755)
    assert "demo" not in parts()


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ('serve: {http: "127.0.0.1:8000"}\n', "serve"),
        ("serve:\n  http: 0.0.0.0:8000\n", "serve"),
        ("serve:\n  metrics_file: /var/lib/node_exporter/agent.prom\n", "serve"),
        ("serve: {grpc: 127.0.0.1:8001}\n", "grpc"),
        ("      options: {url: host:8001, protocol: grpc}\n", "grpc"),
        ("    trigger: {gpio: {chip: /dev/gpiochip0, line: 4}}\n", "gpio"),
        ("serve: {http: null}\n# serve: {http: 127.0.0.1:8000}\n", None),
        ("    source: {type: http, url: http://camera.local/snapshot.jpg}\n", None),
    ],
)
def test_the_parts_that_the_configuration_needs_come_along(tmp_path: Path, section: str, part: str | None) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(f"version: 1\nmqtt: {{broker: mqtt://broker}}\n{section}")
    arguments = ("--dry-run", "--root", str(tmp_path / "staged"), "--config", str(file))
    result = run_script("install-jetson", *arguments)
    assert result.returncode == 0, result.stderr
    parts = result.stderr.partition("parts: ")[2].partition("\n")[0].split(",")
    assert parts[1:] == ([] if part is None else [part])
    result = run_script("install-jetson", *arguments, "--extras", "cpu")
    assert "parts: cpu\n" in result.stderr, "a list that is given is the whole list"


def test_a_dry_run_tells_of_the_drop_in_that_a_csi_camera_will_bring(tmp_path: Path) -> None:
    config = tmp_path / "csi.yaml"
    config.write_text((ROOT / "configs/csi-camera.yaml").read_text().replace("type: csi", 'type: "csi"'))
    result = run_script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), "--config", str(config))
    assert result.returncode == 0, result.stderr
    assert "drop-ins/csi.conf" in result.stderr


def test_removing_leaves_configuration_and_state_unless_told(tmp_path: Path) -> None:
    install_below(tmp_path, "--drop-in", "memory")
    (tmp_path / "opt/agent/bin").mkdir(parents=True)
    (tmp_path / "var/lib/agent").mkdir(parents=True)
    # What `systemctl edit agent` makes belongs to whoever made it.
    drop_ins = tmp_path / "etc/systemd/system/agent.service.d"
    (drop_ins / "override.conf").write_text("[Service]\nWatchdogSec=60s\n")
    assert run_script("uninstall", "--root", str(tmp_path)).returncode == 0
    assert [file.name for file in drop_ins.iterdir()] == ["override.conf"]
    assert not (tmp_path / "etc/systemd/system/agent.service").exists()
    assert not (tmp_path / "opt/agent").exists()
    assert (tmp_path / "etc/agent/agent.yaml").exists()
    assert (tmp_path / "var/lib/agent").exists()
    assert run_script("uninstall", "--root", str(tmp_path), "--purge").returncode == 0
    assert not drop_ins.exists()
    assert not (tmp_path / "etc/agent").exists()
    assert not (tmp_path / "var/lib/agent").exists()


def test_an_interpreter_in_a_home_directory_is_named_before_it_is_used(tmp_path: Path) -> None:
    homely = tmp_path / "python"
    homely.write_text(
        f'#!/bin/sh\ncase $2 in *base_prefix*) echo /home/someone/python ;; *) exec {sys.executable} "$@" ;; esac\n'
    )
    homely.chmod(0o755)
    result = run_script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), python=homely)
    assert result.returncode == 0, result.stderr
    assert f"{homely} lies in a home directory, which the service cannot see" in result.stderr


def test_what_is_not_known_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    for arguments in (
        ("--drop-in", "nonsense"),
        ("--nonsense",),
        ("--only", "unit,nonsense"),
        ("--config", "nonsense.yaml"),
        ("--wheels", "nonsense"),
        ("--look-in", "nonsense"),
    ):
        result = run_script("install-jetson", "--root", str(tmp_path / "staged"), *arguments)
        assert result.returncode == 2
        assert "nonsense" in result.stderr.splitlines()[0]
        assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        (
            "install-jetson",
            ("--only", ","),
            "--only needs at least one of environment, user, config, unit, start, doctor",
        ),
        ("install-jetson", ("--only", ""), "--only needs a list of steps after it"),
        ("install-jetson", ("--only", "unit, config"), "--only knows environment, user"),
        ("install-jetson", ("--extras", ",,"), "--extras needs at least one of cpu, gpu"),
        ("install-jetson", ("--config",), "--config needs a file after it"),
        ("install-jetson", ("--root",), "--root needs a directory after it"),
        ("uninstall", ("--root",), "--root needs a directory after it"),
        ("uninstall", ("--root", ""), "--root needs a directory after it"),
        ("test", ("--only", ","), "--only needs at least one of check, pytest, soak, wheel"),
        ("test", ("--with", ","), "--with needs at least one of torch"),
        ("test", ("--with",), "--with needs a list (such as torch,openvino) after it"),
    ],
)
def test_an_option_without_a_value_is_refused_in_one_sentence(
    script: str, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    before = () if "--root" in arguments or script == "test" else ("--root", str(tmp_path / "staged"))
    result = run_script(script, *before, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(words)
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "staged").exists()


def test_a_configuration_for_a_root_without_groups_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = tmp_path / "staged"
    result = run_script("install-jetson", "--root", str(root), "--only", "config")
    assert result.returncode == 69
    assert result.stderr.startswith(f"{root}/etc/group does not exist, so the configuration cannot be given")
    assert "--only user,config" in result.stderr
    assert not root.exists()
