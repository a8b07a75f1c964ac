"""Installing and removing the service: below a staging root and as a dry run, never on the machine of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agent.config.loader import load_config

_ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed; only a systemd machine has it"
)


def _script(name: str, *arguments: str, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(_ROOT / "scripts" / name), *arguments]
    env = {**os.environ, "PYTHON": str(python or sys.executable)}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=env)


def _staged(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    only = "user,config,unit,start,doctor"
    result = _script("install-jetson", "--root", str(root), "--only", only, *arguments)
    assert result.returncode == 0, result.stderr
    return result


def _jetpack(directory: Path) -> Path:
    """What JetPack 6.2 leaves on a board, as far as it is looked at."""
    (directory / "etc").mkdir(parents=True)
    (directory / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    packages = {"nvidia-jetpack": "6.2+b77", "python3-libnvinfer": "10.3.0.30-1+cuda12.5"}
    (directory / "var/lib/dpkg").mkdir(parents=True)
    (directory / "var/lib/dpkg/status").write_text(
        "\n".join(
            f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: arm64\n"
            "Maintainer: nobody\nDescription: made for a test\n"
            for name, version in packages.items()
        )
    )
    return directory


def test_a_dry_run_explains_every_step_and_changes_nothing(tmp_path: Path) -> None:
    result = _script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"))
    assert result.returncode == 0, result.stderr
    for step in ("Looking at this machine", "environment", "user agent", "Configuration", "The service", "doctor"):
        assert step in result.stderr
    assert not (tmp_path / "staged").exists()


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_jetpack_is_found_and_its_tensorrt_is_seen_by_the_environment(tmp_path: Path) -> None:
    board = _jetpack(tmp_path / "board")
    result = _script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), "--look-in", str(board))
    assert result.returncode == 0, result.stderr
    assert "L4T R36.4.3, JetPack 6.2+b77" in result.stderr
    assert "TensorRT 10.3.0.30" in result.stderr
    assert "gets the system's packages" in result.stderr
    assert "parts: jetson,cpu" in result.stderr


def test_a_staged_installation_is_complete_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    _staged(tmp_path, "--drop-in", "memory")
    unit = tmp_path / "etc/systemd/system/agent.service"
    assert unit.read_bytes() == (_ROOT / "systemd/agent.service").read_bytes()
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
    second = _staged(tmp_path, "--drop-in", "memory")
    assert "is up to date" in second.stderr
    assert "secret" not in second.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert config.read_text().endswith("# mine\n")
    assert password.read_text() == "secret\n"
    assert password.stat().st_mode & 0o777 == 0o640
    if os.geteuid() == 0:
        assert password.stat().st_gid == int(group.split(":")[2])


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with pip alone in it, to copy from: making one takes seconds."""
    folder = tmp_path_factory.mktemp("bare") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=100)
    return folder


@pytest.fixture
def environment(bare_environment: Path, tmp_path: Path) -> Path:
    """The agent's environment below the staging root, before the agent is in it."""
    return Path(shutil.copytree(bare_environment, tmp_path / "staged/opt/agent", symlinks=True))


