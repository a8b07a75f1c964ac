"""The gRPC face with a real client: its calls, what is refused, deadlines, cancellation, tokens, TLS."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
import uvloop

from agent.config.loader import LoadedConfig, load_config
from agent.inference.pipeline import Parts, Pipeline
from agent.runtime.clock import SystemClock
from agent.runtime.errors import AgentError, Unavailable
from agent.web.served_models import ModelControl, ServedModel, ServedModels
from agent.web.service import WebService
from engines import PROTOCOL_SERVICE, EngineOptions, EngineUnavailable, Images, Scores, protocol_message
from engines.backends.triton.engine import TritonEngine, open_triton
from tests.fixtures import grpc_core  # noqa: F401 it keeps gRPC alive
from tests.fixtures.agent_process import write_config
from tests.fixtures.certificates import Authority
from tests.fixtures.deadlines import wait_until
from tests.fixtures.mosquitto import free_port
from tests.fixtures.own_logs import logs_of
from tests.fixtures.parts import SIDE, BrightnessEngine, ScriptedSource, plain_image, plain_package

# libuv keeps one pipe per process from the first loop on; made here, it is no leak of a test.
uvloop.new_event_loop().close()

LABELS = ("ok", "dent", "scratch")
TOKEN = "t" * 32


@dataclass
class Face:
    """A running gRPC face and a channel to it."""

    service: WebService
    pipeline: Pipeline
    channel: Any
    engine: BrightnessEngine

    def call(
        self, method: str, *, timeout: float = 10.0, token: str | tuple[str, ...] | None = None, **fields: Any
    ) -> Any:
        """One unary call; ``fields`` are those of its request."""
        return self.begin(method, timeout=timeout, token=token, **fields).result()

    def begin(
        self, method: str, *, timeout: float = 10.0, token: str | tuple[str, ...] | None = None, **fields: Any
    ) -> Any:
        """The same, without waiting for its end."""
        request = protocol_message(f"{method}Request")(**fields)
        tokens = (token,) if isinstance(token, str) else token or ()
        metadata = tuple(("authorization", f"Bearer {one}") for one in tokens)
        make = self.channel.unary_unary(
            f"{PROTOCOL_SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=protocol_message(f"{method}Response").FromString,
        )
        return make.future(request, timeout=timeout, metadata=metadata)

    def infer(self, *values: int, model: str = "inspect", timeout: float = 10.0, **fields: Any) -> Any:
        """Classify images of these brightnesses."""
        return self.call("ModelInfer", timeout=timeout, **_request(*values, model=model, **fields))


def _request(*values: int, model: str = "inspect", **fields: Any) -> dict[str, Any]:
    images = np.stack([plain_image(value) for value in values])
    inputs = [{"name": "images", "datatype": "UINT8", "shape": images.shape}]
    return {"model_name": model, "inputs": inputs, "raw_input_contents": [images.tobytes()], **fields}


def _scores(response: Any) -> Scores:
    place = [one.name for one in response.outputs].index("scores")
    scores: Scores = np.frombuffer(response.raw_output_contents[place], "<f4").reshape(response.outputs[place].shape)
    return scores


def _loaded(directory: Path, **serve: Any) -> LoadedConfig:
    models = {"inspect": {"package": "demo", "serve": True}}
    return load_config(write_config(directory, {"models": models, "serve": {"grpc": "127.0.0.1:0", **serve}}))


@contextmanager
def _face(
    directory: Path,
    *,
    on_infer: Callable[[Images], None] | None = None,
    control: ModelControl | None = None,
    labels: Sequence[str] = LABELS,
    models: type[ServedModels] = ServedModels,
    **serve: Any,
) -> Iterator[Face]:
    loaded = _loaded(directory, **serve)
    engine = BrightnessEngine(len(labels), on_infer=on_infer)
    parts = Parts(lambda *_: engine, lambda _: ScriptedSource([], is_live=True))
    packages = {"inspect": plain_package(*labels)}
    with Pipeline(loaded.config, packages, parts, clock=SystemClock(), emit=lambda _: None) as pipeline:
        pipeline.start_workers()
        assert pipeline.workers["inspect"].wait_ready(5.0)
        service = WebService(loaded, models(pipeline, control))
        try:
            service.start()
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = grpc.insecure_channel(service.grpc_address or "", options=options)
            with channel:
                yield Face(service, pipeline, channel, engine)
        finally:
            service.stop()


@pytest.fixture
def face(tmp_path: Path) -> Iterator[Face]:
    with _face(tmp_path) as running:
        yield running


def _refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def test_health_metadata_configuration_statistics_and_index(face: Face) -> None:
    assert face.call("ServerLive").live
    assert face.call("ServerReady").ready
    assert face.call("ModelReady", name="inspect").ready
    assert face.call("ModelReady", name="inspect", version="1").ready
    assert not face.call("ModelReady", name="nothing").ready
    assert not face.call("ModelReady", name="inspect", version="2").ready
    assert face.call("ServerMetadata").name == "edge-inference-agent"
    model = face.call("ModelMetadata", name="inspect")
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        ("images", "UINT8", [-1, SIDE, SIDE, 3]),
        ("encoded", "BYTES", [-1, 1]),
    ]
    config = face.call("ModelConfig", name="inspect").config
    assert config.max_batch_size == 4
    assert [one.optional for one in config.input] == [False, True]
    assert config.parameters["engine"].string_value == "brightness"
    face.infer(0, 1)
    (one,) = face.call("ModelStatistics").model_stats
    assert (one.name, one.inference_count, one.execution_count) == ("inspect", 2, 1)
    assert one.inference_stats.success.count == 1
    assert face.call("ModelStatistics", name="inspect").model_stats[0].batch_stats[0].batch_size == 2
    (entry,) = face.call("RepositoryIndex").models
    assert (entry.name, entry.state) == ("inspect", "READY")


def test_images_are_classified_by_raw_and_by_typed_contents(face: Face) -> None:
    response = face.infer(2, 0, id="7")
    assert (response.model_name, response.model_version, response.id) == ("inspect", "1", "7")
    assert _scores(response).argmax(axis=1).tolist() == [2, 0]
    assert face.engine.batches == [2]
    contents = {"uint_contents": plain_image(1).ravel().tolist()}
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3], "contents": contents}
    typed = face.call("ModelInfer", model_name="inspect", inputs=[tensor])
    assert _scores(typed).argmax() == 1


def test_encoded_images_are_decoded_and_labels_and_classes_are_answered(face: Face) -> None:
    png = cv2.imencode(".png", plain_image(2, 40))[1].tobytes()
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1, 1], "contents": {"bytes_contents": [png]}}
    classes = {"name": "scores", "parameters": {"classification": {"int64_param": 2}}}
    response = face.call("ModelInfer", model_name="inspect", inputs=[tensor], outputs=[classes, {"name": "labels"}])
    assert [list(one.shape) for one in response.outputs] == [[1, 2], [1, 1]]
    assert response.raw_output_contents[0][4:].startswith(b"0.900000:2:scratch")
    assert response.raw_output_contents[1] == b"\x07\x00\x00\x00scratch"


_CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"model_name": "nothing"}, _CODE.NOT_FOUND, "unknown model: 'nothing'"),
        ({"model_version": "2"}, _CODE.NOT_FOUND, "version 2"),
        ({"raw_input_contents": []}, _CODE.INVALID_ARGUMENT, "has 0 values"),
        ({"raw_input_contents": [b"x"] * 2}, _CODE.INVALID_ARGUMENT, "1 inputs, but 2 raw_input_contents"),
        ({"raw_input_contents": [b"x"]}, _CODE.INVALID_ARGUMENT, "has 1 values"),
        ({"inputs": []}, _CODE.INVALID_ARGUMENT, "0 inputs, but 1 raw_input_contents"),
        ({"outputs": [{"name": "logits"}]}, _CODE.INVALID_ARGUMENT, "unexpected inference output 'logits'"),
        ({"id": "x" * 300}, _CODE.INVALID_ARGUMENT, "id has 300 characters"),
        ({"parameters": {"priority": {"int64_param": 99}}}, _CODE.INVALID_ARGUMENT, "priority is 99"),
        ({"parameters": {"timeout": {"string_param": "soon"}}}, _CODE.INVALID_ARGUMENT, "timeout"),
        ({"parameters": {"sequence_id": {"int64_param": 1}}}, _CODE.INVALID_ARGUMENT, "keep no state"),
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_is_refused(face: Face, fields: Any, code: Any, message: str) -> None:
    got, said = _refused(lambda: face.call("ModelInfer", **{**_request(1), **fields}))
    assert (got, message in said) == (code, True), said
    assert _scores(face.infer(1)).argmax() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [-1, SIDE, SIDE, 3]}, "at least 0"),
        ({"shape": [2**40, SIDE, SIDE, 3]}, "at least 0"),
        ({"shape": [1, SIDE, SIDE]}, "unexpected shape"),
        ({"shape": [9, SIDE, SIDE, 3]}, "batch-size must be 1 to 4"),
        ({"datatype": "FP32"}, "data-type is 'FP32'"),
        ({"name": "pixels"}, "unexpected inference input 'pixels'"),
        ({"contents": {"uint_contents": [1]}}, "both contents and raw"),
    ],
    ids=str,
)
def test_an_input_that_does_not_fit_is_refused(face: Face, change: Any, message: str) -> None:
    request = _request(1)
    request["inputs"] = [{**request["inputs"][0], **change}]
    code, said = _refused(lambda: face.call("ModelInfer", **request))
    assert (code, message in said) == (_CODE.INVALID_ARGUMENT, True), said


def test_shared_memory_is_unimplemented_as_a_call_and_as_a_parameter(face: Face) -> None:
    texts = {
        "SystemSharedMemoryStatus": "no shared memory; send tensors as binary data",
        "CudaSharedMemoryRegister": "no shared memory; send tensors as binary data",
        "TraceSetting": "no trace settings; /metrics",
        "LogSettings": "no log settings; `agent --help`",
        "Nothing": "no such call here; use those of the Open Inference Protocol",
    }
    for method, text in texts.items():
        call = face.channel.unary_unary(f"{PROTOCOL_SERVICE}/{method}")
        code, said = _refused(partial(call, b""))
        assert code is _CODE.UNIMPLEMENTED
        assert text in said
    code, said = _refused(partial(face.channel.unary_unary("/grpc.health.v1.Health/Check"), b""))
    assert code is _CODE.UNIMPLEMENTED
    assert "has the service" in said
    request = _request(1)
    request["inputs"][0]["parameters"] = {"shared_memory_region": {"string_param": "r"}}
    assert _refused(lambda: face.call("ModelInfer", **request))[0] is _CODE.UNIMPLEMENTED


def test_a_stream_answers_in_order_and_goes_on_after_a_refusal(face: Face) -> None:
    requests: queue.Queue[Any] = queue.Queue()
    message = protocol_message("ModelInferRequest")
    call = face.channel.stream_stream(
        f"{PROTOCOL_SERVICE}/ModelStreamInfer",
        request_serializer=message.SerializeToString,
        response_deserializer=protocol_message("ModelStreamInferResponse").FromString,
    )
    responses = call(iter(requests.get, None), timeout=10.0)
    for name, model in (("a", "inspect"), ("b", "nothing"), ("c", "inspect")):
        requests.put(message(**_request(2, model=model, id=name)))
    answers = [next(responses) for _ in range(3)]
    requests.put(None)
    assert list(responses) == []
    assert [one.infer_response.id for one in answers] == ["a", "b", "c"]
    assert [bool(one.error_message) for one in answers] == [False, True, False]


def test_a_message_that_cannot_be_read_is_the_clients_mistake(face: Face, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = b"\xff\xff\xff"
    for method in ("ModelMetadata", "ModelInfer", "ModelStatistics", "RepositoryIndex"):
        with logs_of("agent.web") as lines, pytest.raises(grpc.RpcError) as error:
            face.channel.unary_unary(f"{PROTOCOL_SERVICE}/{method}")(damaged, timeout=10)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method
        assert f"the message is no {method}Request" in (error.value.details() or "")
        assert lines == [], "a client must not fill the log"
    request = protocol_message("ModelInferRequest")(**_request(60)).SerializeToString()
    stream = face.channel.stream_stream(f"{PROTOCOL_SERVICE}/ModelStreamInfer")
    response = protocol_message("ModelStreamInferResponse").FromString
    refused, answered = map(response, stream(iter([damaged, request]), timeout=10))
    assert "the message is no ModelInferRequest" in refused.error_message
    assert _scores(answered.infer_response).shape == (1, len(LABELS))
    assert "Traceback" not in capfd.readouterr().err


class _Broken(ServedModels):
    """Its models end in an exception that nobody expects."""

    def get(self, name: str, version: str = "") -> ServedModel:
        raise KeyError(f"secret of {name}")


@pytest.mark.parametrize("call", ["ModelInfer", "ModelMetadata", "ModelStreamInfer"])
def test_an_internal_error_is_answered_as_internal_and_logged(tmp_path: Path, call: str) -> None:
    with _face(tmp_path, models=_Broken) as face, logs_of("agent.web") as lines:
        path = f"{PROTOCOL_SERVICE}/{call}"
        name = protocol_message("ModelMetadataRequest" if call == "ModelMetadata" else "ModelInferRequest")
        request = (name(name="inspect") if call == "ModelMetadata" else name(model_name="inspect")).SerializeToString()
        with pytest.raises(grpc.RpcError) as error:
            if call == "ModelStreamInfer":
                list(face.channel.stream_stream(path)(iter([request]), timeout=10))
            else:
                face.channel.unary_unary(path)(request, timeout=10)
        assert face.call("ServerLive").live
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert error.value.details() == (
        "the server failed to answer because of an internal error; the agent's log has it as serve.call_failed"
    )
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["error"]) == ("serve.call_failed", "KeyError: 'secret of inspect'")


def test_a_deadline_and_a_cancelled_call_leave_the_queue(tmp_path: Path) -> None:
    hold, running = threading.Event(), threading.Event()

    def on_infer(_: Images) -> None:
        running.set()
        hold.wait(10.0)

    with _face(tmp_path, on_infer=on_infer, max_waiting=2) as face:
        try:
            first = face.begin("ModelInfer", **_request(1))
            assert running.wait(5.0)
            assert _refused(lambda: face.infer(1, timeout=0.2))[0] is _CODE.DEADLINE_EXCEEDED
            requests = face.pipeline.workers["inspect"].requests
            wait_until(lambda: requests.waiting == 0)
            gone, waits = (face.begin("ModelInfer", **_request(1)) for _ in range(2))
            wait_until(lambda: requests.waiting == 2)
            code, said = _refused(lambda: face.infer(1))
            assert code is _CODE.RESOURCE_EXHAUSTED, said
            gone.cancel()
            wait_until(lambda: requests.waiting == 1)
        finally:
            hold.set()
        assert _scores(first.result()).argmax() == _scores(waits.result()).argmax() == 1


def test_a_request_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    with _face(tmp_path, max_body_mib=1) as face:
        request = {**_request(1), "raw_input_contents": [bytes(2 << 20)]}
        assert _refused(lambda: face.call("ModelInfer", **request))[0] is _CODE.RESOURCE_EXHAUSTED
        assert _scores(face.infer(1)).argmax() == 1


def test_calls_need_the_token_but_for_the_health_of_the_server(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"line {TOKEN}\n")
    tokens.chmod(0o600)
    with _face(tmp_path, tokens_file=str(tokens), max_requests_per_s=1.0) as face:
        assert face.call("ServerLive").live
        assert face.call("ServerReady").ready
        for token in (None, "wrong"):
            code, said = _refused(partial(face.call, "ServerMetadata", token=token))
            assert code is _CODE.UNAUTHENTICATED
            assert "wrong" not in said
        for two in ((TOKEN, "wrong"), ("wrong", TOKEN)):
            code, said = _refused(partial(face.call, "ServerMetadata", token=two))
            assert (code, "authorization twice" in said) == (_CODE.INVALID_ARGUMENT, True)
        assert face.call("ModelReady", name="inspect", token=TOKEN).ready
        begun = face.begin("ModelReady", name="inspect", token=TOKEN)
        assert begun.exception().code() is _CODE.RESOURCE_EXHAUSTED
        assert ("retry-after", "1") in begun.trailing_metadata()


def test_loading_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    changed: list[str] = []

    def fail(_: str) -> None:
        raise AgentError("no such package")

    control = ModelControl(changed.append, fail)
    with _face(tmp_path / "no", control=control) as face:
        assert _refused(lambda: face.call("RepositoryModelLoad", model_name="inspect"))[0] is _CODE.UNAVAILABLE
    with _face(tmp_path / "yes", control=control, allow_load=True) as face:
        face.call("RepositoryModelLoad", model_name="inspect")
        assert changed == ["inspect"]
        assert _refused(lambda: face.call("RepositoryModelUnload", model_name="inspect"))[0] is _CODE.INTERNAL
        with_parameters: dict[str, Any] = {"model_name": "inspect", "parameters": {"config": {"string_param": "{}"}}}
        assert _refused(lambda: face.call("RepositoryModelLoad", **with_parameters))[0] is _CODE.UNIMPLEMENTED
        assert changed == ["inspect"]


def test_a_port_that_another_program_has_is_refused(face: Face, tmp_path: Path) -> None:
    with (
        pytest.raises(Unavailable, match=r"serve\.grpc: the server cannot listen on"),
        _face(tmp_path / "second", grpc=face.service.grpc_address),
    ):
        pytest.fail("it serves on a port that is taken")


def test_a_reload_replaces_the_server_on_its_port_and_moves_it_to_another(tmp_path: Path) -> None:
    port = free_port()
    with _face(tmp_path / "first", grpc=f"127.0.0.1:{port}") as face:
        for address, limit in ((f"127.0.0.1:{port}", 1), (f"127.0.0.1:{free_port()}", 2)):
            apply_change = face.service.prepare(_loaded(tmp_path / address, grpc=address, max_body_mib=limit))
            assert apply_change is not None
            apply_change()
            assert face.service.grpc_address == address
            with grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
                again = Face(face.service, face.pipeline, channel, face.engine)
                assert _scores(again.infer(1)).argmax() == 1
                request = {**_request(1), "raw_input_contents": [bytes((limit << 20) + 1000)]}
                code, said = _refused(partial(again.call, "ModelInfer", **request))
                assert code is _CODE.RESOURCE_EXHAUSTED, said
        assert face.service.prepare(_loaded(tmp_path / "same", grpc=address, max_body_mib=limit)) is None


def test_a_server_ends_while_a_call_runs(tmp_path: Path) -> None:
    hold, running = threading.Event(), threading.Event()

    def on_infer(_: Images) -> None:
        running.set()
        hold.wait(10.0)

    with _face(tmp_path, on_infer=on_infer) as face:
        begun = face.begin("ModelInfer", **_request(1))
        assert running.wait(5.0)
        face.service.stop()
        assert begun.exception() is not None
        hold.set()


# The engine warms up with gray images of brightness 127.
_MANY = tuple(f"label{index}" for index in range(128))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_engine_of_another_agent_reaches_this_one_by_tls_and_token(tmp_path: Path, protocol: str) -> None:
    authority = Authority(tmp_path / "ca")
    server, tokens, token = authority.server("server"), tmp_path / "tokens", tmp_path / "token"
    tokens.write_text(f"line {TOKEN}\n")
    tokens.chmod(0o600)
    token.write_text(TOKEN)
    tls = {"cert_file": str(server.certificate), "key_file": str(server.key)}
    serve: dict[str, Any] = {"http": "127.0.0.1:0", "tls": tls, "tokens_file": str(tokens)}
    with _face(tmp_path / "agent", labels=_MANY, **serve) as face:
        address = (face.service.address if protocol == "http" else face.service.grpc_address) or ""
        given = {"url": address, "model": "inspect", "protocol": protocol, "timeout_ms": 5000, "tls": True}
        trusted = {**given, "ca_file": str(server.authority)}
        with _open_remote({**trusted, "token_file": str(token)}) as engine:
            images = np.stack([plain_image(value) for value in (2, 0, 1)])
            assert engine.infer(images).argmax(axis=1).tolist() == [2, 0, 1]
            assert face.engine.batches[-1] == 3
            assert engine.info.device.startswith("edge-inference-agent ")
        for refused in (trusted, given, {**trusted, "tls": False, "ca_file": ""}):
            with pytest.raises(EngineUnavailable):
                _open_remote({name: value for name, value in refused.items() if value != ""})


def _open_remote(options: dict[str, object]) -> TritonEngine:
    wanted = EngineOptions(cache_dir=Path("/nowhere"), engine="triton", max_batch=4, options=options)
    return open_triton(plain_package(*_MANY), wanted)
