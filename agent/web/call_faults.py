"""What every face says and logs when a call ends by an exception that nobody expected."""

from __future__ import annotations

import logging

from agent.runtime.logs import get_logger

log = get_logger(__name__)

FAULT_TEXT = "the server failed to answer because of an internal error; the agent's log has it as serve.call_failed"
"""For the client, which learns nothing of the exception itself."""


class _Faults(logging.Handler):
    """Writes an exception that ended a call, which a library logs as text of several lines, as an event."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        fault = record.exc_info[1] if record.exc_info else None
        text = record.getMessage().strip() if fault is None else f"{type(fault).__name__}: {fault}"
        log.error("serve.call_failed", error=text, exc_info=record.exc_info)


def fault_logger(name: str) -> logging.Logger:
    """The logger ``name`` of a library that answers failed calls, whose errors become `serve.call_failed`."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    if not any(isinstance(one, _Faults) for one in logger.handlers):
        logger.addHandler(_Faults())
    return logger
