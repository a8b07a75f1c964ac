"""ONNX Runtime's traps: it falls back silently, prints to stdout, sends telemetry, and may never return."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import EngineLost, EngineOptions, EngineUnavailable, InferenceFailed, ModelPackage, load_package
from engines.backends.onnxruntime.engine import BoundRunner, DirectRunner, OnnxRuntimeEngine, open_onnxruntime
from engines.backends.onnxruntime.options import session_settings
from engines.backends.onnxruntime.session import CPU, SessionPlan, create_session, failure_from
from engines.graph.ort_library import library
from engines.graph.serving import ServingGraph, serving_graph
from tests.fixtures.colour_packages import colour_image, write_colour_package

# Tens of seconds unless it is interrupted. Not endless: if a version ignores the flag inside a loop, the test must
# fail and not hang, because nothing else can interrupt native code.
_TURNS = 8_000_000


@pytest.fixture(scope="module", autouse=True)
def _library_is_loaded() -> None:
    """ONNX Runtime keeps files open until the process ends; it must open them before a test counts them."""
    library()


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_colour_package(tmp_path / "package", calibration=0))


def _open(package: ModelPackage, cache_dir: Path, *, engine: str = "ort-cpu") -> OnnxRuntimeEngine:
    options = EngineOptions(cache_dir=cache_dir, engine=engine, max_batch=2)
    return open_onnxruntime(package, options, engine=engine, graph=serving_graph(package, cache_dir=cache_dir))


def test_a_damaged_checksum_of_the_optimised_graph_is_no_error(package: ModelPackage, tmp_path: Path) -> None:
    """A power cut can leave binary data."""
    _open(package, tmp_path / "cache").close()
    (checksum,) = (tmp_path / "cache" / "graphs").glob("*.cpu-*.sha256")
    checksum.write_bytes(b"\xff\x00\xfe" * 20)
    _open(package, tmp_path / "cache").close()
    assert checksum.read_text() == hashlib.sha256(checksum.with_suffix("").read_bytes()).hexdigest()


def _image() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An image with no byte as bright as white."""
    return np.minimum(colour_image("green", side=32), 254)[None].astype(np.uint8)


def _plan(model: Path, provider: str) -> SessionPlan:
    settings = session_settings("ort", provider, {}, default_threads=1)
    return SessionPlan(engine="ort-x", provider=provider, model=model, settings=settings)


def _session_that_turns_long_when_it_sees_white(path: Path) -> ServingGraph:
    """Write a serving graph whose loop runs once, or `_TURNS` times if a byte is 255."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["sum_in", "one"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, [1, 4]),
        ],
        [numpy_helper.from_array(np.ones((1, 4), np.float32), "one")],
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["numbers"], ["brightest"], keepdims=0),
        helper.make_node("Equal", ["brightest", "white"], ["is_white"]),
        helper.make_node("Where", ["is_white", "long", "once"], ["turns"]),
        helper.make_node("Loop", ["turns", "yes", "zero"], ["sum"], body=body),
        helper.make_node("Softmax", ["sum"], ["scores"], axis=1),
    ]
    constants = {
        "white": np.array(255, np.int64),
        "long": np.array(_TURNS, np.int64),
        "once": np.array(1, np.int64),
        "yes": np.array([True]).reshape(()),
        "zero": np.zeros((1, 4), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return ServingGraph(path=path, sha256="", precision="fp32", max_batch=1)


def test_an_interrupted_call_ends_and_the_engine_goes_on(package: ModelPackage, tmp_path: Path) -> None:
    graph = _session_that_turns_long_when_it_sees_white(tmp_path / "long.onnx")
    options = EngineOptions(cache_dir=tmp_path, engine="ort-cpu", options={"threads": 1})
    with open_onnxruntime(package, options, engine="ort-cpu", graph=graph) as engine:
        before = engine.infer(_image())
        done = threading.Event()

        def interrupt_until_done() -> None:
            while not done.wait(0.05):
                engine.interrupt()

        thread = threading.Thread(target=interrupt_until_done, name="interrupter")
        thread.start()
        try:
            with pytest.raises(InferenceFailed, match="terminate"):
                engine.infer(np.full((1, 32, 32, 3), 255, np.uint8))
        finally:
            done.set()
            thread.join(10)
        np.testing.assert_array_equal(engine.infer(_image()), before)


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_session_never_falls_back_to_the_cpu_silently(
    package: ModelPackage, tmp_path: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The GPU build without a GPU would fall back to the CPU; the CPU build would only warn."""
    model = serving_graph(package, cache_dir=tmp_path).path
    if provider in library().get_available_providers() and _has_gpu():
        pytest.skip("this machine has a GPU, so the session may come up")
    with pytest.raises(EngineUnavailable) as caught:
        create_session(_plan(model, provider))
    assert provider in caught.value.message
    assert caught.value.exit_code == 69
    assert capfd.readouterr().out == ""


