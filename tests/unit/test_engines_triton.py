"""The engine `triton`: options, signatures, faulty answers, time limits, tokens, batches, over HTTP and gRPC."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from engines import EngineOptions, EngineUnavailable, Images, OptionsRejected, Scores, ServerFailed, check_options
from engines.backends.triton.engine import TritonEngine, open_triton
from engines.backends.triton.options import remote_options
from tests.fixtures.certificates import Authority
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import SIDE, plain_package
from tests.fixtures.v2_server import Faults, GrpcService, Model, grpc_server, http_server

PACKAGE = plain_package("dark", "bright")
URL = {"url": "127.0.0.1:8000", "model": "m"}
Reply = tuple[int, dict[str, str], bytes]


def _answer(batch: Images) -> Scores:
    """Row i is ``[0, v]`` for an image of value v."""
    values = batch[:, 0, 0, 0].astype(np.float32)
    return np.stack([np.zeros_like(values), values], axis=1)


def _images(*values: int) -> Images:
    return np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in values])


def _options(port: int, *, max_batch: int = 4, **options: object) -> EngineOptions:
    given = {"url": f"127.0.0.1:{port}", "model": "m", "timeout_ms": 5000, **options}
    return EngineOptions(cache_dir=Path("/nowhere"), engine="triton", max_batch=max_batch, options=given)


class _Bench:
    """A server of one model, and an engine on it."""

    def __init__(self, protocol: str, port: int, model: Model, faults: Faults) -> None:
        self.protocol, self.port, self.model, self.faults = protocol, port, model, faults

    def open(self, **options: Any) -> TritonEngine:
        return open_triton(PACKAGE, _options(self.port, protocol=self.protocol, **options))


@contextmanager
def _serving(protocol: str, answer: Callable[[Images], Scores] = _answer) -> Iterator[_Bench]:
    model, faults = Model.of(PACKAGE, answer), Faults()
    serve = http_server({"m": model}, faults) if protocol == "http" else grpc_server({"m": model}, faults.tokens)
    with serve as port:
        yield _Bench(protocol, port, model, faults)


@pytest.fixture(scope="module", params=["http", "grpc"])
def shared(request: pytest.FixtureRequest) -> Iterator[_Bench]:
    with _serving(request.param) as bench:
        yield bench


@pytest.fixture
def bench(shared: _Bench) -> Iterator[_Bench]:
    """The server in its first state."""
    fresh = Model.of(PACKAGE, _answer)
    shared.model.__dict__.update(fresh.__dict__)
    shared.faults.__dict__.update(Faults(tokens=shared.faults.tokens).__dict__)
    shared.faults.tokens.clear()
    yield shared
    shared.faults.fault = lambda path: None


@pytest.fixture
def http() -> Iterator[_Bench]:
    with _serving("http") as bench:
        yield bench


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "m"}, "needs the option url"),
        ({"url": "host:8000"}, "needs the option model"),
        ({**URL, "url": "http://host:8000"}, "HOST:PORT"),
        ({**URL, "url": "host"}, "HOST:PORT"),
        ({**URL, "url": "host:0"}, "HOST:PORT"),
        ({**URL, "url": "host:70000"}, "HOST:PORT"),
        ({**URL, "url": "host:8000/v2"}, "HOST:PORT"),
        ({**URL, "url": "a b:8000"}, "HOST:PORT"),
        ({**URL, "model": "../secret"}, "not first a '.'"),
        ({**URL, "model": "a/b"}, "letters"),
        ({**URL, "model": ""}, "letters"),
        ({**URL, "version": "1/../2"}, "letters"),
        ({**URL, "version": 1}, "text"),
        ({**URL, "protocol": "https"}, "http or grpc"),
        ({**URL, "timeout_ms": 5}, "10 to 60000"),
        ({**URL, "timeout_ms": True}, "10 to 60000"),
        ({**URL, "timeout_ms": 1e3}, "10 to 60000"),
        ({**URL, "tls": "yes"}, "true or false"),
        ({**URL, "token_file": "token"}, "absolute path"),
        ({**URL, "ca_file": "/etc/ca.pem"}, "tls is false"),
        ({**URL, "tokn_file": "/x"}, "did you mean token_file"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_meant_is_refused(given: Mapping[str, object], message: str) -> None:
    with pytest.raises(OptionsRejected, match=message):
        check_options("triton", given)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [("10.0.0.2:8000", "10.0.0.2", 8000), ("[::1]:9", "::1", 9), ("gpu-1.local:65535", "gpu-1.local", 65535)],
)
def test_an_address_is_a_host_and_a_port(url: str, host: str, port: int) -> None:
    options = remote_options({**URL, "url": url})
    assert (options.host, options.port) == (host, port)


# -- what the server serves ------------------------------------------------------------------------------------------


def test_batches_go_as_batches_and_answers_keep_their_order(bench: _Bench) -> None:
    with bench.open() as engine:
        bench.model.batches.clear()
        scores = engine.infer(_images(3, 1, 2))
        assert bench.model.batches == [3]
    np.testing.assert_array_equal(scores, [[0, 3], [0, 1], [0, 2]])


def test_the_info_names_the_server_and_its_model(bench: _Bench) -> None:
    with bench.open() as engine:
        info = engine.info
    assert info.device == f"small 1.0 at 127.0.0.1:{bench.port}"
    assert info.versions == {"small": "1.0"}
    assert (info.details["model"], info.details["model_version"]) == ("m", "1")
    assert info.details["protocol"] == bench.protocol


def test_the_largest_batch_is_the_smaller_of_ours_and_the_server_s(bench: _Bench) -> None:
    assert bench.model.config is not None
    bench.model.config["max_batch_size"] = 2
    with bench.open() as engine:
        assert engine.info.max_batch == 2
    bench.model.config = None  # a server without Triton's extension
    with bench.open() as engine:
        assert engine.info.max_batch == 4


def test_a_model_with_a_fixed_batch_gets_padded_batches(bench: _Bench) -> None:
    bench.model.inputs[0]["shape"][0] = bench.model.outputs[0]["shape"][0] = 3
    bench.model.config = None
    with bench.open() as engine:
        assert engine.info.max_batch == 3
        np.testing.assert_array_equal(engine.infer(_images(7, 8)), [[0, 7], [0, 8]])
    assert set(bench.model.batches) == {3}


def _without_images(model: Model) -> None:
    model.inputs[0]["name"] = "input_ids"


def _with_another_input(model: Model) -> None:
    model.inputs.append({"name": "mask", "datatype": "FP32", "shape": [-1, 1]})


def _as_floats(model: Model) -> None:
    model.inputs[0]["datatype"] = "FP32"


def _of_another_size(model: Model) -> None:
    model.inputs[0]["shape"] = [-1, SIDE + 1, SIDE, 3]


def _as_planes(model: Model) -> None:
    model.inputs[0]["shape"] = [-1, 3, SIDE, SIDE]


def _with_three_classes(model: Model) -> None:
    model.outputs[0]["shape"] = [-1, 3]


def _without_scores(model: Model) -> None:
    model.outputs[0]["name"] = "logits"


def _without_shape(model: Model) -> None:
    model.inputs[0]["shape"] = []


def _not_ready(model: Model) -> None:
    model.is_ready = False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_images, "inputs input_ids, but the agent needs 'images'"),
        (_with_another_input, "also needs the inputs mask"),
        (_as_floats, r"FP32 \[-1, 8, 8, 3\], but the package needs UINT8"),
        (_of_another_size, r"\[-1, 9, 8, 3\], but the package needs UINT8 \[-1, 8, 8, 3\]"),
        (_as_planes, r"\[-1, 3, 8, 8\], but"),
        (_with_three_classes, r"FP32 \[-1, 3\], but the package needs FP32 \[-1, 2\]"),
        (_without_scores, "outputs logits, but the agent needs 'scores'"),
        (_without_shape, r"UINT8 \[\], but"),
        (_not_ready, "model m is not ready"),
    ],
)
def test_a_model_that_does_not_fit_the_package_is_refused(
    bench: _Bench, change: Callable[[Model], None], message: str
) -> None:
    change(bench.model)
    with pytest.raises(EngineUnavailable, match=message):
        bench.open()


def test_an_optional_input_is_left_out(bench: _Bench) -> None:
    bench.model.inputs.append({"name": "encoded", "datatype": "BYTES", "shape": [-1, 1]})
    assert bench.model.config is not None
    bench.model.config["input"].append({"name": "encoded", "optional": True})
    with bench.open() as engine:
        assert engine.infer(_images(5))[0, 1] == 5


def test_an_unknown_model_is_refused_in_the_server_s_words(bench: _Bench) -> None:
    with pytest.raises(EngineUnavailable, match=r"m2 at .*(not ready|NOT_FOUND)"):
        bench.open(model="m2")


def test_no_server_is_an_unavailable_engine_that_names_its_address(bench: _Bench) -> None:
    with pytest.raises(EngineUnavailable, match=r"model m at 127.0.0.1:1 \(.*see that the server runs"):
        open_triton(PACKAGE, _options(1, protocol=bench.protocol, timeout_ms=2000))


def test_a_name_that_cannot_be_resolved_is_an_unavailable_engine(bench: _Bench) -> None:
    with pytest.raises(EngineUnavailable):
        bench.open(url="no-such-host.invalid:8000")


_NO_TLS = "TLS with it failed: .*; set tls: false"


@pytest.mark.parametrize(
    ("said", "tls", "message"),
    [
        (
            b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
            False,
            "its answer is no HTTP; give its port of HTTP, or set protocol: grpc",
        ),
        (b"RTSP/1.0 400 Bad Request\r\n\r\n", False, "its answer is no HTTP"),
        (b"", False, r"closed the connection without an answer, as a server does that expects TLS \(tls: true\)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, _NO_TLS),
    ],
)
def test_what_answers_at_a_wrong_port_is_named(said: bytes, tls: bool, message: str) -> None:
    def answer() -> None:
        client, _ = listening.accept()
        with client:
            client.recv(65536)
            client.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=answer, name="server")
        server.start()
        with pytest.raises(EngineUnavailable, match=message) as caught:
            open_triton(PACKAGE, _options(listening.getsockname()[1], timeout_ms=5000, tls=tls))
        server.join(5.0)
    assert caught.value.message.isprintable()


def test_a_certificate_that_nobody_signed_is_refused_with_its_remedy(tmp_path: Path) -> None:
    made = Authority(tmp_path / "tls").server("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)

    def answer() -> None:
        client, _ = listening.accept()
        with client, suppress(OSError):
            context.wrap_socket(client, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=answer, name="server")
        server.start()
        with pytest.raises(
            EngineUnavailable, match=r"its certificate was refused: .*; name its authority with ca_file"
        ):
            open_triton(PACKAGE, _options(listening.getsockname()[1], timeout_ms=5000, tls=True))
        server.join(5.0)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_file_without_an_authority_is_refused_by_its_name(protocol: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(EngineUnavailable, match=r"ca_file .*ca.pem cannot be used"):
        open_triton(PACKAGE, _options(1, protocol=protocol, tls=True, ca_file=str(file)))


# -- the token -------------------------------------------------------------------------------------------------------


def test_the_token_goes_with_every_call_and_is_read_again_at_each_opening(bench: _Bench, tmp_path: Path) -> None:
    file = tmp_path / "token"
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        bench.faults.tokens.clear()
        with bench.open(token_file=str(file)) as engine:
            engine.infer(_images(1))
        assert set(bench.faults.tokens) == {f"Bearer {token}"}


@pytest.mark.parametrize("content", [b"", b"two words", b"line\nline", b"\xff\xfe", b"x" * 9000], ids=repr)
def test_a_token_file_without_a_token_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(EngineUnavailable, match=r"token_file|token in") as caught:
        open_triton(PACKAGE, _options(1, token_file=str(file)))
    assert "words" not in caught.value.message.replace("spaces", "")


def test_a_token_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="No such file"):
        open_triton(PACKAGE, _options(1, token_file=str(tmp_path / "none")))


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_the_server_refuses_is_named_with_its_remedy(http: _Bench, tmp_path: Path, status: int) -> None:
    file = tmp_path / "token"
    file.write_text("wrong-CANARY\n")
    http.faults.fault = lambda path: (status, {}, b'{"error": "the token is unknown"}')
    with pytest.raises(EngineUnavailable, match=rf"refused the token \({status}\): the token is un") as caught:
        http.open(token_file=str(file))
    assert "token_file" in str(caught.value.fields["remedy"])
    assert "CANARY" not in caught.value.message
    with pytest.raises(EngineUnavailable, match=rf"refused a call without a token \({status}\)"):
        http.open()


def test_a_token_that_is_refused_over_grpc_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(service: GrpcService, request: object, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")

    monkeypatch.setattr(GrpcService, "ModelReady", refuse)
    (tmp_path / "token").write_text("wrong\n")
    with _serving("grpc") as bench:
        with pytest.raises(EngineUnavailable, match=r"refused the token \(UNAUTHENTICATED\): who are you") as caught:
            bench.open(token_file=str(tmp_path / "token"))
        assert "token_file" in str(caught.value.fields["remedy"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2", b'{"name": "odd"}'),
        ("/v2", b"[]"),
        ("/v2", b"hello"),
        ("/v2/models/m", b'{"inputs": null, "outputs": []}'),
        ("/v2/models/m", b'{"inputs": [1], "outputs": []}'),
        ("/v2/models/m", b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [NaN]}], "outputs": []}'),
        ("/v2/models/m", b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1e400]}], "outputs": []}'),
        ("/v2/models/m/config", b"[]"),
        ("/v2/models/m/config", b'{"input": ["images"]}'),
        ("/v2/models/m/config", b'{"input": null}'),
    ],
)
def test_a_server_of_another_protocol_is_refused_in_one_text(http: _Bench, path: str, body: bytes) -> None:
    http.faults.fault = lambda asked: (200, {}, body) if asked == path else None
    with pytest.raises(EngineUnavailable, match=r"but it answered what is no Open Inference Protocol: .* is needed\."):
        http.open()


# -- faulty answers --------------------------------------------------------------------------------------------------


def _header(**changes: object) -> bytes:
    output = {"name": "scores", "datatype": "FP32", "shape": [1, 2], **changes}
    return b'{"outputs": [' + str(output).replace("'", '"').encode() + b"]}"


def _binary(header: bytes, raw: bytes, *, length: int | None = None) -> Reply:
    stated = len(header) if length is None else length
    return 200, {"Inference-Header-Content-Length": str(stated)}, header + raw


_FAULTY: dict[str, tuple[Reply, str]] = {
    "error": ((500, {}, b'{"error": "out of memory\\n\\u001b[31mred"}'), r"it answered 500: out of memory +\[31mred"),
    "error as html": ((502, {}, b"<html>bad gateway"), "it answered 502: <html>bad gateway"),
    "redirect": ((302, {"Location": "http://elsewhere/"}, b""), "it answered 302"),
    "no json": (_binary(b"{", b"12345678"), "no Open Inference Protocol: JSON with 'scores'"),
    "no outputs": (_binary(b"{}", b"12345678"), "no Open Inference Protocol"),
    "another output": (_binary(_header(name="labels"), b"12345678"), "no Open Inference Protocol"),
    "another type": (_binary(_header(datatype="FP16"), b"1234"), r"FP16 \[1, 2\]"),
    "another shape": (_binary(_header(shape=[1, 3]), b"123456781234"), r"\[1, 3\] in 12 bytes"),
    "too short": (_binary(_header(), b"1234"), "in 4 bytes"),
    "too long": (_binary(_header(), b"1234567812345678"), "in 16 bytes"),
    "wrong header length": (_binary(_header(), b"12345678", length=-5), "no Open Inference Protocol"),
    "no number as header length": (
        (200, {"Inference-Header-Content-Length": "many"}, _header()),
        "no Open Inference Protocol",
    ),
    "too large": ((200, {}, bytes(17 * 2**20)), "more than 16777216 bytes"),
}


@pytest.mark.parametrize(("reply", "message"), _FAULTY.values(), ids=_FAULTY.keys())
def test_a_faulty_answer_is_a_failed_server_and_the_next_call_works(http: _Bench, reply: Reply, message: str) -> None:
    with http.open() as engine:
        http.faults.fault = lambda path: reply
        with pytest.raises(ServerFailed, match=message) as caught:
            engine.infer(_images(1))
        assert caught.value.message.isprintable()
        http.faults.fault = lambda path: None
        assert engine.infer(_images(9))[0, 1] == 9


def test_scores_as_json_are_read_too(http: _Bench) -> None:
    with http.open() as engine:
        http.faults.fault = lambda path: (200, {}, _header(data=[0.25, 0.75]))
        np.testing.assert_array_equal(engine.infer(_images(1)), [[0.25, 0.75]])


def test_a_server_that_sends_byte_by_byte_does_not_hold_a_call_beyond_its_limit(http: _Bench) -> None:
    with http.open(timeout_ms=1000) as engine:
        http.faults.trickle_s = 0.02
        started = time.monotonic()
        with pytest.raises(ServerFailed, match="did not answer in time"):
            engine.infer(_images(1))
        assert time.monotonic() - started < 3.0


def test_a_connection_that_the_server_closed_is_opened_again_without_a_failure(http: _Bench) -> None:
    with http.open() as engine:
        http.faults.fault = _close_after_one_answer()
        assert engine.infer(_images(1))[0, 1] == 1
        http.faults.fault = lambda path: None
        assert engine.infer(_images(2))[0, 1] == 2


def _close_after_one_answer() -> Callable[[str], Reply | None]:
    calls: list[str] = []

    def fault(path: str) -> Reply | None:
        calls.append(path)
        if len(calls) == 1:
            raise ConnectionError("closed while it rested")
        return None

    return fault


def test_a_server_that_closes_every_connection_is_a_failure(http: _Bench) -> None:
    with http.open() as engine:

        def fault(path: str) -> Reply | None:
            raise ConnectionError(path)

        http.faults.fault = fault
        with pytest.raises(ServerFailed, match=r"closed the connection|reset"):
            engine.infer(_images(1))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_call_ends_at_its_time_limit_and_by_an_interruption(protocol: str) -> None:
    hold, running = threading.Event(), threading.Event()

    def answer(batch: Images) -> Scores:
        if batch[0, 0, 0, 0] == 1:
            running.set()
            hold.wait(10.0)
        return _answer(batch)

    with _serving(protocol, answer) as bench:
        try:
            with bench.open(timeout_ms=400) as engine, pytest.raises(ServerFailed, match="did not answer in time"):
                engine.infer(_images(1))
            running.clear()
            with bench.open(timeout_ms=20000) as engine:
                waker = threading.Thread(target=_interrupt_when, args=(running, engine))
                waker.start()
                with pytest.raises(ServerFailed):
                    engine.infer(_images(1))
                waker.join()
                hold.set()
                wait_until(lambda: engine.infer(_images(2))[0, 1] == 2)
        finally:
            hold.set()


def _interrupt_when(running: threading.Event, engine: TritonEngine) -> None:
    if running.wait(10.0):
        engine.interrupt()
