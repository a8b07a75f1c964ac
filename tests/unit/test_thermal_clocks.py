"""Highest clocks written and put back, over an emulated tree of the kernel's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.config.sections.thermal import GovernorConfig, SimulatedBoardConfig, ThermalConfig
from agent.thermal.clocks import RECORD_NAME, KernelClocks, clock_files, clock_levers
from agent.thermal.sensors.base import NoSensor
from agent.thermal.sensors.simulated import SimulatedClocks, SimulatedSensor
from tests.fixtures.thermal_samples import ManualClock

GPU_STEPS = (306000000, 408000000, 510000000, 612000000, 714000000, 816000000, 918000000)
CPU_STEPS = (729600, 1190400, 1420800, 1984000)
GPU = "class/devfreq/17000000.gpu/max_freq"
CPU = "devices/system/cpu/cpufreq/policy0/scaling_max_freq"
CPU4 = "devices/system/cpu/cpufreq/policy4/scaling_max_freq"


class Tree:
    """The files of a board at full clocks, and a state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root / "sys"
        self.state = root / "state"
        self.state.mkdir(parents=True)
        self.boot_id = root / "boot_id"
        self.boot_id.write_text("boot-1\n")
        self.write(GPU, "918000000")
        self.write("class/devfreq/17000000.gpu/available_frequencies", " ".join(map(str, GPU_STEPS)))
        self.write("class/devfreq/emc/max_freq", "3199000000")
        for policy in (CPU, CPU4):
            self.write(policy, "1984000")
            self.write(str(Path(policy).with_name("scaling_available_frequencies")), " ".join(map(str, CPU_STEPS)))

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    def read(self, path: str) -> int:
        return int((self.root / path).read_text())

    def clocks(self) -> KernelClocks:
        return KernelClocks(self.root, state_dir=self.state, boot=self.boot_id)

    @property
    def record(self) -> Path:
        return self.state / RECORD_NAME

    def is_as_before(self) -> bool:
        return (self.read(GPU), self.read(CPU), self.read(CPU4)) == (918000000, 1984000, 1984000)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_clocks_of_gpu_and_cpu_are_lowered_to_the_steps_of_the_kernel_and_put_back(tree: Tree) -> None:
    clocks = tree.clocks()
    seen = []
    for _ in range(200):
        clocks.engage(0.8)
        seen.append(tree.read(GPU))
        assert tree.read(CPU) in CPU_STEPS
    assert set(seen) == {714000000, 816000000}
    assert sum(seen) / len(seen) == pytest.approx(0.8 * 918000000, rel=0.01)
    assert tree.read("class/devfreq/emc/max_freq") == 3199000000
    clocks.release()
    assert tree.is_as_before()
    assert not tree.record.exists()
    clocks.release()
    assert tree.is_as_before()


def test_no_clock_below_half_is_asked_for(tree: Tree) -> None:
    clocks = tree.clocks()
    clocks.engage(0.05)
    assert tree.read(GPU) == 510000000
    clocks.release()


def test_clock_that_a_power_mode_has_set_is_the_one_put_back(tree: Tree) -> None:
    tree.write(GPU, "612000000")
    clocks = tree.clocks()
    clocks.engage(0.7)
    assert tree.read(GPU) in (408000000, 510000000)
    clocks.release()
    assert tree.read(GPU) == 612000000


def test_clock_that_somebody_raises_meanwhile_is_the_one_put_back(tree: Tree) -> None:
    tree.write(GPU, "612000000")
    clocks = tree.clocks()
    clocks.engage(0.7)
    tree.write(GPU, "918000000")
    clocks.engage(0.7)
    clocks.release()
    assert tree.read(GPU) == 918000000


def test_next_start_puts_back_what_a_killed_run_left(tree: Tree) -> None:
    tree.clocks().engage(0.6)  # and then kill -9
    assert not tree.is_as_before()
    with capture_logs() as logs:
        tree.clocks().recover()
    assert tree.is_as_before()
    assert not tree.record.exists()
    assert [entry["event"] for entry in logs] == ["thermal.clocks_restored"]


