"""Installing and removing the service: below a staging root and as a dry run, never on the machine of the tests."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
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


def _copy_distribution(name: str, site: Path) -> None:
    """Copy a distribution of the tests, metadata included: setuptools finds its commands by its entry points."""
    distribution = importlib.metadata.distribution(name)
    entries = {file.parts[0] for file in distribution.files or () if ".." not in file.parts}
    assert entries, f"{name} has no list of its files"
    for entry in entries:
        place = Path(str(distribution.locate_file(entry)))
        if place.is_dir():
            shutil.copytree(place, site / entry)
        else:
            shutil.copy(place, site)


# One run of the step `environment` takes 3 s of CPU, of which most is pip starting. So no test below runs it more than
# twice, and what a test begins with is copied.


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the pip of the tests in it, to copy from."""
    folder = tmp_path_factory.mktemp("bare") / "staged/opt/agent"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=100)
    (site,) = folder.glob("lib/python*/site-packages")
    _copy_distribution("pip", site)
    return folder


@pytest.fixture(scope="module")
def installed_environment(bare_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after an installation of the agent `good`, version 0.1.0, to copy from."""
    folder = tmp_path_factory.mktemp("installed")
    root = folder / "staged"
    shutil.copytree(bare_environment, root / "opt/agent", symlinks=True)
    result = _install(root, _wheel(folder / "good", "good"))
    assert result.returncode == 0, result.stderr
    return root / "opt/agent"


@pytest.fixture
def environment(bare_environment: Path, tmp_path: Path) -> Path:
    """The agent's environment below the staging root, before the agent is in it."""
    return Path(shutil.copytree(bare_environment, tmp_path / "staged/opt/agent", symlinks=True))


@pytest.fixture
def installed(installed_environment: Path, tmp_path: Path) -> Path:
    """The agent's environment below the staging root, with the agent `good` in it."""
    folder = Path(shutil.copytree(installed_environment, tmp_path / "staged/opt/agent", symlinks=True))
    program = folder / "bin/agent"
    program.write_text(program.read_text().replace(str(installed_environment), str(folder)))
    assert _version_of(folder) == "0.1.0"
    return folder


_MAIN = """
import sys

def main():
    if "--version" in sys.argv:
        print("agent, version {says}")
    elif "check" in sys.argv:
        text = open(sys.argv[-1]).read()
        if {refuses!r} and {refuses!r} in text:
            sys.exit("error: unknown key {refuses}")
    return 0

if __name__ == "__main__":
    sys.exit(main())
"""


def _wheel(
    folder: Path,
    text: str = "",
    *,
    version: str = "0.1.0",
    says: str | None = None,
    refuses: str = "",
    main: str = _MAIN,
    onnxruntime: str = "onnxruntime",
) -> Path:
    """A folder with a wheel of a small agent. Holds TEXT, calls itself SAYS, refuses a configuration with REFUSES.

    Its part `cpu` needs ``onnxruntime``.
    """
    folder.mkdir(parents=True)
    info = f"edge_inference_agent-{version}.dist-info"
    with zipfile.ZipFile(folder / f"edge_inference_agent-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("agent/__init__.py", "")
        wheel.writestr("agent/said.py", text)
        wheel.writestr("agent/__main__.py", main.format(says=says or version, refuses=refuses))
        parts = f"Provides-Extra: dev\nProvides-Extra: cpu\nRequires-Dist: {onnxruntime}; extra == 'cpu'\n"
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: edge-inference-agent\nVersion: {version}\n{parts}"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nagent = agent.__main__:main\n")
        _wheel_records(wheel, info)
    return folder


def _wheel_records(wheel: zipfile.ZipFile, info: str) -> None:
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")


def _other_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel of another distribution; gives its path."""
    folder.mkdir(exist_ok=True)
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        _wheel_records(wheel, info)
    return path


def _onnxruntime(folder: Path, name: str, version: str) -> Path:
    text = f"def get_available_providers():\n    return []\nbuild = {name!r}\n"
    return _other_wheel(folder, name, version, {"onnxruntime/__init__.py": text})


def _install(root: Path, wheels: Path, *arguments: str, extras: str = "dev") -> subprocess.CompletedProcess[str]:
    """The step `environment` alone; the part dev is one that these wheels have nothing of."""
    only = ("--only", "environment", "--extras", extras)
    return _script("install-jetson", "--root", str(root), *only, "--wheels", str(wheels), *arguments)


def _version_of(environment: Path) -> str:
    command = [str(environment / "bin/agent"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()[-1]


def _said(environment: Path) -> list[str]:
    return [file.read_text() for file in environment.glob("lib/python*/site-packages/agent/said.py")]


def _put(environment: Path, wheel: Path) -> None:
    """As if pip had installed ``wheel`` there: it is plain files."""
    (site,) = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(site)
        (record,) = site.glob(f"{wheel.name.rpartition('-py3')[0]}.dist-info/RECORD")
        # pip removes what is listed there.
        record.write_text("".join(f"{name},,\n" for name in files.namelist()))


def test_a_wheel_of_the_same_version_replaces_what_is_installed(tmp_path: Path, installed: Path) -> None:
    assert _said(installed) == ["good"]
    result = _install(tmp_path / "staged", _wheel(tmp_path / "wheels of today", "better"))
    assert result.returncode == 0, result.stderr
    assert _said(installed) == ["better"]


def test_an_upgrade_and_a_downgrade_print_both_versions(tmp_path: Path, installed: Path) -> None:
    before = "0.1.0"
    for version in ("0.2.0+g222222222.dirty", "0.1.0+g111111111"):
        result = _install(tmp_path / "staged", _wheel(tmp_path / f"{version} after {before}", version=version))
        assert result.returncode == 0, result.stderr
        assert f"agent {version} runs (before: {before})" in result.stderr
        assert _version_of(installed) == version
        before = version
    assert [entry.name for entry in installed.parent.iterdir()] == ["agent"]
    # The programs name the place where they are, not the one where they were made.
    assert "agent.new" not in (installed / "bin/agent").read_text() + (installed / "pyvenv.cfg").read_text()


def test_a_first_installation_has_nothing_before_it(tmp_path: Path, environment: Path) -> None:
    result = _install(tmp_path / "staged", _wheel(tmp_path / "wheels", version="0.1.0+g111111111"))
    assert result.returncode == 0, result.stderr
    assert "agent 0.1.0+g111111111 runs (before: none)" in result.stderr
    assert _version_of(environment) == "0.1.0+g111111111"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"version": "0.2.0", "says": "0.1.0"}, "the new agent reports version 0.1.0, 0.2.0 was installed"),
        ({"version": "0.2.0", "main": "raise RuntimeError('broken')\n"}, "RuntimeError: broken"),
        ({"version": "0.2.0", "refuses": "version: 1"}, "the new agent refuses"),
    ],
)
def test_a_new_agent_that_fails_leaves_the_one_that_works(
    fault: dict[str, str], words: str, tmp_path: Path, installed: Path
) -> None:
    root = tmp_path / "staged"
    (root / "etc/agent").mkdir(parents=True)
    (root / "etc/agent/agent.yaml").write_text("version: 1\n")
    result = _install(root, _wheel(tmp_path / "bad", "bad", **fault))
    assert result.returncode == 1
    assert words in result.stderr
    assert "Done" not in result.stderr
    assert _version_of(installed) == "0.1.0"
    assert _said(installed) == ["good"]
    assert [entry.name for entry in installed.parent.iterdir()] == ["agent"]


def test_a_first_installation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    result = _install(tmp_path / "staged", _wheel(tmp_path / "bad", says="9.9.9"))
    assert result.returncode == 1
    assert list((tmp_path / "staged/opt").iterdir()) == []


def test_a_package_without_a_name_is_never_taken_for_the_agent(tmp_path: Path, environment: Path) -> None:
    # What the setuptools of Ubuntu 22.04 makes of a pyproject.toml, in a folder without the agent's wheel.
    (environment / "mine").touch()
    _other_wheel(tmp_path / "wheels", "UNKNOWN", "0.0.0", {})
    result = _install(tmp_path / "staged", tmp_path / "wheels")
    assert result.returncode == 1
    assert "NOT installed" in result.stderr
    assert (environment / "mine").exists()


def test_two_wheels_of_the_agent_are_refused(tmp_path: Path, environment: Path) -> None:
    wheels = _wheel(tmp_path / "wheels", version="0.1.0")
    next(_wheel(tmp_path / "more", version="0.2.0").iterdir()).rename(
        wheels / "edge_inference_agent-0.2.0-py3-none-any.whl"
    )
    result = _install(tmp_path / "staged", wheels)
    assert result.returncode == 1
    assert "2 wheels of the agent" in result.stderr
    assert environment.exists()


def test_an_environment_without_pip_is_made_again(tmp_path: Path, environment: Path) -> None:
    shutil.rmtree(next(environment.glob("lib/python*/site-packages/pip")))
    (environment / "mine").touch()
    result = _install(tmp_path / "staged", _wheel(tmp_path / "wheels"))
    assert result.returncode == 0, result.stderr
    assert not (environment / "mine").exists()


def test_an_installation_killed_between_its_two_renames_is_undone_by_the_next(tmp_path: Path, installed: Path) -> None:
    installed.rename(installed.parent / "agent.before")
    result = _install(tmp_path / "staged", _wheel(tmp_path / "bad", says="9.9.9"))
    assert result.returncode == 1
    assert "its previous environment is restored" in result.stderr
    assert _version_of(installed) == "0.1.0"


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_a_second_installation_at_the_same_time_is_refused_and_names_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "staged/run/agent-install.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as first:
        first.write("4321\n")
        first.flush()
        fcntl.flock(first, fcntl.LOCK_EX)
        result = _script("install-jetson", "--root", str(tmp_path / "staged"), "--only", "unit")
    assert result.returncode == 1
    assert "another installation is running (process 4321)" in result.stderr
    assert "Wait for it, or end it (kill 4321)" in result.stderr
    assert not (tmp_path / "staged/etc").exists()
    # What a killed one leaves is no obstacle.
    result = _script("install-jetson", "--root", str(tmp_path / "staged"), "--only", "unit")
    assert result.returncode == 0, result.stderr
    assert not lock.exists()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that go before those of the machine."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def _program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("moved", [("lib",), ("mine",), ("lib", "bin", "pyvenv.cfg", "mine")])
def test_an_installation_killed_while_entries_of_a_mount_point_are_moved_is_undone_by_the_next(
    moved: tuple[str, ...], tmp_path: Path, installed: Path, programs: Path
) -> None:
    _program(programs, "mountpoint", "exit 0")
    (installed / "mine").touch()
    shutil.copytree(installed, installed / ".new", symlinks=True)
    (installed / ".before").mkdir()
    for name in moved:
        (installed / name).rename(installed / ".before" / name)
    if len(moved) > 1:
        # Killed later: the new one has begun to take the place.
        (installed / ".new/bin").rename(installed / "bin")
    result = _install(tmp_path / "staged", _wheel(tmp_path / "bad", says="9.9.9"))
    assert result.returncode == 1
    assert "its previous environment is restored" in result.stderr
    assert _version_of(installed) == "0.1.0"
    assert (installed / "mine").exists()
    assert not {".new", ".before"} & {entry.name for entry in installed.iterdir()}


def test_a_new_agent_on_a_mount_point_that_fails_in_its_place_leaves_the_one_that_works(
    tmp_path: Path, installed: Path, programs: Path
) -> None:
    _program(programs, "mountpoint", "exit 0")
    # Works beside the old environment, and not in its place.
    main = "import sys\nif '.new' not in sys.prefix:\n    sys.exit('lost')\n" + _MAIN
    result = _install(tmp_path / "staged", _wheel(tmp_path / "bad", main=main))
    assert result.returncode == 1
    assert "bin/agent says lost" in result.stderr
    assert _version_of(installed) == "0.1.0"
    assert _said(installed) == ["good"]
    assert not {".new", ".before"} & {entry.name for entry in installed.iterdir()}


def test_a_disk_that_is_full_is_named_with_the_needed_and_the_free_space(
    tmp_path: Path, installed: Path, programs: Path
) -> None:
    fault = "cp: error copying 'a' to 'b': No space left on device"
    copy = f'{shutil.which("cp")} "$@"; for file in 1 2 3 4 5 6 7 8 9; do echo "{fault}" >&2; done; exit 1'
    _program(programs, "cp", f'case $* in *reflink*) {copy} ;; esac; exec {shutil.which("cp")} "$@"')
    result = _install(tmp_path / "staged", _wheel(tmp_path / "wheels", "better"))
    assert result.returncode == 1
    needs = f"begins as a copy of {re.escape(str(installed))}, which needs [1-9]\\d* MB, and \\d+ MB are free in "
    assert re.search(needs + re.escape(str(installed.parent)), result.stderr), result.stderr
    assert "Free some space there" in result.stderr
    assert "error copying" not in result.stderr
    assert _said(installed) == ["good"]
    assert [entry.name for entry in installed.parent.iterdir()] == ["agent"]


def test_a_first_configuration_that_is_refused_is_not_kept(tmp_path: Path, installed: Path) -> None:
    root, file = tmp_path / "staged", tmp_path / "given.yaml"
    text = installed.glob("lib/python*/site-packages/agent/__main__.py")
    next(text).write_text(_MAIN.format(says="0.1.0", refuses="camers"))
    file.write_text("camers: {}\n")
    arguments = ("--root", str(root), "--only", "user,config", "--config", str(file))
    result = _script("install-jetson", *arguments)
    assert result.returncode == 1
    assert f"the agent refuses {file}:" in result.stderr
    assert "error: unknown key camers" in result.stderr
    assert "Correct it, or name another with --config, and run this again" in result.stderr
    assert not (root / "etc/agent/agent.yaml").exists()
    file.write_text("cameras: {}\n")
    result = _script("install-jetson", *arguments)
    assert result.returncode == 0, result.stderr
    # One that was there before stays, whatever the agent says.
    kept = root / "etc/agent/agent.yaml"
    kept.write_text("camers: {}\n")
    result = _script("install-jetson", *arguments)
    assert result.returncode == 1
    assert f"the agent refuses {kept}:" in result.stderr
    assert kept.read_text() == "camers: {}\n"


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_tensorrt_that_came_after_the_installation_is_seen_by_the_next_one(tmp_path: Path, environment: Path) -> None:
    board = _jetpack(tmp_path / "board")
    result = _install(tmp_path / "staged", _wheel(tmp_path / "wheels"), "--look-in", str(board))
    assert result.returncode == 0, result.stderr
    assert "include-system-site-packages = true" in (environment / "pyvenv.cfg").read_text()


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg-query is not installed")
def test_optional_parts_fail_alone_and_are_named_with_their_reason_and_one_command(
    tmp_path: Path, environment: Path
) -> None:
    board = _jetpack(tmp_path / "board")
    # The environment sees the packages of this interpreter, which may well have an ONNX Runtime and a TensorRT.
    wheels = _wheel(tmp_path / "wheels", onnxruntime="onnxruntime>=9000")
    _put(environment, _other_wheel(tmp_path, "tensorrt", "10.3.0", {"tensorrt.py": "raise ImportError('libnvinfer')"}))
    result = _install(tmp_path / "staged", wheels, "--look-in", str(board), extras="cpu,jetson,pycuda")
    assert result.returncode == 0, result.stderr
    assert _version_of(environment) == "0.1.0"
    missing = _missing_parts(result.stderr)
    assert set(missing) >= {"onnxruntime (cpu)", "tensorrt", "cuda-bindings"}, result.stderr
    for part, (why, command) in missing.items():
        assert why, part
        assert command.startswith("→ sudo "), part
    assert "No matching distribution found for cuda-bindings==12.*" in result.stderr
    assert len(result.stderr.splitlines()) < 60
    log = tmp_path / "staged/var/log/agent-install.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "pycuda" in log.read_text()


def _missing_parts(printed: str) -> dict[str, tuple[str, str]]:
    """Name of each part that the last screen lists as missing: the reason and the command."""
    screen = printed.rpartition(". Result\n")[2].partition("\n\n")[0].splitlines()
    found = {}
    for line, following in zip(screen, [*screen[1:], ""], strict=True):
        name, colon, why = line.strip().removeprefix("without   ").partition(": ")
        if line.strip().startswith("without   ") and colon:
            found[name] = (why, following.strip())
    return found


@pytest.fixture
def cuda_13(tmp_path: Path) -> tuple[str, str]:
    """Arguments for a board whose toolkit is CUDA 13."""
    toolkit = tmp_path / "board/usr/local/cuda"
    toolkit.mkdir(parents=True)
    (toolkit / "version.json").write_text('{"cuda": {"version": "13.0.1"}}')
    return "--look-in", str(tmp_path / "board")


def test_cuda_bindings_of_the_boards_cuda_replace_a_pycuda_that_cannot_be_had(
    tmp_path: Path, environment: Path, cuda_13: tuple[str, str]
) -> None:
    wheels = _wheel(tmp_path / "wheels")
    for version in ("12.9.10", "13.5.0", "14.0.0"):
        _other_wheel(wheels, "cuda-bindings", version, {})
    result = _install(tmp_path / "staged", wheels, *cuda_13, extras="jetson")
    assert result.returncode == 0, result.stderr
    assert [
        folder.name for folder in environment.glob("lib/python*/site-packages/*.dist-info") if "cuda" in folder.name
    ] == ["cuda_bindings-13.5.0.dist-info"]


@pytest.mark.parametrize(
    ("where", "words"), [("wheels", "CUDA: PyCUDA 2026.1\n"), ("there", "2026.1 is there and stays")]
)
def test_pycuda_is_preferred_and_stays(
    where: str, words: str, tmp_path: Path, environment: Path, cuda_13: tuple[str, str]
) -> None:
    wheels = _wheel(tmp_path / "wheels")
    _other_wheel(wheels, "cuda-bindings", "13.5.0", {})
    pycuda = _other_wheel(wheels if where == "wheels" else tmp_path, "pycuda", "2026.1", {})
    if where == "there":
        _put(environment, pycuda)
    result = _install(tmp_path / "staged", wheels, *cuda_13, extras="jetson")
    assert result.returncode == 0, result.stderr
    assert words in result.stderr
    assert not list(environment.glob("lib/python*/site-packages/cuda_bindings*"))


def test_a_gpu_build_of_onnxruntime_stays_and_no_cpu_build_is_put_over_it(tmp_path: Path, environment: Path) -> None:
    root, wheels = tmp_path / "staged", _wheel(tmp_path / "wheels")
    _put(environment, _onnxruntime(wheels, "onnxruntime", "1.30.0"))
    gpu = _onnxruntime(tmp_path, "onnxruntime-gpu", "1.23.0")
    result = _install(root, wheels, "--onnxruntime", str(gpu), extras="cpu")
    assert result.returncode == 0, result.stderr
    assert _build_of_onnxruntime(environment) == "onnxruntime-gpu"
    assert not list(environment.glob("lib/python*/site-packages/onnxruntime-1.30.0.dist-info"))
    result = _install(root, wheels, extras="cpu")
    assert result.returncode == 0, result.stderr
    assert "onnxruntime-gpu 1.23.0 is there and stays" in result.stderr
    assert _build_of_onnxruntime(environment) == "onnxruntime-gpu"
    assert not list(environment.glob("lib/python*/site-packages/onnxruntime-1.30.0.dist-info"))


def test_the_cpu_build_of_onnxruntime_comes_with_its_part(tmp_path: Path, environment: Path) -> None:
    wheels = _wheel(tmp_path / "wheels")
    _onnxruntime(wheels, "onnxruntime", "1.30.0")
    assert _install(tmp_path / "staged", wheels, extras="cpu").returncode == 0
    assert _build_of_onnxruntime(environment) == "onnxruntime"


def _build_of_onnxruntime(environment: Path) -> str:
    command = [str(environment / "bin/python"), "-c", "import onnxruntime; print(onnxruntime.build)"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_a_build_of_onnxruntime_that_does_not_load_is_not_taken(tmp_path: Path, installed: Path) -> None:
    root, wheels = tmp_path / "staged", _wheel(tmp_path / "wheels")
    broken = _other_wheel(
        tmp_path, "onnxruntime-gpu", "1.23.0", {"onnxruntime/__init__.py": "raise ImportError('numpy')\n"}
    )
    result = _install(root, wheels, "--onnxruntime", str(broken), extras="cpu")
    assert result.returncode == 1
    assert "does not load" in result.stderr
    assert _said(installed) == ["good"]
    assert not list(installed.glob("lib/python*/site-packages/onnxruntime*"))


def test_the_checkout_stays_as_it_is_and_what_a_build_left_there_is_not_installed(
    tmp_path: Path, environment: Path
) -> None:
    checkout, root = tmp_path / "checkout", tmp_path / "staged"
    for name in ("agent", "engines", "scripts", "systemd", "configs"):
        shutil.copytree(_ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(_ROOT / name, checkout)
    (checkout / "agent/commit.txt").write_text("0123456789abcdef\n")
    (checkout / "build/lib/agent").mkdir(parents=True)
    (checkout / "build/lib/agent/gone.py").touch()
    # The setuptools of the tests instead of one from the index; no dependencies, which this test does not need.
    site = next(environment.glob("lib/python*/site-packages"))
    _copy_distribution("setuptools", site)
    pip = site / "pip/__main__.py"
    text = pip.read_text()
    pip.write_text(
        "import sys\n"
        "if sys.argv[1] == 'install' and not sys.argv[-1].endswith('.whl'):\n    sys.exit(0)\n"
        "if sys.argv[1] == 'install':\n    sys.argv.append('--no-deps')\n" + text
    )
    before = sorted(checkout.rglob("*"))
    command = [
        str(checkout / "scripts/install-jetson"),
        "--root",
        str(root),
        "--only",
        "environment",
        "--extras",
        "dev",
    ]
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ""}
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=env)
    # The agent cannot run without click; what was built is in the message.
    assert "0.1.0+g012345678 was installed" in result.stderr
    assert result.returncode == 1
    assert sorted(checkout.rglob("*")) == before
    assert "No module named 'click'" in result.stderr


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
    result = _script(script, *before, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(words)
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "staged").exists()


def test_a_configuration_for_a_root_without_groups_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = tmp_path / "staged"
    result = _script("install-jetson", "--root", str(root), "--only", "config")
    assert result.returncode == 69
    assert result.stderr.startswith(f"{root}/etc/group does not exist, so the configuration cannot be given")
    assert "--only user,config" in result.stderr
    assert not root.exists()
