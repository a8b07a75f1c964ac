"""The table of the agent beside other scripts, and what those scripts promise."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from scripts.performance import peers
from scripts.performance.peer_pipeline import Newest

_FRAME = np.zeros((2, 2, 3), np.uint8)


def test_table_has_medians_and_ranges_and_names_who_is_missing() -> None:
    agent, lost = peers.Seen(), peers.Seen(fault="no library")
    for value in (1.0, 9.0, 2.0):
        agent.add("file, results/s", value)
    lost.add("file, results/s", 77.0)
    assert list(peers.table_of({"agent": agent, "lost": lost})) == [
        "| median (range over the turns) | agent |",
        "| --- | --: |",
        "| file, results/s | 2.00 (1.00 to 9.00) |",
        "\nNot measured: lost: no library",
    ]


def test_script_that_ends_is_named_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_FIRST_WITHIN_S", 1.0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no onnxruntime here >&2\nexit 3\n")
    python.chmod(0o755)
    setup = peers.Setup(str(python), tmp_path, tmp_path / "clip.mp4", "rtsp://127.0.0.1:1/", 0.1)
    found = peers.run(setup, ["naive"], 2, tmp_path)
    assert found["naive"].fault == "naive ended with code 3: no onnxruntime here"
    assert found["naive"].rows == {}


def test_live_reader_replaces_the_frame_that_waits() -> None:
    newest = Newest(is_live=True)
    newest.put((_FRAME, 1.0))
    newest.put((_FRAME, 2.0))
    assert newest.get()[1] == 2.0


def test_reader_of_a_file_loses_no_frame() -> None:
    newest = Newest(is_live=False)

    def feed() -> None:
        for at in range(50):
            newest.put((_FRAME, float(at)))

    feeder = threading.Thread(target=feed)
    feeder.start()
    found = [newest.get()[1] for _ in range(50)]
    feeder.join()
    assert found == [float(at) for at in range(50)]
