"""A command that runs in the process of the tests does not decide what later tests see in the log."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.runtime import logs
from tests.fixtures.own_logs import logs_of

log = logs.get_logger(__name__)


@pytest.mark.parametrize("turn", [1, 2])
def test_logs_are_seen_whatever_an_earlier_test_configured(turn: int) -> None:
    with capture_logs() as seen:
        log.warning("test.happened", turn=turn)
    assert [one["event"] for one in seen] == ["test.happened"]
    logs.configure(level="error")


def test_lines_of_other_parts_are_left_out() -> None:
    with logs_of(__name__) as seen:
        logs.get_logger("library").warning("test.noise")
        logs.get_logger(f"{__name__}_too").warning("test.noise")
        log.warning("test.happened")
        logs.get_logger(f"{__name__}.below").warning("test.happened_below")
    assert [one["event"] for one in seen] == ["test.happened", "test.happened_below"]
