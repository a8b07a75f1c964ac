"""The table of the agent beside other scripts, the age of a label, and what those scripts promise."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from agent.tools.clip_camera.clip import clip_from_file
from scripts.performance.clips import draw_turns, repeat_clip
from scripts.performance.peers import __main__ as peers
from scripts.performance.peers import contenders, measuring
from scripts.performance.peers.age import FPS, Pushes, ages_ms
from scripts.performance.peers.contenders import Scene, Setup
from scripts.performance.peers.pipeline import Newest
from scripts.performance.peers.table import Seen, table_of
from scripts.performance.processes import family_cpu_s, family_peak_mib, peak_mib, resident_mib, threads

_FRAME = np.zeros((2, 2, 3), np.uint8)
_MS = 1_000_000


def _seen(**rows: list[float]) -> Seen:
    return Seen({name.replace("_", " "): values for name, values in rows.items()})


def test_table_has_medians_ranges_who_is_missing_and_how_far_the_best_is() -> None:
    agent, tuned, lost = Seen(), Seen(), Seen(faults={"file": "no library"})
    for value in (1.0, 9.0, 2.0):
        agent.add("file, results/s", value)
    tuned.add("file, results/s", 4.0)
    tuned.add("RTSP, peak MiB", 120.0)
    agent.add("RTSP, peak MiB", 180.0)
    assert list(table_of({"agent": agent, "tuned": tuned, "lost": lost})) == [
        "| median (range over the turns) | agent | tuned | agent over the best other |",
        "| --- | --: | --: | --: |",
        "| file, results/s | 2.00 (1.00 to 9.00) | 4.00 | 0.50 × tuned |",
        "| RTSP, peak MiB | 180 | 120 | 1.50 × tuned |",
        "\nNot measured: lost, file: no library",
    ]


def test_row_that_one_contender_lacks_is_compared_with_the_others() -> None:
    found = {"agent": _seen(a=[2.0], b=[1.0]), "x": _seen(a=[1.0]), "y": _seen(a=[4.0])}
    assert list(table_of(found))[2:] == ["| a | 2.00 | 1.00 | 4.00 | 2.00 × x |", "| b | 1.00 | – | – | – |"]


def test_script_that_ends_is_named_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_FIRST_WITHIN_S", 1.0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no onnxruntime here >&2\nexit 3\n")
    python.chmod(0o755)
    setup = Setup(pythons={"naive": str(python)}, cache=tmp_path, seconds=0.1)
    scene = Scene(name="file", sources=(str(tmp_path / "clip.mp4"),), is_live=False)
    found = peers.run(setup, ("naive", "roboflow"), [scene], 2, tmp_path, Pushes())
    assert found["naive"].faults == {"file": "naive ended with code 3: no onnxruntime here"}
    assert found["roboflow"].faults == {"file": "it has no environment here"}
    assert found["naive"].rows == {}


def test_reader_that_cannot_begin_a_file_again_gets_the_long_one() -> None:
    scene = Scene(name="file", sources=("a.mp4",), is_live=False, long_clips=("long.mp4",))
    assert "long.mp4" in contenders._command("roboflow", "python", "m.onnx", 1883, scene)
    tuned = contenders._command("tuned", "python", "m.onnx", 1883, scene)
    assert tuned[2:] == ["tuned", "m.onnx", "1883", "a.mp4", "--size", "160x120"]


def test_repeated_clip_has_all_frames_in_order(tmp_path: Path) -> None:
    draw_turns(tmp_path / "one.mp4", 64, 48, turns=2, turn_frames=26, fps=FPS)
    repeat_clip(tmp_path / "one.mp4", tmp_path / "three.mp4", 3)
    with av.open(str(tmp_path / "three.mp4")) as clip:
        times = [frame.pts or 0 for frame in clip.decode(video=0)]
    assert len(times) == 3 * 2 * 26
    assert times == sorted(set(times))
    assert clip_from_file(tmp_path / "three.mp4").fps == FPS


@pytest.mark.parametrize(("due_s", "is_turn"), [(0.0, True), (0.04, False), (1.04, True), (1.0, False), (20.8, True)])
def test_only_the_first_frame_of_a_turn_is_noted(due_s: float, *, is_turn: bool) -> None:
    pushes = Pushes()
    pushes(due_s)
    assert bool(pushes.turns_ns) == is_turn


def test_age_is_from_the_push_to_the_first_other_label() -> None:
    turns = [1000 * _MS, 2000 * _MS, 3000 * _MS]
    answers = [
        (990 * _MS, "ok"), (1020 * _MS, "ok"), (1047 * _MS, "scratch"), (1060 * _MS, "scratch"),
        (2010 * _MS, "scratch"), (2033 * _MS, "ok"), (2999 * _MS, "ok"), (3040 * _MS, "ok"),
    ]  # fmt: skip
    assert ages_ms(turns, answers) == [47.0, 33.0]


def test_label_before_the_first_turn_must_be_known() -> None:
    assert ages_ms([1000 * _MS], [(1040 * _MS, "ok")]) == []


def test_family_is_the_process_and_its_children() -> None:
    own = os.getpid()
    before = family_cpu_s([own])
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    assert family_cpu_s([own]) > before
    assert family_peak_mib([own]) >= peak_mib(own) >= resident_mib(own) > 1
    assert threads(own) >= 1


def test_process_that_ended_is_named() -> None:
    with psutil.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
        family_cpu_s([process.pid])
    with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
        threads(process.pid)


def test_live_reader_replaces_the_frame_that_waits() -> None:
    newest = Newest(is_live=True)
    newest.put((1, (_FRAME, 1.0)))
    newest.put((2, (_FRAME, 3.0)))
    newest.put((1, (_FRAME, 2.0)))
    found = [newest.get() for _ in range(2)]
    assert [(camera, at) for camera, (_, at) in found] == [(1, 2.0), (2, 3.0)]


def test_reader_of_a_file_loses_no_frame() -> None:
    newest = Newest(is_live=False)

    def feed() -> None:
        for at in range(50):
            newest.put((1, (_FRAME, float(at))))

    feeder = threading.Thread(target=feed)
    feeder.start()
    found = [newest.get()[1][1] for _ in range(50)]
    feeder.join()
    assert found == [float(at) for at in range(50)]
