"""The doctor looks at the state directory of the installed service where it is asked about its configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.tools.doctor import checks
from agent.tools.doctor.examination import examine
from agent.tools.doctor.service import InstalledService, installed_service, service_of

_UNIT = Path(__file__).parents[2] / "systemd" / "agent.service"


def _install(root: Path, text: str | None = None, folder: str = "etc/systemd/system") -> Path:
    unit = root / folder / "agent.service"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text(_UNIT.read_text() if text is None else text)
    return unit


def _drop_in(root: Path, name: str, text: str, folder: str = "etc/systemd/system") -> None:
    file = root / folder / "agent.service.d" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_unit_of_the_project_says_where_its_state_is(tmp_path: Path) -> None:
    assert installed_service(tmp_path) is None
    unit = _install(tmp_path)
    expected = InstalledService(unit, Path("/etc/agent/agent.yaml"), Path("/var/lib/agent"))
    assert installed_service(tmp_path) == expected
    assert service_of(Path("/etc/agent/../agent/agent.yaml"), tmp_path) == expected
    assert service_of(Path("/etc/agent/other.yaml"), tmp_path) is None


def test_drop_ins_count_in_the_order_of_systemd(tmp_path: Path) -> None:
    _install(tmp_path, folder="usr/lib/systemd/system")
    _drop_in(tmp_path, "90-state.conf", "[Service]\nStateDirectory=second third\n")
    _drop_in(tmp_path, "10-state.conf", "[Service]\nStateDirectory=first\n")
    _drop_in(tmp_path, "override.conf", "[Service]\nExecStart=\nExecStart=/x/agent run \\\n  -c '/my config.yaml'\n")
    service = installed_service(tmp_path)
    assert service is not None
    assert (service.config, service.state_dir) == (Path("/my config.yaml"), Path("/var/lib/second"))
    # One in /etc hides one of the same name.
    _drop_in(tmp_path, "90-state.conf", "[Service]\nStateDirectory=hidden\n", "usr/lib/systemd/system")
    assert installed_service(tmp_path) == service


@pytest.mark.parametrize(
    "text",
    ["", "[Service]\nExecStart=/x/agent run\nStateDirectory=a\n", "[Service]\nExecStart=/x run --config=/c\n",
     "[Service]\nExecStart=/x run -c '/c\nStateDirectory=a\n", "# ExecStart=/x -c /c\n;StateDirectory=a\n"],
)  # fmt: skip
def test_a_unit_that_does_not_say_it_is_no_answer(tmp_path: Path, text: str) -> None:
    _install(tmp_path, text)
    assert installed_service(tmp_path) is None


def test_the_finding_says_whose_directory_it_is(tmp_path: Path) -> None:
    service = InstalledService(Path("/etc/systemd/system/agent.service"), tmp_path / "c", tmp_path / "state")
    assert "state (of agent.service), " in checks.state_dir_finding(tmp_path / "state", service).detail
    report = examine(None, state_dir=tmp_path / "elsewhere", service=service, with_cameras=False).report
    told = next(finding for section in report.sections for finding in section.findings if finding.name == "state_dir")
    assert "elsewhere, " in told.detail, "a state_dir of the configuration's own is not the service's"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_user_who_may_not_enter_the_services_directory_is_told_to_take_sudo(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o500)
    service = InstalledService(Path("agent.service"), tmp_path / "c", folder)
    finding = checks.state_dir_finding(folder, service)
    assert (finding.state, "sudo" in (finding.remedy or "")) == ("warning", True)
    assert checks.state_dir_finding(folder).state == "failed"