def test_killed_run_is_cleaned_up_after_although_the_lever_is_off_now(tree: Tree) -> None:
    tree.clocks().engage(0.6)
    document = json.loads(tree.record.read_text())
    document["value"]["boot_id"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    tree.record.write_text(json.dumps(document))
    assert clock_levers(ThermalConfig(), NoSensor(), state_dir=tree.state, root=tree.root) == ()
    assert tree.is_as_before()


def test_record_of_another_boot_is_forgotten(tree: Tree) -> None:
    tree.clocks().engage(0.6)
    lowered = tree.read(GPU)
    tree.boot_id.write_text("boot-2\n")
    with capture_logs() as logs:
        tree.clocks().recover()
    assert logs == [], "a reboot is no damage"
    assert tree.read(GPU) == lowered
    assert not tree.record.exists()


def _record(value: object) -> str:
    return json.dumps({"form": 1, "facts": {}, "value": value})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"form": 2}', _record({"boot_id": "boot-1", "files": [1]}), _record({"files": {}})]
)
def test_record_that_cannot_be_read_is_deleted_with_a_warning(tree: Tree, text: str) -> None:
    tree.record.write_text(text)
    with capture_logs() as logs:
        tree.clocks().recover()
    assert tree.is_as_before()
    assert not tree.record.exists()
    assert [entry["event"] for entry in logs] == ["thermal.clocks_record_unreadable"]


