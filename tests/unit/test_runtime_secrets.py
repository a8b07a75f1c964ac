"""A short secret is masked where it stands alone, and leaves the words that hold it readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.loader import load_config
from agent.config.sections.sources import RtspSource
from agent.config.source_address import open_access
from agent.runtime.secrets import MIN_CHARS, Secret, masked, redact
from tests.fixtures.agent_process import write_config


@pytest.mark.parametrize("word", ["camera", "edge", "cam1"])
def test_a_short_password_leaves_the_words_that_hold_it(word: str) -> None:
    secret = Secret(word)
    text = f"{word}s and {word}2 open; refused password {word}, '{word}': user:{word}@host _{word}_"
    clean = redact(text)
    assert f"{word}s and {word}2 open" in clean
    assert clean.count("***") == 4, clean
    assert secret.reveal() == word


def test_a_long_password_is_masked_everywhere() -> None:
    secret = Secret("correcthorse")
    assert redact("xcorrecthorsex correcthorse") == "x***x ***"
    assert len(secret.reveal()) >= MIN_CHARS


def test_the_text_of_a_library_stays_readable_with_a_password_of_two_letters(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("on")
    (tmp_path / "password").chmod(0o600)
    source = RtspSource.model_validate(
        {"type": "rtsp", "url": "rtsp://host/live", "username": "me", "password_file": "password"}
    )
    cleaned = open_access(source, tmp_path).cleaned("Connection to rtsp://me:on@host timed out; bad password 'on'")
    assert cleaned.startswith("Connection to ")
    assert "'on'" not in cleaned
    assert ":on@" not in cleaned


@pytest.mark.parametrize(("password", "is_short"), [("on", True), ("1234567", True), ("12345678", False)])
def test_a_short_password_is_a_warning_with_its_line(tmp_path: Path, password: str, is_short: bool) -> None:
    (tmp_path / "password").write_text(password)
    (tmp_path / "password").chmod(0o600)
    path = write_config(
        tmp_path,
        {
            "models": {"inspect": {"package": "demo"}},
            "cameras": {"front": {"source": {"type": "pattern"}, "classify": [{"model": "inspect"}]}},
            "mqtt": {"broker": "mqtts://host", "username": "me", "password_file": "password"},
        },
    )
    found = [text for text in load_config(path, environ={}).warnings if "mqtt.password_file" in text]
    assert [text.startswith(f"{path}:") for text in found] == [True] * is_short
    for text in found:
        assert f"has {len(password)} characters, but" in text
        assert masked(text, password) == text, "it is not repeated"
