"""Every known board: hottest zone, power, limits, throttling, and what the governor decides first."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.sections.thermal import GovernorConfig, ThermalConfig
from agent.thermal.governor import Governor
from agent.thermal.limits import limits_of
from agent.thermal.sensors.sysfs import SysfsReader
from tests.fixtures import board_table
from tests.fixtures.boards import BOARDS, ORIN_NANO_SUPER, ORIN_NX, Board, tree_of
from tests.fixtures.thermal_samples import SECOND

every_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


@every_board
def test_board_is_read_as_it_is(board: Board, tmp_path: Path) -> None:
    with tree_of(board, tmp_path / "sys") as tree:
        sample = SysfsReader(tree.root).read(SECOND)
    limits = limits_of(sample, GovernorConfig())
    assert sample.hottest == (board.hottest, board.celsius)
    assert set(sample.absent) == board.absent
    assert sample.power.total_watts == (None if board.watts is None else pytest.approx(board.watts, abs=0.01))
    assert sample.power.total_meaning == board.total
    assert {zone: limit.throttle_celsius for zone, limit in limits.items()} == pytest.approx(board.throttles_at)
    assert all(limit.source for limit in limits.values())
    assert sample.temperatures.keys() - limits.keys() == board.watched
    assert sample.is_throttling is board.is_throttling


@every_board
@pytest.mark.parametrize("celsius", [50.0, 65.0, 77.0, 95.0])
def test_first_decision_gives_way_near_the_limit_and_nowhere_else(
    board: Board, celsius: float, tmp_path: Path
) -> None:
    with tree_of(board, tmp_path / "sys") as tree:
        tree.heat(celsius)
        sample = SysfsReader(tree.root).read(SECOND)
    decision = Governor(ThermalConfig()).step(sample, SECOND)
    governed = limits_of(sample, GovernorConfig())
    soft = min(limit.soft_celsius for zone, limit in governed.items() if sample.temperatures[zone] == celsius)
    if celsius in board.full_rate_at:
        assert (decision.state, decision.ratio) == ("free", 1.0)
    if celsius > soft:
        assert decision.ratio < 1.0
    if celsius < soft - 1.0:
        assert decision.ratio == 1.0


@pytest.mark.parametrize("board", [ORIN_NX, ORIN_NANO_SUPER], ids=lambda board: board.name)
def test_alert_of_the_hot_case_is_shown_apart_and_never_throttles(board: Board, tmp_path: Path) -> None:
    with tree_of(board, tmp_path / "sys") as tree:
        tree.heat(77.0)
        tree.set_state("hot-surface-alert", 1)
        sample = SysfsReader(tree.root).read(SECOND)
    assert sample.hints == {"hot-surface-alert": 1}
    assert sample.trip_points["gpu"].hints == {"hot-surface-alert": 70.0}
    assert sample.is_throttling is False
    assert Governor(ThermalConfig()).step(sample, SECOND).ratio == 1.0


def test_table_of_the_page_is_what_the_boards_give() -> None:
    assert board_table.in_page() == board_table.table(), "run: python -m tests.fixtures.board_table --write"