@pytest.mark.parametrize("text", ["{}", _record({"boot_id": "boot-0", "files": {}})])
def test_record_that_cannot_be_deleted_does_not_end_the_start(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As on a read-only disk, which root meets as well."""
    tree.record.write_text(text)

    def read_only(path: Path, *, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", read_only)
        tree.clocks().recover()
    assert logs[-1]["event"] == "thermal.clocks_record_delete_failed"
    assert (logs[-1]["file"], logs[-1]["error"]) == (str(tree.record), "Read-only file system")


def test_folder_in_place_of_the_record_does_not_end_the_start_and_no_clock_is_lowered(tree: Tree) -> None:
    tree.record.mkdir()
    clocks = tree.clocks()
    with capture_logs() as logs:
        clocks.recover()
        clocks.engage(0.7)
    events = [entry["event"] for entry in logs]
    assert events == [
        "thermal.clocks_record_unreadable",
        "thermal.clocks_record_delete_failed",
        "thermal.clocks_unavailable",
    ]
    assert tree.is_as_before()


def test_record_stays_while_a_clock_could_not_be_put_back(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = tree.clocks()
    clocks.engage(0.7)
    real = os.open

    def read_only(path: os.PathLike[str] | str, flags: int, *rest: int, **more: int) -> int:
        if str(path).startswith(str(tree.root)) and flags & os.O_WRONLY:
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest, **more)

    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        clocks.engage(0.6)
    assert not clocks.is_available
    assert [entry["event"] for entry in logs] == ["thermal.clocks_restore_failed", "thermal.clocks_unavailable"]
    assert not tree.is_as_before()
    assert tree.record.exists()
    tree.clocks().recover()
    assert tree.is_as_before()
    assert not tree.record.exists()


def test_record_never_makes_another_file_be_written(tree: Tree, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("1\n")
    files = {str(other): 5, str(tree.root / "class/devfreq/emc/max_freq"): 9_000_000_000}
    tree.record.write_text(_record({"boot_id": "boot-1", "files": files}))
    tree.clocks().recover()
    assert other.read_text() == "1\n"
    assert tree.read("class/devfreq/emc/max_freq") == 3199000000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_permission_denied_makes_the_lever_unavailable_and_is_said_once(tree: Tree) -> None:
    for path in (GPU, CPU, CPU4):
        (tree.root / path).chmod(0o444)
    _assert_given_up(tree)


def test_file_that_refuses_to_be_written_makes_the_lever_unavailable(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under ProtectKernelTunables=yes, which root meets as well."""
    real = os.open

    def read_only(path: os.PathLike[str] | str, flags: int, *rest: int, **more: int) -> int:
        if str(path).startswith(str(tree.root)) and flags & os.O_WRONLY:
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    _assert_given_up(tree)


def _assert_given_up(tree: Tree) -> None:
    clocks = tree.clocks()
    states = [clocks.is_available]
    with capture_logs() as logs:
        clocks.engage(0.7)
        clocks.engage(0.6)
    states.append(clocks.is_available)
    assert states == [True, False]
    assert tree.is_as_before()
    assert not tree.record.exists()
    assert [entry["event"] for entry in logs] == ["thermal.clocks_unavailable"]
    assert "clocks.conf" in logs[0]["remedy"]


def test_single_file_that_fails_is_left_alone_and_the_others_go_on(tree: Tree) -> None:
    (tree.root / CPU4).unlink()
    clocks = tree.clocks()
    clocks.engage(0.7)
    (tree.root / CPU).unlink()  # the cores were switched off
    (tree.root / CPU).mkdir()
    clocks.engage(0.6)
    assert clocks.is_available
    assert tree.read(GPU) < 918000000
    clocks.release()
    assert tree.read(GPU) == 918000000


def test_originals_are_not_taken_while_the_kernel_holds_the_clocks_down(tree: Tree) -> None:
    tree.write("class/thermal/cooling_device0/type", "devfreq-17000000.gpu")
    tree.write("class/thermal/cooling_device0/cur_state", "2")
    tree.write(GPU, "714000000")
    clocks = tree.clocks()
    clocks.engage(0.7)
    assert tree.read(GPU) == 714000000
    assert clocks.is_available
    tree.write("class/thermal/cooling_device0/cur_state", "0")
    tree.write(GPU, "918000000")
    clocks.engage(0.7)
    assert tree.read(GPU) < 714000000
    clocks.release()
    assert tree.is_as_before()


def test_fan_that_turns_does_not_hold_the_lever_back(tree: Tree) -> None:
    tree.write("class/thermal/cooling_device0/type", "pwm-fan")
    tree.write("class/thermal/cooling_device0/cur_state", "3")
    clocks = tree.clocks()
    clocks.engage(0.7)
    assert tree.read(GPU) < 918000000
    clocks.release()


def test_without_a_record_no_clock_is_lowered(tree: Tree) -> None:
    tree.state.rmdir()
    tree.state.write_text("no folder")
    clocks = tree.clocks()
    clocks.engage(0.7)
    assert not clocks.is_available
    assert tree.is_as_before()


def test_board_without_such_files_has_no_lever(tmp_path: Path) -> None:
    assert clock_files(tmp_path) == {}
    clocks = KernelClocks(tmp_path, state_dir=tmp_path)
    assert not clocks.is_available
    clocks.engage(0.5)
    clocks.release()


def test_driver_that_lists_no_steps_gets_even_ones(tree: Tree) -> None:
    (tree.root / "class/devfreq/17000000.gpu/available_frequencies").unlink()
    clocks = tree.clocks()
    clocks.engage(0.75)
    assert tree.read(GPU) in (pytest.approx(0.75 * 918000000, rel=0.04),)
    clocks.release()


def test_lever_is_made_only_where_the_configuration_allows_it(tree: Tree) -> None:
    allowed = ThermalConfig(governor=GovernorConfig(clocks=True))
    assert [lever.name for lever in clock_levers(allowed, NoSensor(), state_dir=tree.state, root=tree.root)] == [
        "clocks"
    ]
    for config in (
        ThermalConfig(),
        ThermalConfig(source="none", governor=GovernorConfig(clocks=True)),
        ThermalConfig(governor=GovernorConfig(clocks=True, enabled=False)),
    ):
        assert clock_levers(config, NoSensor(), state_dir=tree.state, root=tree.root) == ()


def test_simulated_board_has_its_own_clocks_and_no_file_is_touched(tree: Tree) -> None:
    config = ThermalConfig(source="simulated", governor=GovernorConfig(clocks=True))
    clock = ManualClock()
    sensor = SimulatedSensor(SimulatedBoardConfig(), clock=clock, interval_s=1.0, rate_hz=lambda: 15.0)
    (lever,) = clock_levers(config, sensor, state_dir=tree.state, root=tree.root)
    assert isinstance(lever, SimulatedClocks)
    sensor.start()
    lever.engage(0.5)
    clock.pass_s(1.0)
    low = sensor.latest()
    lever.release()
    clock.pass_s(1.0)
    high = sensor.latest()
    assert low is not None
    assert high is not None
    assert low.gpu.clock_hz in (408000000, 510000000)
    assert high.gpu.clock_hz == 918000000
    assert tree.is_as_before()
