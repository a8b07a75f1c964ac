"""What the tables of docs/scale.md say of planted points, and the loads that they are measured with."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.config.loader import load_config
from scripts.performance.command import main
from scripts.performance.outbox_drain import fill
from scripts.performance.scale.axes import AXES, Place, _gone
from scripts.performance.scale.point import Point
from scripts.performance.scale.words import lines_of, verdict
from scripts.performance.verdict import Load

_ROOT = Path(__file__).parents[2]
_AXIS = AXES["scale-cameras-5"]
_QUIET = Load(0.01)
_ONE = Point(
    work=1, offered_hz=5, results_hz=5, p50_ms=3, p99_ms=9, cpu_ms=8, resident_mib=160, threads=12, ready_s=1.5
)


def _points(*, cpu_ms: float = 8.0, results_hz: float = 40.0) -> list[Point]:
    last = replace(_ONE, work=8, offered_hz=40, results_hz=results_hz, cpu_ms=cpu_ms, resident_mib=230)
    return [_ONE, last]


@pytest.mark.parametrize(
    ("cpu_ms", "told"),
    [
        (7.0, "8 times the cameras take 7.0 times the CPU: linear or better."),
        (8.0, "8 times the cameras take 8.0 times the CPU: linear or better."),
        (9.0, "8 times the cameras take 9.0 times the CPU: **more than linear**."),
    ],
)
def test_growth_of_cost_is_compared_with_growth_of_work(cpu_ms: float, told: str) -> None:
    found = [*verdict(_AXIS, _points(cpu_ms=cpu_ms))]
    assert found == [f"{told} Memory grows by 10.0 MiB each.", "No limit up to 8 cameras."]


def test_load_that_is_not_carried_is_the_limit_and_no_growth() -> None:
    (told,) = verdict(_AXIS, _points(results_hz=37.9))
    assert told.startswith("Limit: 8 cameras get 38 of 40 results a second with 0.30 cores.")
    assert [*verdict(_AXIS, _points(results_hz=38.1))][-1] == "No limit up to 8 cameras."


def test_load_that_starts_at_nothing_is_compared_with_none() -> None:
    idle = replace(_ONE, work=0)
    loaded = replace(_ONE, work=16, cpu_ms=12, resident_mib=161)
    found = [*verdict(AXES["scale-dead"], [idle, loaded])]
    assert found[0] == "CPU with 16 dead cameras is 1.50 times that without. Memory grows by 1 MiB in all."


def test_table_has_a_line_for_each_point_and_only_the_columns_that_were_measured() -> None:
    lines = lines_of("scale-cameras-5", _AXIS, _points(), _QUIET)
    assert "| 8 | 40 | 40.0 | 3.0 / 9.0 | 8.00 | 0.32 | 230 | 12 | 1.5 |" in lines
    assert "rows sent/s" not in "\n".join(lines)
    drained = lines_of("scale-outbox", AXES["scale-outbox"], [replace(_ONE, drained_hz=5123.4, events_hz=3.0)], _QUIET)
    assert any(line.endswith("| 3 | 5,123 |") for line in drained)


def test_busy_machine_is_not_judged() -> None:
    lines = lines_of("scale-cameras-5", _AXIS, _points(cpu_ms=99.0), Load(0.5))
    assert "Not to be judged: other programs took 50% of the processor." in lines
    assert not any("linear" in line or "imit" in line for line in lines)


_DRAW = """
import pathlib, sys
from scripts.performance.scale.axes import AXES
from scripts.performance.scale.chart import draw
from scripts.performance.scale.point import Point
values = dict(offered_hz=5, results_hz=5, p50_ms=3, p99_ms=9, cpu_ms=8, resident_mib=160, threads=12, ready_s=1.5)
draw(pathlib.Path(sys.argv[1]), AXES["scale-outbox"], [Point(work=one, **values) for one in (0, 90_000, 10_000_000)])
"""


def test_picture_is_written(tmp_path: Path) -> None:
    """In a process of its own: matplotlib keeps the files of its fonts open."""
    picture = tmp_path / "images" / "x.png"
    subprocess.run([sys.executable, "-c", _DRAW, str(picture)], check=True, cwd=_ROOT)
    assert picture.read_bytes().startswith(b"\x89PNG")
    light, dark = (np.asarray(cv2.imread(str(one))) for one in (picture, picture.with_stem("x-dark")))
    assert light.shape == dark.shape
    assert light.mean() > 200 > 60 > dark.mean(), "the papers are those of light and dark pages"
    assert min(light.std(), dark.std()) > 10, "they are not empty"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("name", AXES)
def test_each_load_is_a_configuration_with_the_rate_that_it_asks_for(name: str, place: Place, tmp_path: Path) -> None:
    """Rates of all classifiers together; a dead camera asks for nothing."""
    axis = AXES[name]
    with axis.work(place, axis.quick[-1]) as work:
        config = work.config(1883)
        cameras = work.cameras.values()
        alive = [one for one in cameras if one["source"]["type"] == "file"]  # type: ignore[index] # plain YAML
        asked = sum(one["rate_hz"] * len(one["classify"]) for one in alive)  # type: ignore[index] # as above
    assert asked == pytest.approx(work.offered_hz)
    _check(config, tmp_path)


def _check(config: dict[str, object], folder: Path) -> None:
    path = folder / "agent.yaml"
    path.write_text(json.dumps({**config, "state_dir": str(folder / "state")}), encoding="utf-8")
    path.chmod(0o600)
    assert load_config(path).warnings == ()


@pytest.mark.parametrize("rows", [0, 7, 5000, 12_345])
def test_filled_outbox_has_each_row_once(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "outbox.sqlite"
    fill(path, rows)
    with sqlite3.connect(path) as file:
        count, first, last, topics = file.execute(
            "SELECT count(*), min(key), max(key), count(DISTINCT topic) FROM waiting"
        ).fetchone()
        assert (count, first, last, topics) == ((rows, 1, rows, 4) if rows else (0, None, None, 0))
        assert _gone(path, rows) == 0
        file.execute("DELETE FROM waiting WHERE key <= 5")
    file.close()
    assert _gone(path, rows) == min(rows, 5)


def test_scale_stands_for_all_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "scale,scales"])
    assert "there is no part scales; there are rows, " in capsys.readouterr().err
