"""A command that runs in the process of the tests does not decide what later tests see in the log."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.runtime import logs

log = logs.get_logger(__name__)


@pytest.mark.parametrize("turn", [1, 2])
def test_logs_are_seen_whatever_an_earlier_test_configured(turn: int) -> None:
    with capture_logs() as seen:
        log.warning("test.happened", turn=turn)
    assert [one["event"] for one in seen] == ["test.happened"]
    logs.configure(level="error")
