"""Sources and the check of the configuration agree on what ``~/`` means."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.cameras.sources.choose import make_source
from agent.config.sections.sources import FolderSource, HttpSource, ImagesSource, RtspSource, SourceConfig
from agent.config.source_address import open_access
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceUnavailable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images/1.png"), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    "config",
    [
        ImagesSource(type="images", path="~/images"),
        FolderSource(type="folder", path="~/images", settle_s=0.0, after="move", move_to="~/done"),
    ],
)
def test_a_source_in_the_home_directory_is_read(tmp_path: Path, home: Path, config: SourceConfig) -> None:
    source = make_source(config, base_dir=tmp_path / "elsewhere", clock=SystemClock())
    source.open()
    try:
        assert source.read() is not None
    finally:
        source.close()
    assert (home / "done/1.png").exists() is isinstance(config, FolderSource)


def test_a_password_in_the_home_directory_is_read(tmp_path: Path, home: Path) -> None:
    (home / "password").write_text("secret\n")
    (home / "password").chmod(0o600)
    config = RtspSource(type="rtsp", url="rtsp://127.0.0.1:9/1", username="u", password_file="~/password")
    source = make_source(config, base_dir=tmp_path, clock=SystemClock())
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    assert caught.value.fields["reason"] == "refused", "and not a missing password file"
    access = open_access(config.model_copy(update={"password_file": str(home / "password")}), tmp_path)
    assert access.password is not None


def test_an_authority_in_the_home_directory_is_looked_for_there(tmp_path: Path, home: Path) -> None:
    config = HttpSource(type="http", url="https://127.0.0.1:9/1", ca_file="~/ca.pem")
    with pytest.raises(SourceUnavailable, match=str(home / "ca.pem")):
        make_source(config, base_dir=tmp_path, clock=SystemClock()).open()
