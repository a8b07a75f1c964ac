"""Logs: one line per event, held back when repeated, without credentials."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from agent.runtime import logs
from agent.runtime.secrets import Secret


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A log of this test, and the process's own settings back afterwards."""
    root = logging.getLogger()
    level, handlers, show = root.level, list(root.handlers), warnings.showwarning
    yield io.StringIO()
    logging.captureWarnings(capture=False)
    warnings.showwarning = show
    structlog.reset_defaults()
    root.setLevel(level)
    root.handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_off_a_terminal_each_event_is_one_json_line_with_time_level_and_fields(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logs.get_logger("agent.x").info("engine.loaded", engine="ort-cpu", load_ms=812)
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["event"] == "engine.loaded"
    assert (line["level"], line["engine"], line["load_ms"]) == ("info", "ort-cpu", 812)
    assert line["component"] == "agent.x"


def test_readable_text_can_be_asked_for(stream: io.StringIO) -> None:
    logs.configure(json=False, stream=stream)
    logs.get_logger("agent.x").warning("camera.lost", camera="front")
    assert "camera.lost" in stream.getvalue()
    assert "camera=front" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_readable_text_has_words_and_no_python(stream: io.StringIO) -> None:
    logs.configure(json=False, stream=stream)
    limits = ["no retained messages", "only QoS 0"]
    logs.get_logger("a").info("broker.limited", limits=limits, counts={"stale": 3}, reason=None, is_kept=True)
    text = stream.getvalue()
    for words in ("no retained messages; only QoS 0", "stale: 3", "reason=none", "is_kept=true"):
        assert words in text
    for python in ("['", "{'", "None", "True"):
        assert python not in text
    logs.configure(stream=stream)
    logs.get_logger("b").info("broker.limited", limits=limits, reason=None)
    assert lines(io.StringIO(stream.getvalue().splitlines()[-1]))[0]["limits"] == limits, "JSON keeps its types"


def test_debug_events_are_written_only_when_asked_for(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logs.get_logger("a").debug("frame.taken")
    assert lines(stream) == []
    logs.configure(stream=stream, level="debug")
    for _ in range(3):
        logs.get_logger("a").debug("frame.taken")
    assert len(lines(stream)) == 3


def test_a_flood_of_one_event_becomes_one_line(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    log = logs.get_logger("a")
    for attempt in range(5000):
        log.warning("camera.unavailable", camera="front", attempt=attempt, error=f"timeout after {attempt} ms")
    assert len(lines(stream)) == 1


def limited(limit: logs.RateLimit, **event: object) -> dict[str, object] | None:
    try:
        return dict(limit(None, "warning", {"event": "camera.lost", **event}))
    except structlog.DropEvent:
        return None


def test_what_was_held_back_is_counted_in_the_next_line() -> None:
    now = [0]
    limit = logs.RateLimit(10.0, monotonic_ns=lambda: now[0])
    assert limited(limit, camera="front") == {"event": "camera.lost", "camera": "front"}
    for _ in range(7):
        assert limited(limit, camera="front") is None
    now[0] = 10_000_000_000
    assert limited(limit, camera="front") == {"event": "camera.lost", "camera": "front", "repeated": 7}
    assert limited(limit, camera="front") is None


def test_events_of_different_things_do_not_hide_each_other() -> None:
    limit = logs.RateLimit(10.0, monotonic_ns=lambda: 0)
    assert limited(limit, camera="front") is not None
    assert limited(limit, camera="back") is not None
    assert limited(limit, camera="front", attempt=2) is None
    assert limited(limit, text="one warning") is not None
    assert limited(limit, text="another warning") is not None


def test_the_memory_of_the_limit_is_bounded() -> None:
    limit = logs.RateLimit(10.0, monotonic_ns=lambda: 0)
    for number in range(5000):
        limited(limit, camera=f"camera-{number}")
    assert len(limit._seen) <= 1024


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("rtsp://admin:hunter2@10.0.0.5:554/s1", "rtsp://***@10.0.0.5:554/s1"),
        ("open rtsp://admin:p@ss/word@cam/s1 failed", "open rtsp://***@cam/s1 failed"),
        ("mqtts://token@broker:8883", "mqtts://***@broker:8883"),
        ("rtsp://cam/live?user=a&password=hunter2&x=1", "rtsp://cam/live?user=a&password=***&x=1"),
        ("rtsp://cam:554/live", "rtsp://cam:554/live"),
        ("mail me@example.org about http://example.org/", "mail me@example.org about http://example.org/"),
    ],
)
def test_credentials_in_addresses_never_reach_a_line(stream: io.StringIO, text: str, clean: str) -> None:
    logs.configure(stream=stream)
    logs.get_logger("a").error("source.failed", url=text, nested={"list": [text]})
    (line,) = lines(stream)
    assert line["url"] == clean
    assert line["nested"] == {"list": [clean]}


def test_a_secret_of_this_process_never_reaches_a_line_even_in_a_traceback(stream: io.StringIO) -> None:
    secret = Secret("correct horse/battery")
    logs.configure(stream=stream)
    log = logs.get_logger("a")
    try:
        int(f"bad password {secret.reveal()}")
    except ValueError:
        log.exception("broker.refused", detail=secret.reveal(), quoted="correct%20horse%2Fbattery")
    assert "horse" not in stream.getvalue()
    assert "bad password" in stream.getvalue()
    assert "horse" not in f"{secret} {secret!r} {[secret]} { ({'password': secret}) }"


def test_logs_of_libraries_become_events(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logging.getLogger("paho").warning("lost %s", "rtsp://u:p@h/")
    logging.getLogger("paho").info("not for operators")
    (line,) = lines(stream)
    assert (line["event"], line["library"], line["level"]) == ("library", "paho", "warning")
    assert line["text"] == "lost rtsp://***@h/"


def test_a_library_that_formats_its_log_wrongly_does_no_harm(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    record = logging.LogRecord("careless", logging.ERROR, "", 1, "%d frames", ("three",), None)
    logs.LibraryHandler().emit(record)
    (line,) = lines(stream)
    assert line["text"] == "%d frames"


def test_configuring_twice_writes_each_line_once(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logs.configure(stream=stream)
    logging.getLogger("paho").error("once")
    assert len(lines(stream)) == 1


def test_a_log_that_cannot_be_written_does_not_stop_the_program(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    stream.close()
    logs.get_logger("a").error("disk.full")


def test_an_agent_loads_no_rich_and_programs_that_want_it_still_do() -> None:
    code = (
        "import sys, agent.app, agent.runtime.logs as logs\n"
        "print('rich' in sys.modules)\n"
        "import rich.console\n"
        "logs.configure(json=False)\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logs.get_logger('x').error('went.wrong', exc_info=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False"]
    assert "went.wrong" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_logs_leave_a_rich_that_is_loaded_as_it_is() -> None:
    code = "import sys, rich, agent.runtime.logs\nprint(sys.modules['rich'] is rich)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True"]