def _wheel(folder: Path, text: str) -> Path:
    """A folder with a wheel of the agent that holds TEXT; its version is always the same."""
    folder.mkdir()
    info = "edge_inference_agent-0.1.0.dist-info"
    with zipfile.ZipFile(folder / "edge_inference_agent-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("agent/said.py", text)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: edge-inference-agent\nVersion: 0.1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return folder


def test_wheels_of_the_same_version_replace_what_is_installed(tmp_path: Path, environment: Path) -> None:
    root = tmp_path / "staged"
    for name in ("first wheels", "second wheels"):
        wheels = _wheel(tmp_path / name, name)
        result = _script("install-jetson", "--root", str(root), "--only", "environment", "--wheels", str(wheels))
        assert result.returncode == 0, result.stderr
        assert [file.read_text() for file in environment.glob("lib/python*/site-packages/agent/said.py")] == [name]


def test_an_environment_that_broke_off_is_made_anew_and_put_back_where_that_fails(
    tmp_path: Path, environment: Path
) -> None:
    root = tmp_path / "staged"
    shutil.rmtree(next(environment.glob("lib/python*/site-packages/pip")))
    (environment / "mine").touch()
    arguments = ("--root", str(root), "--only", "environment", "--wheels")
    (tmp_path / "none").mkdir()
    refused = _script("install-jetson", *arguments, str(tmp_path / "none"))
    assert refused.returncode != 0
    assert "the one that was there is back" in refused.stderr
    assert (environment / "mine").exists()
    result = _script("install-jetson", *arguments, str(_wheel(tmp_path / "wheels", "")))
    assert result.returncode == 0, result.stderr
    assert not (environment / "mine").exists()
    assert [entry.name for entry in environment.parent.iterdir()] == ["agent"]


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_tensorrt_that_came_after_the_installation_is_seen_by_the_next_one(tmp_path: Path, environment: Path) -> None:
    root, board = tmp_path / "staged", _jetpack(tmp_path / "board")
    arguments = ("--root", str(root), "--only", "environment", "--wheels", str(_wheel(tmp_path / "wheels", "")))
    result = _script("install-jetson", *arguments, "--extras", "cpu", "--look-in", str(board))
    assert result.returncode == 0, result.stderr
    assert "include-system-site-packages = true" in (environment / "pyvenv.cfg").read_text()


def test_the_checkout_stays_as_it_is_and_what_a_build_left_there_is_not_installed(
    tmp_path: Path, environment: Path
) -> None:
    checkout, root = tmp_path / "checkout", tmp_path / "staged"
    for name in ("agent", "engines", "scripts", "systemd", "configs"):
        shutil.copytree(_ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(_ROOT / name, checkout)
    (checkout / "build/lib/agent").mkdir(parents=True)
    (checkout / "build/lib/agent/gone.py").touch()
    built = tmp_path / "built"
    # In place of pip, which would fetch what the agent depends on: builds with the tests' own backend where pip would.
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    next(environment.glob("lib/python*/site-packages/pip/__main__.py")).write_text(
        "import subprocess, sys\n"
        "if sys.argv[1] == 'install':\n"
        "    source = sys.argv[-1].rpartition('[')[0]\n"
        f"    subprocess.run([{sys.executable!r}, '-c', {build!r}, {str(built)!r}], cwd=source, check=True)\n"
    )
    before = sorted(checkout.rglob("*"))
    command = [str(checkout / "scripts/install-jetson"), "--root", str(root), "--only", "environment"]
    env = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=env)
    assert result.returncode == 0, result.stderr
    assert sorted(checkout.rglob("*")) == before
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        assert "agent/app.py" in wheel.namelist()
        assert "agent/gone.py" not in wheel.namelist()


def test_a_csi_camera_brings_its_drop_in(tmp_path: Path) -> None:
    _staged(tmp_path, "--config", str(_ROOT / "configs/csi-camera.yaml"))
    assert (tmp_path / "etc/systemd/system/agent.service.d/csi.conf").is_file()


def test_a_broker_comes_along_where_the_configuration_wants_one_and_mosquitto_is_not_there(tmp_path: Path) -> None:
    def parts(*arguments: str) -> str:
        result = _script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), *arguments)
        assert result.returncode == 0, result.stderr
        return result.stderr.partition("parts: ")[2].partition("\n")[0]

    assert parts("--extras", "cpu") == "cpu"
    assert parts().endswith(",demo")
    assert "demo" not in parts("--config", str(_ROOT / "configs/usb-camera.yaml"))
    mosquitto = tmp_path / "staged/usr/sbin/mosquitto"
    mosquitto.parent.mkdir(parents=True)
    mosquitto.touch(mode=0o755)
    assert "demo" not in parts()


def test_a_dry_run_tells_of_the_drop_in_that_a_csi_camera_will_bring(tmp_path: Path) -> None:
    config = tmp_path / "csi.yaml"
    config.write_text((_ROOT / "configs/csi-camera.yaml").read_text().replace("type: csi", 'type: "csi"'))
    result = _script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), "--config", str(config))
    assert result.returncode == 0, result.stderr
    assert "drop-ins/csi.conf" in result.stderr


def test_removing_leaves_configuration_and_state_unless_told(tmp_path: Path) -> None:
    _staged(tmp_path, "--drop-in", "memory")
    (tmp_path / "opt/agent/bin").mkdir(parents=True)
    (tmp_path / "var/lib/agent").mkdir(parents=True)
    # What `systemctl edit agent` makes belongs to whoever made it.
    drop_ins = tmp_path / "etc/systemd/system/agent.service.d"
    (drop_ins / "override.conf").write_text("[Service]\nWatchdogSec=60s\n")
    assert _script("uninstall", "--root", str(tmp_path)).returncode == 0
    assert [file.name for file in drop_ins.iterdir()] == ["override.conf"]
    assert not (tmp_path / "etc/systemd/system/agent.service").exists()
    assert not (tmp_path / "opt/agent").exists()
    assert (tmp_path / "etc/agent/agent.yaml").exists()
    assert (tmp_path / "var/lib/agent").exists()
    assert _script("uninstall", "--root", str(tmp_path), "--purge").returncode == 0
    assert not drop_ins.exists()
    assert not (tmp_path / "etc/agent").exists()
    assert not (tmp_path / "var/lib/agent").exists()


def test_an_interpreter_in_a_home_directory_is_named_before_it_is_used(tmp_path: Path) -> None:
    homely = tmp_path / "python"
    homely.write_text(
        f'#!/bin/sh\ncase $2 in *base_prefix*) echo /home/someone/python ;; *) exec {sys.executable} "$@" ;; esac\n'
    )
    homely.chmod(0o755)
    result = _script("install-jetson", "--dry-run", "--root", str(tmp_path / "staged"), python=homely)
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
        result = _script("install-jetson", "--root", str(tmp_path / "staged"), *arguments)
        assert result.returncode == 2
        assert "nonsense" in result.stderr.splitlines()[0]
        assert not (tmp_path / "staged").exists()
