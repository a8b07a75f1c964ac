"""The real jtop client against the real jtop service, over an emulated Orin.

``JTOP_PYTHON`` names a Python that has jetson-stats 7.2, ``JTOP_PYTHON_4`` one that has 4.3 and ``JTOP_PYTHON_42`` one
that has 4.2; ``REQUIRE_JTOP=1`` turns their absence into a failure. What the agent did in each case and how long it
took is printed as a table by ``JTOP_TABLE=FILE``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.runtime.clock import SystemClock
from agent.thermal.limits import limits_of
from agent.thermal.sensors.auto import JtopOverSysfs
from agent.thermal.sensors.base import Sensor
from agent.thermal.sensors.choose import make_sensor
from agent.thermal.sensors.jtop import JtopSensor, JtopTimes, jtop_command
from agent.thermal.sensors.sysfs import SysfsReader, SysfsSensor
from tests.fixtures.boards import ORIN_NANO_SUPER, ORIN_NX, Board, tree_of
from tests.fixtures.deadlines import wait_until
from tests.fixtures.jtop_service_process import JtopService
from tests.fixtures.sysfs_tree import SysfsTree, orin_nx_tree

VARIABLES = {"7.2": "JTOP_PYTHON", "4.3": "JTOP_PYTHON_4", "4.2": "JTOP_PYTHON_42"}
FALL_S = 5.0
BACK_S = 60.0


@dataclass
class Bench:
    """One version of jtop, its service and its tree, and a sensor in the mode `auto`."""

    version: str
    python: str
    tree: SysfsTree
    service: JtopService
    sensor: Sensor

    def source(self) -> str | None:
        latest = self.sensor.latest()
        return None if latest is None else latest.source

    def note(self, case: str, did: str, seconds: float | None = None) -> None:
        """One row of the table."""
        if "JTOP_TABLE" in os.environ:
            took = "" if seconds is None else f"{seconds:.1f} s"
            with Path(os.environ["JTOP_TABLE"]).open("a") as table:
                table.write(f"| {self.version} | {case} | {did} | {took} |\n")


def interpreter(version: str) -> str:
    variable = VARIABLES[version]
    python = os.environ.get(variable)
    if python is not None:
        return python
    reason = f"jetson-stats {version} is not there: {variable} names no Python that has it"
    if os.environ.get("REQUIRE_JTOP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def auto_sensor(python: str, tree: SysfsTree, socket: Path) -> Sensor:
    """As the agent makes it, only that a child is not waited for so long after a failure."""
    jtop = JtopSensor(
        jtop_command(python, interval_s=0.5, socket=socket), clock=SystemClock(), times=JtopTimes(max_wait_s=2.0)
    )
    return JtopOverSysfs(jtop, SysfsSensor(tree.root, clock=SystemClock(), interval_s=0.2), falls_back=True)


@pytest.fixture(params=sorted(VARIABLES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    python = interpreter(request.param)
    tree = orin_nx_tree(tmp_path / "sys")
    service = JtopService(python, tree.root, tmp_path)
    made = Bench(request.param, python, tree, service, auto_sensor(python, tree, service.socket))
    try:
        yield made
    finally:
        made.sensor.stop()
        service.kill()


def start(bench: Bench) -> None:
    """Service and sensor run and jtop is read."""
    bench.service.start()
    started = time.monotonic()
    bench.sensor.start()
    wait_until(lambda: bench.source() == "jtop", within_s=20.0)
    bench.note("starts", "reads jtop", time.monotonic() - started)


def falls_to_sysfs_and_back(bench: Bench, case: str) -> None:
    """After the fault: no look may block, sysfs within 5 s; the caller mends it and jtop is back within a minute."""
    slowest = 0.0

    def fell() -> bool:
        nonlocal slowest
        looked = time.monotonic()
        source = bench.source()
        slowest = max(slowest, time.monotonic() - looked)
        return source == "sysfs"

    took = wait_until(fell, within_s=FALL_S)
    assert slowest < 1.0
    bench.note(case, "reads sysfs instead", took)


def comes_back(bench: Bench, case: str) -> None:
    took = wait_until(lambda: bench.source() == "jtop", within_s=BACK_S)
    bench.note(case, "reads jtop again", took)


def test_values_of_the_real_service_arrive(bench: Bench) -> None:
    start(bench)
    sample = bench.sensor.latest()
    assert sample is not None
    assert sample.temperatures == {"cpu": 48.5, "gpu": 47.25, "soc0": 46.0, "tj": 48.5}
    assert sample.power.rails == {"VDD_IN": 9.5, "VDD_CPU_GPU_CV": 3.5, "VDD_SOC": 2.0}
    assert (sample.power.total_watts, sample.power.total_meaning) == (9.5, "VDD_IN: the whole board")
    assert (sample.trip_points["gpu"].passive, sample.trip_points["gpu"].critical) == (99.0, 104.5)
    assert sample.throttle_states == {"cpu-throttle-alert": 0, "gpu-throttle-alert": 0, "soc0-throttle-alert": 0}
    assert sample.gpu.load_ratio == 0.25
    assert sample.fans["pwmfan"].speed_ratio == pytest.approx(0.502, abs=0.001)
    assert sample.memory is not None
    description = bench.sensor.describe()
    assert (description.source, description.state) == ("jtop", "reading")
    assert description.detail.startswith(f"jetson-stats {bench.version}")
    bench.tree.set_celsius(1, 93.25)
    took = wait_until(
        lambda: (latest := bench.sensor.latest()) is not None and latest.temperatures["gpu"] == 93.25, within_s=5.0
    )
    bench.note("a zone gets hotter", "has the new value", took)


@pytest.mark.parametrize("version", sorted(VARIABLES))
@pytest.mark.parametrize("board", [ORIN_NX, ORIN_NANO_SUPER], ids=lambda board: board.name)
def test_jtop_and_sysfs_agree_on_a_real_board(version: str, board: Board, tmp_path: Path) -> None:
    """The same zones, temperatures, total and limits; what only one of them can read is in the union."""
    python = interpreter(version)
    with tree_of(board, tmp_path / "sys") as tree:
        tree.cpu()
        service = JtopService(python, tree.root, tmp_path)
        bench = Bench(version, python, tree, service, auto_sensor(python, tree, service.socket))
        try:
            start(bench)
            together = bench.sensor.latest()
        finally:
            bench.sensor.stop()
            service.kill()
        alone = SysfsReader(tree.root).read(time.monotonic_ns())
    assert together is not None
    assert together.source == "jtop"
    assert together.temperatures == pytest.approx(alone.temperatures)
    assert set(together.absent) == set(alone.absent) == board.absent
    assert limits_of(together, GovernorConfig()) == limits_of(alone, GovernorConfig())
    assert {zone: limit.throttle_celsius for zone, limit in limits_of(together, GovernorConfig()).items()} == (
        board.throttles_at
    )
    assert together.power.total_watts == pytest.approx(alone.power.total_watts, abs=0.01)
    assert together.is_throttling is False


def test_dark_zone_is_absent_and_not_a_number(bench: Bench) -> None:
    start(bench)
    bench.tree.temperature_file(1).write_text("-256000\n")

    def is_absent() -> bool:
        sample = bench.sensor.latest()
        return sample is not None and "gpu" in sample.absent and "gpu" not in sample.temperatures

    wait_until(is_absent, within_s=5.0)


def test_killed_service_is_replaced_by_sysfs_and_taken_again(bench: Bench) -> None:
    start(bench)
    bench.service.kill()
    falls_to_sysfs_and_back(bench, "service killed")
    bench.service.socket.unlink(missing_ok=True)
    bench.service.start()
    comes_back(bench, "service started again")


def test_restarted_service_is_connected_to_again(bench: Bench) -> None:
    """In one process that never works: the client keeps the dead connection. A new child does it."""
    start(bench)
    bench.service.terminate()
    bench.service.start()
    # The old child is lost at once or a moment later; what counts is that a new one reads.
    restarts = wait_until(lambda: bench.sensor.describe().restarts >= 1, within_s=BACK_S)
    back = wait_until(lambda: bench.source() == "jtop" and bench.sensor.describe().state == "reading", within_s=BACK_S)
    bench.note("service restarted", "reads jtop again with a new child", restarts + back)


@pytest.mark.parametrize("whom", ["service", "worker and manager"])
def test_hung_service_is_replaced_by_sysfs_and_taken_again(bench: Bench, whom: str) -> None:
    start(bench)
    stop = bench.service.signal_all if whom == "service" else bench.service.signal_children
    stop(signal.SIGSTOP)
    falls_to_sysfs_and_back(bench, f"{whom} hanging")
    # New children hang in their connection now, for ever if nobody kills them.
    wait_until(lambda: bench.sensor.describe().restarts >= 1, within_s=BACK_S)
    started = time.monotonic()
    bench.service.signal_all(signal.SIGCONT)
    wait_until(lambda: bench.source() == "jtop", within_s=BACK_S)
    bench.note(f"{whom} going on", "reads jtop again", time.monotonic() - started)


def test_stop_while_the_service_hangs_takes_less_than_five_seconds(bench: Bench) -> None:
    start(bench)
    bench.service.signal_all(signal.SIGSTOP)
    stopping = time.monotonic()
    bench.sensor.stop()
    took = time.monotonic() - stopping
    assert took < 5.0
    bench.note("service hangs while the agent stops", "stops", took)


def test_absent_service_is_told_and_sysfs_read_at_once(bench: Bench) -> None:
    started = time.monotonic()
    bench.sensor.start()
    wait_until(lambda: bench.source() == "sysfs", within_s=FALL_S)
    bench.note("no service", "reads sysfs from the start", time.monotonic() - started)
    wait_until(lambda: "not_active" in bench.sensor.describe().detail, within_s=20.0)
    bench.service.start()
    comes_back(bench, "service started later")


def test_service_of_another_version_is_told_and_sysfs_read(tmp_path: Path) -> None:
    python = interpreter("7.2")
    tree = orin_nx_tree(tmp_path / "sys")
    service = JtopService(python, tree.root, tmp_path, claims_version="6.0.1")
    bench = Bench("7.2", python, tree, service, auto_sensor(python, tree, service.socket))
    service.start()
    started = time.monotonic()
    bench.sensor.start()
    try:
        wait_until(lambda: bench.source() == "sysfs", within_s=FALL_S)
        wait_until(lambda: "wrong_version: Mismatch version" in bench.sensor.describe().detail, within_s=20.0)
        bench.note("service of another version", "reads sysfs, says both versions", time.monotonic() - started)
        assert "[6.0.1] and client: [7.2" in bench.sensor.describe().detail
    finally:
        bench.sensor.stop()
        service.kill()


def without_root_s_privilege(command: list[str]) -> list[str]:
    """``command`` without the capability by which root opens what it has no right to (CAP_DAC_OVERRIDE)."""
    drop = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None); "
        "[libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)]; os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", drop, *command] if os.getuid() == 0 else command


def test_socket_without_permission_is_told_and_sysfs_read(tmp_path: Path) -> None:
    python = interpreter("7.2")
    tree = orin_nx_tree(tmp_path / "sys")
    service = JtopService(python, tree.root, tmp_path)
    service.start()
    wait_until(lambda: service.socket.stat().st_mode & 0o777 == 0o660)  # the last thing it does with its socket
    service.socket.chmod(0)
    command = without_root_s_privilege(jtop_command(python, interval_s=0.5, socket=service.socket))
    jtop = JtopSensor(command, clock=SystemClock())
    sensor = JtopOverSysfs(jtop, SysfsSensor(tree.root, clock=SystemClock(), interval_s=0.2), falls_back=True)
    bench = Bench("7.2", python, tree, service, sensor)
    started = time.monotonic()
    sensor.start()
    try:
        wait_until(lambda: bench.source() == "sysfs", within_s=FALL_S)
        wait_until(lambda: "no_permission" in sensor.describe().detail, within_s=20.0)
        bench.note("no permission", "reads sysfs, says so", time.monotonic() - started)
    finally:
        sensor.stop()
        service.kill()


def test_configured_source_jtop_does_not_fall_to_sysfs(tmp_path: Path) -> None:
    python = interpreter("7.2")
    tree = orin_nx_tree(tmp_path / "sys")
    config = ThermalConfig(source="jtop", jtop_python=python)
    sensor = make_sensor(
        config, clock=SystemClock(), rate_hz=lambda: 0.0, sysfs_root=tree.root, jtop_socket=tmp_path / "none.sock"
    )
    sensor.start()
    try:
        wait_until(lambda: sensor.describe().state == "silent", within_s=20.0)
        assert sensor.latest() is None
    finally:
        sensor.stop()
