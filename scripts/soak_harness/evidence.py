"""Whether a fault took effect: each function checks its effect, not the command that caused it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import datetime

import psutil

from scripts.soak_harness.stage import RESULTS, Before, Stage

Evidence = Callable[[Stage, Before], bool]
SLOW_LINE_S = 0.8
DECADE_S = 3650 * 86400.0
_SILENT_S = 0.7
"""The network camera gives a result every 0.2 s."""
_SHOWN_WITHIN_S = 30.0


def is_limited(kind: int) -> Evidence:
    """The process has the soft limit, or was ended by it."""

    def shows(stage: Stage, before: Before) -> bool:
        process = stage.agent.process
        if process is None or len(stage.agent.exits) > before.exits:
            return len(stage.agent.exits) > before.exits
        soft, hard = process.rlimit(kind)
        return soft != hard

    return shows


def ended_with(code: int) -> Evidence:
    """The agent ended once, with this exit code."""
    return lambda stage, before: [ended for _, ended in stage.agent.exits[before.exits :]] == [code]


def logged(*texts: str) -> Evidence:
    """The agent reported one of them; between two attempts it may report it a little later."""
    return lambda stage, before: _comes_true(
        lambda: any(text in stage.log()[before.log_bytes :] for text in texts), before
    )


def _comes_true(is_so: Callable[[], bool], before: Before) -> bool:
    while not is_so():
        if time.monotonic() > before.at + _SHOWN_WITHIN_S:
            return False
        time.sleep(0.1)
    return True


def is_camera_silent(stage: Stage, _: Before) -> bool:
    """No result of the network camera."""
    return not stage.messages_since(time.monotonic() - _SILENT_S, RESULTS["net"])


def is_camera_slow(stage: Stage, _: Before) -> bool:
    """Fewer than half of its results in the last seconds; results already on their way still arrived."""
    return len(stage.messages_since(time.monotonic() - 3.0, RESULTS["net"])) <= 7


def is_agent_unheard(stage: Stage, _: Before) -> bool:
    """No result at all, though the subscriber is at the broker."""
    return not any(stage.messages_since(time.monotonic() - _SILENT_S, topic) for topic in RESULTS.values())


def is_broker_stopped(stage: Stage, _: Before) -> bool:
    """The kernel says so."""
    return bool(psutil.Process(stage.broker.pid).status() == psutil.STATUS_STOPPED)


def is_broker_gone(stage: Stage, _: Before) -> bool:
    """Nothing listens at the address that the agent uses."""
    try:
        socket.create_connection(("127.0.0.1", stage.broker_line.port), 1.0).close()
    except ConnectionRefusedError:
        return True
    return False


def has_connected_anew(stage: Stage, before: Before) -> bool:
    """The agent's connection did not survive."""
    return _comes_true(lambda: stage.broker_line.connections > before.connections, before)


def is_late(stage: Stage, before: Before) -> bool:
    """Messages arrive at least the line's delay after they were made."""
    late_s = _lateness_s(stage, before.at + SLOW_LINE_S)
    return late_s is None or late_s >= SLOW_LINE_S


def is_time_wrong(stage: Stage, before: Before) -> bool:
    """The stamps of the newest result are years away."""
    return abs(_lateness_s(stage, before.at) or 0.0) > 0.9 * DECADE_S


def has_disk_failed(stage: Stage, before: Before) -> bool:
    """A sync was delayed or a write refused."""
    return stage.machine.shown > before.shown


def _lateness_s(stage: Stage, since: float) -> float | None:
    """Seconds from the capture of the newest result to its arrival, by the stamps."""
    newest = stage.messages_since(since, RESULTS["drawn"])[-1:]
    if not newest:
        return None
    arrived = time.time() - (time.monotonic() - newest[0].at)
    return arrived - datetime.fromisoformat(newest[0].json["captured_at"].replace("Z", "+00:00")).timestamp()
