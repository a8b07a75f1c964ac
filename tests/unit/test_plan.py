"""What a device can carry of a configuration, and which figures that needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import av
import click
import pytest
from click.testing import CliRunner

from agent.cli import root
from agent.cli.io.numbers import decimal
from agent.config.loader import load_config
from agent.demo import demo_clip, demo_package
from agent.runtime.errors import Unavailable, UsageError
from agent.tools.benchmark.report import PipelineResult, Report
from agent.tools.benchmark.statistics import spread_of
from agent.tools.plan.figures import Figure, clip_cost
from agent.tools.plan.load import CapacityPlan, Device, plan, this_device
from agent.tools.plan.words import as_dict, lines, sentence
from engines import available_cores, describe, load_unknown_package
from engines.sandbox.memory import total_bytes
from tests.fixtures.benchmark_reports import PACED, case_result, engine_result, report_of
from tests.fixtures.videos import write_video

_DEVICE = Device(cores=2, memory_mib=1000.0)
_INSPECT = {"infer_ms": 10.0, "cpu_ms": 12.0, "memory_mib": 200.0}
_CAMERAS = {"camera_mib": 10.0}


def _config(folder: Path, *, models: str = "inspect: {package: demo, engine: ort-cpu}", cameras: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(
        f"version: 1\nstate_dir: state\nmodels: {{{models}}}\ncameras:\n{cameras}mqtt: {{broker: embedded}}\n"
    )
    return path


def _camera(name: str, rest: str = "", model: str = "inspect") -> str:
    return f"  {name}: {{source: {{type: pattern, fps: 30}}, {rest} classify: [{{model: {model}}}]}}\n"


def _plan(
    path: Path,
    stated: Mapping[str, float],
    *,
    device: Device = _DEVICE,
    reports: Mapping[str, Report] | None = None,
    clips: Mapping[str, Path] | None = None,
    keep_free: float = 0.0,
    accepts_invalid: bool = False,
) -> CapacityPlan:
    return plan(
        load_config(path), device=device, reports=reports or {}, clips=clips or {}, stated=stated,
        keep_free=keep_free, accepts_invalid=accepts_invalid,
    )  # fmt: skip


def _of(model: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"models.{model}.{name}": value for name, value in figures.items()}


def _limit(found: CapacityPlan, name: str) -> float:
    return next(limit.needed for limit in found.limits if limit.name == name)


def test_needs_are_added_over_the_cameras(tmp_path: Path) -> None:
    path = _config(tmp_path, cameras=_camera("north", "rate_hz: 5,") + _camera("south"))
    found = _plan(path, _of("inspect", _INSPECT) | _CAMERAS)
    assert _limit(found, "CPU") == pytest.approx((5 + 30) * 12.0)
    assert _limit(found, "engine of inspect") == pytest.approx((5 + 30) * 10.0)
    assert _limit(found, "memory") == pytest.approx(210.0)
    assert (found.first.name, found.fits) == ("engine of inspect", True)


@pytest.mark.parametrize(
    ("change", "device", "first"),
    [
        ({"models.inspect.cpu_ms": 70.0}, _DEVICE, "CPU"),
        ({"models.inspect.infer_ms": 34.0}, _DEVICE, "engine of inspect"),
        ({}, Device(cores=2, memory_mib=199.0), "memory"),
    ],
)
def test_the_limit_that_is_exceeded_is_named(
    tmp_path: Path, change: Mapping[str, float], device: Device, first: str
) -> None:
    path = _config(tmp_path, cameras=_camera("north"))
    found = _plan(path, {**_of("inspect", _INSPECT), **change}, device=device)
    assert (found.first.name, found.fits) == (first, False)
    assert sentence(found).startswith(f"This device does not carry it: {first} needs")


def test_share_to_keep_free_decides(tmp_path: Path) -> None:
    path = _config(tmp_path, cameras=_camera("north"))
    figures = _of("inspect", _INSPECT | {"infer_ms": 30.0})  # 90 % of the engine
    assert _plan(path, figures, keep_free=0.05).fits
    assert not _plan(path, figures, keep_free=0.2).fits


@pytest.mark.parametrize("figure", ["infer_ms", "cpu_ms", "memory_mib"])
def test_missing_figure_is_named_with_its_command(tmp_path: Path, figure: str) -> None:
    path = _config(tmp_path, cameras=_camera("north"))
    given = {name: value for name, value in _INSPECT.items() if name != figure}
    with pytest.raises(
        Unavailable, match=rf"models.inspect.{figure}: agent benchmark --package demo .*ort-cpu"
    ) as error:
        _plan(path, _of("inspect", given))
    assert error.value.fields["missing"] == [f"models.inspect.{figure}"]


@pytest.mark.parametrize(
    ("camera", "missing", "remedy"),
    [
        ("{source: {type: file, path: demo}, ", ["cameras.it.rate_hz"], "as fast as it can"),
        (
            '{source: {type: rtsp, url: "rtsp://192.0.2.1/s"}, rate_hz: 5, ',
            ["cameras.it.decode_ms", "cameras.it.convert_ms"],
            "--clip it=FILE",
        ),
        ("{source: {type: pattern}, trigger: {}, ", ["cameras.it.rate_hz"], "triggered"),
        (
            "{source: {type: image, path: agent.yaml}, rate_hz: 1, ",
            ["cameras.it.decode_ms", "cameras.it.convert_ms"],
            "--clip it=FILE",
        ),
    ],
)
def test_camera_whose_cost_nobody_knows(tmp_path: Path, camera: str, missing: Sequence[str], remedy: str) -> None:
    path = _config(tmp_path, cameras=f"  it: {camera} classify: [{{model: inspect}}]}}\n")
    with pytest.raises(Unavailable, match=remedy) as error:
        _plan(path, _of("inspect", _INSPECT))
    assert error.value.fields["missing"] == missing


def test_disabled_camera_needs_nothing(tmp_path: Path) -> None:
    path = _config(tmp_path, cameras=_camera("north") + _camera("south", "enabled: false,"))
    assert _limit(_plan(path, _of("inspect", _INSPECT)), "engine of inspect") == pytest.approx(300.0)


@pytest.mark.parametrize(("cameras", "is_warned"), [(6, False), (7, True)])
def test_more_results_than_one_process_carries_are_named(tmp_path: Path, cameras: int, *, is_warned: bool) -> None:
    path = _config(tmp_path, cameras="".join(_camera(f"c{n}") for n in range(cameras)))
    found = _plan(path, _of("inspect", {**_INSPECT, "infer_ms": 0.1, "cpu_ms": 0.1}) | _CAMERAS)
    assert found.fits
    warned = [text for text in found.warnings if "results a second" in text]
    assert len(warned) == is_warned
    assert all("210 results a second" in text and "up to 200" in text for text in warned)


def test_models_on_one_gpu_share_it(tmp_path: Path) -> None:
    models = "a: {package: demo, engine: tensorrt}, b: {package: demo, engine: ort-cuda}"
    path = _config(tmp_path, models=models, cameras=_camera("one", model="a") + _camera("two", model="b"))
    figures = _INSPECT | {"infer_ms": 20.0, "further_mib": 50.0}
    found = _plan(path, _of("a", figures) | _of("b", figures) | _CAMERAS)
    assert (found.first.name, found.fits) == ("GPU", False)
    assert found.first.needed == pytest.approx(1200.0)
    assert _limit(found, "memory") == pytest.approx(260.0)


def test_which_engine_runs_is_not_guessed(tmp_path: Path) -> None:
    models = "a: {package: demo}, b: {package: demo, engine: ort-cpu}"
    path = _config(tmp_path, models=models, cameras=_camera("one", model="a") + _camera("two", model="b"))
    figures = _INSPECT | {"further_mib": 50.0}
    with pytest.raises(UsageError, match="a has engine: auto and no report says"):
        _plan(path, _of("a", figures) | _of("b", figures) | _CAMERAS)


def test_clip_gives_the_cost_of_a_camera(tmp_path: Path) -> None:
    camera = '  it: {source: {type: rtsp, url: "rtsp://192.0.2.1/s"}, classify: [{model: inspect}]}\n'
    found = _plan(_config(tmp_path, cameras=camera), _of("inspect", _INSPECT), clips={"it": demo_clip()})
    cost = clip_cost(demo_clip())
    assert found.figures["cameras.it.rate_hz"].value == cost.fps
    assert found.figures["cameras.it.decode_ms"].value > 0
    assert found.figures["cameras.it.convert_ms"].value > 0
    assert _limit(found, "CPU") > cost.fps * 12.0


def test_file_is_decoded_at_its_rate(tmp_path: Path) -> None:
    found = []
    for rate in ("rate_hz: 3,", "rate_hz: 300,"):
        camera = f"  it: {{source: {{type: file, path: demo}}, {rate} classify: [{{model: inspect}}]}}\n"
        planned = _plan(_config(tmp_path, cameras=camera), _of("inspect", _INSPECT))
        found.append(planned.figures["cameras.it.decode_ms"].value)
    assert found[1] > 20 * found[0]  # a hundred times, as far as the machine lets CPU time be measured


def test_file_that_is_no_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.mp4").write_text("no video")
    with pytest.raises(UsageError, match=r"none\.mp4 cannot be read"):
        clip_cost(tmp_path / "none.mp4")


def test_pipe_in_the_place_of_a_clip_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UsageError, match=r"a clip must be a video file, but .*/pipe\.mp4 is no file"):
        clip_cost(tmp_path / "pipe.mp4")


def _path_of(cameras: int, cpu_ms: float, mib: int, source: str = "pattern 1280x720") -> PipelineResult:
    spread = spread_of([1_000_000] * 700)
    return PipelineResult(
        name=f"{cameras} cameras", cameras=cameras, source=source, fps=30.0, engine="ort-cpu", precision="fp32",
        results=700, wall_s=24.0, throughput_hz=30.0, end_to_end=spread, from_hand=spread, without_infer=spread,
        stages=(), bare=None, overhead_p50_ms=None, dropped={}, lost_on_the_way=0, cpu_ms_per_frame=cpu_ms,
        ready_s=1.0, resident_bytes=mib << 20, growth_bytes=0, others_ratio=0.0,
    )  # fmt: skip


def _report(tmp_path: Path, *pipelines: PipelineResult) -> Report:
    engine = engine_result("ort-cpu", "fp32", [case_result(PACED, [(8.0,) * 100] * 2)])
    package = load_unknown_package(demo_package(), tmp_path / "cache")
    report = report_of([engine], environment=describe().as_dict())
    return replace(report, model=replace(report.model, sha256=package.sha256), pipelines=pipelines)


def test_report_of_this_device_gives_the_figures(tmp_path: Path) -> None:
    clip = _path_of(1, 99.0, 900, source="street.mp4")
    report = _report(tmp_path, clip, _path_of(4, 9.0, 260), _path_of(1, 11.0, 200))
    path = _config(tmp_path, cameras=_camera("north") + _camera("south"))
    values = {name: figure.value for name, figure in _plan(path, {}, reports={"r.json": report}).figures.items()}
    assert values == {
        "models.inspect.infer_ms": pytest.approx(8.0),
        "models.inspect.cpu_ms": 11.0,
        "models.inspect.memory_mib": 200.0,
        "models.inspect.further_mib": 1.0,
        "camera_mib": 20.0,
    }


def test_stated_figure_replaces_the_measured_one(tmp_path: Path) -> None:
    report = _report(tmp_path, _path_of(1, 11.0, 200))
    path = _config(tmp_path, cameras=_camera("north"))
    found = _plan(path, {"models.inspect.infer_ms": 20.0}, reports={"r.json": report})
    assert found.figures["models.inspect.infer_ms"] == Figure(20.0, "stated")


def test_report_of_another_device_model_or_engine_is_refused(tmp_path: Path) -> None:
    report = _report(tmp_path, _path_of(1, 11.0, 200))
    path = _config(tmp_path, cameras=_camera("north"))
    elsewhere = replace(report, environment={**report.environment, "cpu": "another CPU"})
    with pytest.raises(UsageError, match=r"r\.json was measured with cpu another CPU, but this device has cpu"):
        _plan(path, {}, reports={"r.json": elsewhere})
    other = replace(report, model=replace(report.model, sha256="1" * 64))
    with pytest.raises(UsageError, match=r"is of m 1\.0\.0 .*, but the configuration uses inspect"):
        _plan(path, {}, reports={"r.json": other})
    path = _config(tmp_path, models="inspect: {package: demo, engine: tensorrt}", cameras=_camera("north"))
    with pytest.raises(UsageError, match="has ort-cpu fp32, but the configuration asks for tensorrt fp32"):
        _plan(path, {}, reports={"r.json": report})


def test_figure_without_a_meaning_is_refused(tmp_path: Path) -> None:
    path = _config(tmp_path, cameras=_camera("north"))
    with pytest.raises(UsageError, match=r"did you mean models\.inspect\.infer_ms"):
        _plan(path, _of("inspect", _INSPECT | {"infer_msec": 1.0}))
    with pytest.raises(UsageError, match="there is no camera 'east'"):
        _plan(path, _of("inspect", _INSPECT), clips={"east": demo_clip()})


def _refusal(tmp_path: Path, *arguments: str) -> str:
    path = _config(tmp_path, cameras=_camera("north"))
    done = CliRunner().invoke(root, ["plan", "-c", str(path), *arguments], standalone_mode=False)
    assert isinstance(done.exception, click.BadParameter), done.output
    return done.exception.message


@pytest.mark.parametrize(
    "value", ["", "x", "1_0", " 3", "3 ", "\uff11", "0x10", "nan", "inf", "1e400", "9" * 400, "-1", "+1", "1.", "1,5"]
)
def test_figure_in_another_spelling_is_refused_with_both_facts(tmp_path: Path, value: str) -> None:
    name = "models.inspect.infer_ms"
    told = _refusal(tmp_path, "--figure", f"{name}={value}")
    assert told.startswith(f"{name} needs a decimal number from 0 on, but is {value!r}; write it like")


@pytest.mark.parametrize(
    ("value", "number"), [("0", 0.0), ("2.5", 2.5), ("1e-3", 0.001), ("2E2", 200.0), ("007", 7.0)]
)
def test_figure_in_plain_decimals(value: str, number: float) -> None:
    assert decimal(value) == number


@pytest.mark.parametrize("text", ["cpu", "=3"])
def test_figure_without_name_or_value(tmp_path: Path, text: str) -> None:
    assert _refusal(tmp_path, "--figure", text).startswith(f"{text!r} is not NAME=VALUE")


def test_two_values_of_one_figure_are_refused(tmp_path: Path) -> None:
    assert _refusal(tmp_path, "--figure", "a=1", "--figure", "a=2") == "a is 1, but also 2; give one of them"


@pytest.mark.parametrize("value", ["1_0", " 3", "\uff11", "2.0", "nan"])
def test_share_to_keep_free_in_another_spelling_is_refused(tmp_path: Path, value: str) -> None:
    assert f"it needs a whole number, but is {value!r}" in _refusal(tmp_path, "--keep-free", value)


def test_report_that_is_not_valid_needs_a_word(tmp_path: Path) -> None:
    report = _report(tmp_path, _path_of(1, 11.0, 200))
    (engine,) = report.engines
    (case,) = engine.cases
    drifted = replace(engine, cases=(replace(case, invalid=("the machine drifted",)),))
    invalid = {"r.json": replace(report, engines=(drifted,))}
    path = _config(tmp_path, cameras=_camera("north"))
    with pytest.raises(UsageError, match=r"r\.json is not valid: the machine drifted: .*add --accept-invalid"):
        _plan(path, {}, reports=invalid)
    found = _plan(path, {}, reports=invalid, accepts_invalid=True)
    assert any(text.startswith("r.json is not valid: the machine drifted") for text in found.warnings)
    assert found.warnings[-1] in "\n".join(lines(found))


def test_report_of_a_quick_run_is_named(tmp_path: Path) -> None:
    report = replace(_report(tmp_path, _path_of(1, 11.0, 200)), is_quick=True)
    found = _plan(_config(tmp_path, cameras=_camera("north")), {}, reports={"r.json": report})
    assert found.warnings == ("r.json is of a quick run",)


def _clip(tmp_path: Path, frames: int) -> Path:
    return write_video(tmp_path / "clip.mp4", frames=frames)


def test_clip_of_which_only_the_beginning_is_decoded_is_named(tmp_path: Path) -> None:
    clip = _clip(tmp_path, 400)
    camera = '  it: {source: {type: rtsp, url: "rtsp://192.0.2.1/s"}, classify: [{model: inspect}]}\n'
    found = _plan(_config(tmp_path, cameras=camera), _of("inspect", _INSPECT), clips={"it": clip})
    (warning,) = found.warnings
    assert warning.startswith("clip.mp4, the clip of it, has about ")
    assert warning.endswith("but only its first 10 s were decoded")


def test_whole_clip_has_no_remark(tmp_path: Path) -> None:
    assert clip_cost(_clip(tmp_path, 100)).remarks == ()


def test_clip_that_was_cut_off_is_named(tmp_path: Path) -> None:
    """Its index is at the front and announces frames that are not in the file."""
    whole, cut = _clip(tmp_path, 100), tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(cut.read_bytes()[: -cut.stat().st_size // 3])
    assert any("announces 100 frames, but" in text for text in clip_cost(cut).remarks)


def test_json_has_what_the_text_says(tmp_path: Path) -> None:
    found = _plan(_config(tmp_path, cameras=_camera("north")), _of("inspect", _INSPECT))
    document = as_dict(found)
    assert document["first"] == "engine of inspect"
    assert document["sentence"] == list(lines(found))[-1]


def _stated(figures: Mapping[str, float]) -> list[str]:
    return [word for name, value in figures.items() for word in ("--figure", f"{name}={value}")]


def test_command_prints_the_plan_and_its_exit_code(tmp_path: Path) -> None:
    path = _config(tmp_path, cameras=_camera("north"))
    fits = CliRunner().invoke(
        root, ["plan", "-c", str(path), "--json", *_stated(_of("inspect", _INSPECT))], standalone_mode=False
    )
    assert (fits.return_value, json.loads(fits.stdout)["fits"]) == (0, True)
    slow = _of("inspect", _INSPECT | {"infer_ms": 99.0})
    not_carried = CliRunner().invoke(root, ["plan", "-c", str(path), *_stated(slow)], standalone_mode=False)
    assert (not_carried.return_value, "does not carry it: engine of inspect" in not_carried.stdout) == (1, True)


@pytest.mark.parametrize("command", [["plan", "-c"], ["config", "check"]], ids=["plan", "config-check"])
def test_reports_of_one_name_in_two_folders_are_both_read(tmp_path: Path, command: list[str]) -> None:
    path = _config(tmp_path, cameras=_camera("north"))
    words = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "inspect.json").write_text(_report(tmp_path, _path_of(1, 6.0, 250)).as_json())
        words += ["--report", str(tmp_path / folder / "inspect.json")]
    done = CliRunner().invoke(root, [*command, str(path), *words, "--accept-invalid"])
    assert "b/inspect.json is of the model inspect, but another report is too" in str(done.exception)


def test_config_check_warns_of_an_exceeded_limit(tmp_path: Path) -> None:
    path = _config(tmp_path, cameras=_camera("north"))
    slow = _stated(_of("inspect", _INSPECT | {"infer_ms": 99.0}))
    for arguments, words in (
        (slow, "engine of inspect: the configuration needs 2970 ms/s, but this device has 1000"),
        (slow[:2], "nobody has measured or stated"),
    ):
        checked = CliRunner().invoke(root, ["config", "check", str(path), "--json", *arguments], standalone_mode=False)
        assert any(words in warning for warning in json.loads(checked.stdout)["warnings"])
    fine = _stated(_of("inspect", _INSPECT | {"memory_mib": 1.0}))
    checked = CliRunner().invoke(root, ["config", "check", str(path), "--json", *fine], standalone_mode=False)
    assert json.loads(checked.stdout)["warnings"] == []


def test_this_device_has_cores_and_memory() -> None:
    device = this_device()
    total_mib = (total_bytes() or 0) / (1 << 20)
    assert device.cores == available_cores()
    assert 0 < device.memory_mib < total_mib