def _has_gpu() -> bool:
    from engines.select.registry import Prober

    return bool(Prober().gpus)


def test_a_missing_provider_is_refused_with_the_available_ones(package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"QNNExecutionProvider.*has .*CPUExecutionProvider"):
        _open(package, tmp_path, engine="ort-qnn")


def test_an_engine_prints_nothing_to_stdout(
    package: ModelPackage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with _open(package, tmp_path) as engine:
        engine.infer(_image())
    assert capfd.readouterr().out == ""


def test_no_telemetry_is_kept_or_sent(package: ModelPackage, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys, pathlib, engines\n"
        "package = engines.load_package(pathlib.Path(sys.argv[1]))\n"
        "options = engines.EngineOptions(cache_dir=pathlib.Path(sys.argv[2]), engine='auto')\n"
        "engines.open_engine(package, options).close()\n"
        "engines.describe()\n"
    )
    command = [sys.executable, "-c", code, str(package.directory), str(tmp_path / "cache")]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path)}
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert list(home.rglob("*")) == []


def test_the_optimised_graph_is_kept_and_used(package: ModelPackage, tmp_path: Path) -> None:
    with _open(package, tmp_path) as engine:
        first = engine.infer(_image())
    kept = list((tmp_path / "graphs").glob("*.cpu-*.onnx"))
    assert len(kept) == 1
    written = kept[0].stat().st_mtime_ns
    with _open(package, tmp_path) as engine:
        np.testing.assert_array_equal(engine.infer(_image()), first)
    assert kept[0].stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\1" * 99)])
def test_a_damaged_optimised_graph_is_made_again(
    package: ModelPackage, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    with _open(package, tmp_path) as engine:
        first = engine.infer(_image())
    damage(next((tmp_path / "graphs").glob("*.cpu-*.onnx")))
    with _open(package, tmp_path) as engine:
        np.testing.assert_array_equal(engine.infer(_image()), first)


def test_an_invalid_serving_graph_is_refused_with_the_librarys_error(package: ModelPackage, tmp_path: Path) -> None:
    (tmp_path / "page.onnx").write_text("<html>not found</html>")
    graph = ServingGraph(path=tmp_path / "page.onnx", sha256="", precision="fp32", max_batch=None)
    with pytest.raises(EngineUnavailable, match=r"cannot load page\.onnx on CPUExecutionProvider: .*INVALID_PROTOBUF"):
        open_onnxruntime(package, EngineOptions(cache_dir=tmp_path), engine="ort-cpu", graph=graph)


def test_bound_buffers_give_the_same_scores_as_arrays(package: ModelPackage, tmp_path: Path) -> None:
    graph = serving_graph(package, cache_dir=tmp_path)
    session = create_session(_plan(graph.path, CPU))
    direct = DirectRunner(session, graph)
    bound = BoundRunner(session, graph, memory="cpu", classes=4)
    options = library().RunOptions()
    batches = [np.concatenate([_image()] * count) for count in (1, 3, 1, 2)]
    batches[2] = np.zeros_like(batches[2])
    answers = [bound.run(batch, options) for batch in batches]
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(answer, direct.run(batch, options))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", EngineLost),
        ("CUDA failure 999: unknown error ; GPU=0", EngineLost),
        ("CUDA failure 719: unspecified launch failure", EngineLost),
        ("CUDA error 46: all CUDA-capable devices are busy or unavailable", EngineLost),
        ("CUDA failure 2: out of memory ; GPU=0", InferenceFailed),
        ("Failed to allocate memory for requested buffer of size 700", InferenceFailed),
        ("Exiting due to terminate flag being set to true", InferenceFailed),
    ],
)
def test_only_sticky_errors_count_as_a_lost_device(text: str, kind: type[Exception]) -> None:
    assert type(failure_from("ort-cuda", 1, RuntimeError(text))) is kind


def test_the_librarys_error_is_on_one_line() -> None:
    failure = failure_from("ort-cpu", 2, RuntimeError("line one\nline two\n" * 100))
    assert "\n" not in failure.message
    assert len(failure.message) < 700
