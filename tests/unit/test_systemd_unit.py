"""The unit and its drop-ins, as systemd itself reads them."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.daemon.control import USUAL_DIRECTORY

SYSTEMD = Path(__file__).parents[2] / "systemd"
DROP_INS = sorted((SYSTEMD / "drop-ins").glob("*.conf"))

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


class _Repeating(dict[str, str]):
    """Keys may come twice in a unit; the values are joined by lines."""

    def __setitem__(self, key: str, value: str | list[str]) -> None:
        if isinstance(value, list) and key in self and isinstance(self[key], list):
            self[key].extend(value)  # type: ignore[attr-defined]  # see above
            return
        super().__setitem__(key, value)  # type: ignore[assignment]  # see above


def _unit(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(dict_type=_Repeating, strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys of units keep their case
    parser.read(file)
    return parser


def _installed(directory: Path, *drop_ins: Path) -> Path:
    """The unit as installed, with a program that is there."""
    text = (SYSTEMD / "agent.service").read_text().replace("/opt/agent/bin/agent", "/bin/true")
    unit = directory / "agent.service"
    unit.write_text(text)
    for drop_in in drop_ins:
        folder = directory / "agent.service.d"
        folder.mkdir(exist_ok=True)
        shutil.copy(drop_in, folder)
    return unit


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@needs_analyze
@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda file: "unit" if file is None else file.stem)
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path, drop_in: Path | None) -> None:
    unit = _installed(tmp_path, *([drop_in] if drop_in else []))
    result = _analyze("verify", "--man=no", str(unit))
    # It exits 0 even where it ignores a key that it does not know.
    assert (result.returncode, result.stderr) == (0, "")


@needs_analyze
def test_a_key_that_systemd_does_not_know_would_be_seen(tmp_path: Path) -> None:
    unit = _installed(tmp_path)
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WachtdogSec="))
    assert "WachtdogSec" in _analyze("verify", "--man=no", str(unit)).stderr


@needs_analyze
@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda file: "unit" if file is None else file.stem)
def test_the_exposure_is_at_most_2_5(tmp_path: Path, drop_in: Path | None) -> None:
    unit = _installed(tmp_path, *([drop_in] if drop_in else []))
    result = _analyze("security", "--offline=true", "--no-pager", "--threshold=25", str(unit))
    assert result.returncode == 0, result.stdout[-200:]


@needs_analyze
def test_a_unit_without_its_sandbox_would_be_refused(tmp_path: Path) -> None:
    unit = _installed(tmp_path)
    kept = [line for line in unit.read_text().splitlines() if not line.startswith(("Protect", "SystemCall"))]
    unit.write_text("\n".join(kept))
    assert _analyze("security", "--offline=true", "--no-pager", "--threshold=25", str(unit)).returncode != 0


def test_the_contract_with_systemd_stands_in_the_unit() -> None:
    service = _unit(SYSTEMD / "agent.service")["Service"]
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2", "78"]
    assert service["ExecReload"] == "/opt/agent/bin/agent reload"
    assert service["RuntimeDirectory"] == USUAL_DIRECTORY.name
    assert service["RuntimeDirectoryMode"] == "0700"
    assert service["SyslogLevel"] == "warning"
    assert service["WatchdogSec"] == "30s"
    assert service["WatchdogSignal"] == "SIGABRT"
    # A copy of the start would keep an old password alive.
    assert "LoadCredential" not in service
    assert service["StateDirectory"] == "agent"
    assert float(service["TimeoutStopSec"].rstrip("s")) > 5.0
    assert _unit(SYSTEMD / "agent.service")["Unit"]["StartLimitIntervalSec"] == "0"


def test_what_breaks_cameras_or_cuda_is_not_in_the_unit() -> None:
    service = _unit(SYSTEMD / "agent.service")["Service"]
    for key in (
        "PrivateDevices",
        "DynamicUser",
        "MemoryDenyWriteExecute",
        "ProcSubset",
        "DeviceAllow",
        "PrivateUsers",
    ):
        assert key not in service
    assert "jtop" not in service["SupplementaryGroups"]
    assert _unit(SYSTEMD / "drop-ins/csi.conf")["Service"]["PrivateTmp"] == "no"


def test_no_key_needs_a_newer_systemd_than_249() -> None:
    text = "".join(file.read_text() for file in (SYSTEMD / "agent.service", *DROP_INS))
    newer = (
        "notify-reload",
        "LoadCredentialEncrypted",
        "RestartSteps",
        "ImportCredential",
        "OpenFile",
        "LogFilterPatterns",
    )
    assert [key for key in newer if key in text] == []


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_user_and_its_groups_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = str(SYSTEMD / "sysusers/agent.conf")
    command = ["systemd-sysusers", f"--root={tmp_path}", "--replace=/usr/lib/sysusers.d/agent.conf", "-"]
    with Path(file).open() as rules:
        result = subprocess.run(command, stdin=rules, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "agent:" in (tmp_path / "etc/passwd").read_text()
    groups = dict(line.split(":", 1) for line in (tmp_path / "etc/group").read_text().splitlines())
    assert {"video", "render", "agent"} <= groups.keys()
    assert groups["video"].endswith("agent")
    assert groups["render"].endswith("agent")
