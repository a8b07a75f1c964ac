"""What the MQTT library said last, for the reason of an ending."""

from __future__ import annotations

import logging


class LastWords(logging.Handler):
    """Keeps the last warning of the library. Its `on_log` would have it write a line for every packet first."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text: str | None = None

    def logger(self) -> logging.Logger:
        """A logger that is known to nobody else, and hands only warnings and errors on."""
        logger = logging.Logger("mqtt", logging.WARNING)  # noqa: LOG001 (one of its own for every connection)
        logger.addHandler(self)
        return logger

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.text = record.getMessage()
