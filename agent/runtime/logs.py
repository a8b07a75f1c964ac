"""Logs are events with fields: readable on a terminal, JSON lines elsewhere, to stderr.

The same event is written at most every ten seconds, with the number of repetitions since. Credentials are masked.
Libraries that use Python's ``logging`` write to the same log. A line for the systemd journal begins with its priority
(``<4>`` for a warning), so that ``journalctl -p warning`` finds it.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import orjson

from agent.runtime import journal
from agent.runtime.secrets import redact
from agent.runtime.terminal import escaped, escaped_json, unescaped

try:
    # structlog would load rich, pygments and attrs for tracebacks that the agent does not show: 5 MiB and 0.05 s. None
    # stands for a module that cannot be imported.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # as the import system documents it
    import structlog
    from structlog.contextvars import bound_contextvars
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger
finally:
    if sys.modules.get("rich") is None:
        sys.modules.pop("rich", None)

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

REPEAT_AFTER_S = 10.0
_REMEMBERED_EVENTS = 1024
_NOT_IDENTITY = frozenset({"error", "detail", "exc_info", "exception", "repeated", "timestamp"})


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger of one module: ``log = get_logger(__name__)``, then ``log.info("engine.loaded", load_ms=812)``."""
    logger: FilteringBoundLogger = structlog.get_logger(component=name)
    return logger


def bound_fields(**fields: object) -> AbstractContextManager[None]:
    """Within the block, every log line of this thread has these fields too."""
    return bound_contextvars(**fields)


def configure(*, json: bool | None = None, level: Level = "info", stream: TextIO | None = None) -> None:
    """Set where logs go, for the whole process; a later call replaces the earlier one.

    ``json`` None means JSON unless ``stream`` (stderr if None) is a terminal.
    """
    stream = sys.stderr if stream is None else stream
    stream = unescaped(stream)  # the texts are escaped one by one, and colours are not
    is_terminal = stream.isatty()
    as_json = not is_terminal if json is None else json
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[*_processors(), *_renderers(as_json=as_json, colors=is_terminal)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_LineFactory(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [found for found in root.handlers if isinstance(found, LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(LibraryHandler())
    # Below WARNING, libraries write for their own developers.
    root.setLevel(logging.DEBUG if level == "debug" else max(threshold, logging.WARNING))
    logging.captureWarnings(capture=True)


_watchers: list[Callable[[Mapping[str, Any]], None]] = []


def watch_warnings(on_record: Callable[[Mapping[str, Any]], None]) -> Callable[[], None]:
    """Call ``on_record`` with each warning and error that is written, on the thread that logs it; credentials are
    masked. The returned function ends it."""
    _watchers.append(on_record)
    return lambda: _watchers.remove(on_record)


def _show_to_watchers(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if _watchers and event.get("level") in {"warning", "error", "critical"}:
        for watcher in tuple(_watchers):
            watcher(dict(event))
    return event


def _processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        RateLimit(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact_fields,
        _show_to_watchers,
    ]


def _renderers(*, as_json: bool, colors: bool) -> list[Processor]:
    if as_json:
        return [_in_order, structlog.processors.JSONRenderer(serializer=_json)]
    return [in_words, escape_fields, structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="timestamp")]


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Time, level and event first, where a reader looks for them."""
    first = ("timestamp", "level", "event")
    return {name: event[name] for name in first if name in event} | {
        name: value for name, value in event.items() if name not in first
    }


def _json(value: object, **_: object) -> str:
    line = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    return escaped_json(line).decode()


class RateLimit:
    """Passes the same event once per ``interval_s`` and counts the others. Any thread.

    Two events are the same if their name, level and identifying fields agree: text, booleans and None, without the
    free text of an error. Numbers differ from line to line and identify nothing. DEBUG is never limited.
    """

    def __init__(
        self, interval_s: float = REPEAT_AFTER_S, *, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._interval_ns = round(interval_s * 1e9)
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[object, ...], tuple[int, int]] = OrderedDict()

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Add ``repeated``, or raise DropEvent."""
        if method == "debug":
            return event
        key = _identity(method, event)
        now = self._monotonic_ns()
        with self._lock:
            written_at, held_back = self._seen.get(key, (None, 0))
            if written_at is not None and now - written_at < self._interval_ns:
                self._seen[key] = (written_at, held_back + 1)
                raise structlog.DropEvent
            self._seen[key] = (now, 0)
            self._seen.move_to_end(key)
            if len(self._seen) > _REMEMBERED_EVENTS:
                self._seen.popitem(last=False)
        if held_back:
            event["repeated"] = held_back
        return event


def _identity(method: str, event: EventDict) -> tuple[object, ...]:
    fields = [
        (name, value)
        for name, value in event.items()
        if (value is None or isinstance(value, str | bool)) and name not in _NOT_IDENTITY
    ]
    return (method, *sorted(fields, key=lambda field: field[0]))


def redact_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask credentials in every text of the event, at any depth."""
    return {name: _redacted(value) for name, value in event.items()}


def in_words(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Lists, tables and truth values as words for a reader, instead of as Python writes them."""
    return {name: _in_words(value) for name, value in event.items()}


def _in_words(value: object) -> object:
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_in_words(below)}" for name, below in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return "; ".join(str(_in_words(below)) for below in value)
    return value


def escape_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what controls a terminal in every text of the event, at any depth."""
    return {escaped(str(name)): _escaped(value) for name, value in event.items()}


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, Mapping):
        return {escaped(str(name)): _escaped(below) for name, below in value.items()}
    return [_escaped(below) for below in value] if isinstance(value, list) else value


def _redacted(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _redacted(below) for name, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(below) for below in value]
    return redact(str(value))


class _LineFactory:
    """Makes the loggers that structlog wraps; they share one stream."""

    def __init__(self, stream: TextIO) -> None:
        self._sink = _JournalLines(stream) if journal.is_journal(stream) else _Lines(stream)

    def __call__(self, *_: Any) -> _Lines:
        return self._sink


class _Lines:
    """Writes whole lines. A log that cannot be written (full disk, closed pipe) does not stop the program."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, message: str) -> None:
        """Write one line."""
        with self._lock:
            try:
                self._stream.write(message + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return

    debug = info = warning = error = critical = msg


class _JournalLines(_Lines):
    """Adds the priority of the level to each line; a traceback in a text log has several."""

    def debug(self, message: str) -> None:
        self.msg(journal.prefixed(message, journal.LEVELS["debug"]))

    def info(self, message: str) -> None:
        self.msg(journal.prefixed(message, journal.LEVELS["info"]))

    def warning(self, message: str) -> None:
        self.msg(journal.prefixed(message, journal.LEVELS["warning"]))

    def error(self, message: str) -> None:
        self.msg(journal.prefixed(message, journal.LEVELS["error"]))

    critical = error


class LibraryHandler(logging.Handler):
    """Writes log records of libraries to the agent's log, as events named ``library``."""

    def __init__(self) -> None:
        super().__init__()
        self._log = get_logger("library")

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a library's own mistake in its format string
            text = str(record.msg)
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
        extra = {"exc_info": exc_info} if exc_info else {}
        self._log.log(level, "library", library=record.name, text=text, **extra)
