"""The HTTP face by raw requests: every call of the protocol, what is refused, and what slow or vanished clients do."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from agent.runtime.errors import ConfigError, PartMissing, Unavailable
from agent.web.http.connection import CHUNK_BYTES, MAX_HEAD_BYTES
from agent.web.http.listener import bind
from agent.web.http.openapi import openapi_document
from agent.web.served_models import ModelControl, ServedModels
from agent.web.service import WebService
from engines import EngineUnavailable, Images
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import SIDE, BrightnessEngine, plain_image
from tests.fixtures.serving import Server, encoded, images, png, serving, serving_config


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("serving")) as running:
        yield running


def _json_input(values: object, shape: list[int] | None = None) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "datatype": "UINT8", "shape": shape or [1, SIDE, SIDE, 3], "data": values}]}


_PIXELS = plain_image(1).ravel().tolist()


def test_health_metadata_configuration_and_index(server: Server) -> None:
    client = server.client
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/inspect/ready",
        "/v2/models/inspect/versions/1/ready",
    ):
        assert client.get(path).status_code == 200
    assert client.get("/v2/models/nothing/ready").status_code == 400
    assert client.get("/v2/models/inspect/versions/2/ready").status_code == 400
    assert client.get("/v2").json()["name"] == "edge-inference-agent"
    model = client.get("/v2/models/inspect").json()
    assert model == client.get("/v2/models/inspect/versions/1").json()
    assert model["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3]}
    assert [one["name"] for one in model["outputs"]] == ["scores", "labels"]
    config = client.get("/v2/models/inspect/config").json()
    assert config["max_batch_size"] == 4
    assert config["parameters"]["engine"] == {"string_value": "brightness"}
    assert client.post("/v2/repository/index").json() == [
        {"name": "inspect", "version": "1", "state": "READY", "reason": ""}
    ]
    assert client.post("/v2/repository/index", json={"ready": True}).json()[0]["state"] == "READY"
    assert client.post("/v2/repository/index", json={"ready": "yes"}).status_code == 400


def test_binary_images_give_binary_scores_and_labels(server: Server) -> None:
    entry, data = images(2, 0)
    answer = server.infer({"id": "7", "inputs": [entry], "parameters": {"binary_data_output": True}}, binary=data)
    assert answer.status_code == 200
    length = int(answer.headers["Inference-Header-Content-Length"])
    head, raw = orjson.loads(answer.content[:length]), answer.content[length:]
    assert (head["id"], head["model_name"], head["model_version"]) == ("7", "inspect", "1")
    scores, labels = head["outputs"]
    assert (scores["datatype"], scores["shape"], labels["datatype"], labels["shape"]) == (
        "FP32",
        [2, 3],
        "BYTES",
        [2, 1],
    )
    size = scores["parameters"]["binary_data_size"]
    assert np.frombuffer(raw[:size], "<f4").reshape(2, 3).argmax(axis=1).tolist() == [2, 0]
    assert raw[size:] == struct.pack("<I7sI2s", 7, b"scratch", 2, b"ok")


@pytest.mark.parametrize("data", [_PIXELS, [plain_image(1).tolist()]], ids=["flat", "nested"])
def test_json_numbers_without_a_content_type(server: Server, data: object) -> None:
    answer = server.client.post("/v2/models/inspect/infer", content=orjson.dumps(_json_input(data)))
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    assert outputs["labels"] == ["dent"]
    assert outputs["scores"] == pytest.approx([0.05, 0.9, 0.05])


def test_encoded_images_of_any_size_are_resized_by_the_package(server: Server) -> None:
    entry, data = encoded(png(2), png(0, 9))
    answer = server.infer({"inputs": [entry], "outputs": [{"name": "labels"}]}, binary=data)
    assert answer.json()["outputs"] == [
        {"name": "labels", "datatype": "BYTES", "shape": [2, 1], "data": ["scratch", "ok"]}
    ]


def test_classification_strings(server: Server) -> None:
    entry, data = images(2)
    wanted = {"classification": 2}
    outputs = [{"name": "scores", "parameters": wanted}]
    (output,) = server.infer({"inputs": [entry], "outputs": outputs}, binary=data).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert output["data"] == ["0.900000:2:scratch", "0.050000:0:ok"]
    wanted["classification"] = 99
    (output,) = server.infer({"inputs": [entry], "outputs": outputs}, binary=data).json()["outputs"]
    assert output["shape"] == [1, 3]


def _infer(**changes: Any) -> dict[str, Any]:
    return {**_json_input(_PIXELS), **changes}


def _changed_input(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**_json_input(_PIXELS)["inputs"][0], **changes}]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "the body must be a JSON object, but it is a list"),
        ({}, "inputs must be a list"),
        ({"inputs": []}, "it is empty"),
        ({"inputs": [3]}, "inputs must be a JSON object, but it is a number"),
        ({"inputs": _json_input(_PIXELS)["inputs"] * 2}, "expected 1 inputs but got 2 inputs"),
        (_changed_input(name="image"), "unexpected inference input 'image' for model 'inspect'"),
        (_changed_input(datatype="FP32"), "data-type is 'FP32', but model 'inspect' expects 'UINT8'"),
        (_changed_input(shape=[1, SIDE, SIDE]), "Expected [-1,8,8,3], got [1,8,8]"),
        (_changed_input(shape=[5, SIDE, SIDE, 3]), "batch-size must be 1 to 4 for 'inspect', but it is 5"),
        (_changed_input(shape=[0, SIDE, SIDE, 3]), "but it is 0"),
        (_changed_input(shape=[-1, SIDE, SIDE, 3]), "whole number of at least 0, but it is -1"),
        (_changed_input(shape=[2**62, SIDE, SIDE, 3]), "at most 1048576, but it is 4611686018427387904"),
        (_changed_input(shape=[1.0, SIDE, SIDE, 3]), "but it is 1.0"),
        (_changed_input(shape="1"), "the shape of input 'images' must be a list, but it is text"),
        (_changed_input(data=_PIXELS[:-1]), "has 191 values, but its shape [1,8,8,3] needs 192"),
        (_changed_input(data=[256, *_PIXELS[1:]]), "whole numbers of 0 to 255"),
        (_changed_input(data=[-1, *_PIXELS[1:]]), "whole numbers of 0 to 255"),
        (_changed_input(data=[0.5, *_PIXELS[1:]]), "whole numbers of 0 to 255"),
        (_changed_input(data=[True, *_PIXELS[1:]]), "whole numbers of 0 to 255"),
        (_changed_input(data=[[1], *_PIXELS[1:]]), "mixes numbers and lists"),
        (_changed_input(data=None), "the data of input 'images' must be a list"),
        (_changed_input(data={"a": 1}), "must be a list, but it is an object"),
        (_changed_input(name="encoded", datatype="BYTES", shape=[1]), "JSON, which cannot hold images"),
        (_changed_input(name="encoded", datatype="BYTES", shape=[1, 2]), "Expected [-1,1], got [1,2]"),
        (_changed_input(name="encoded", datatype="BYTES", shape=[]), "Expected [-1,1], got []"),
        (_changed_input(parameters={"binary_data_size": 5}), "has both data and binary_data_size"),
        (_changed_input(parameters=[]), "parameters must be a JSON object"),
        (_infer(outputs=[{"name": "label"}]), "unexpected inference output 'label'"),
        (_infer(outputs=[{"name": "scores"}, {"name": "scores"}]), "asked for twice"),
        (_infer(outputs=[{"name": "labels", "parameters": {"classification": 1}}]), "for `scores` only"),
        (_infer(outputs="scores"), "outputs must be a list with entries, but it is text"),
        (_infer(id=7), "id must be text, but it is a number"),
        (_infer(id="x" * 300), "id has 300 characters"),
        (_infer(parameters={"priority": 10}), "priority is 10"),
        (_infer(parameters={"priority": -1}), "priority must be a whole number"),
        (_infer(parameters={"timeout": "1"}), "timeout must be a whole number of at least 0, but it is text"),
        (_infer(parameters={"sequence_id": 3}), "keep no state between requests"),
    ],
)
def test_what_does_not_fit_is_refused_with_400_and_the_reason(server: Server, body: object, text: str) -> None:
    answer = server.infer(body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert text in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "length", "text"),
    [
        (b"", None, "failed to parse the request JSON buffer"),
        (b"{", None, "failed to parse"),
        (b"\xff\xfe", None, "failed to parse"),
        (b"[" * 3000, None, "failed to parse"),
        (b"{}", "3", "Inference-Header-Content-Length is 3, but the body has 2 bytes"),
        (b"{}", "-1", "must be a whole number"),
        (b"{}", "9" * 30, "must be a whole number"),
        (b"{}", "\xb2", "must be a whole number"),
    ],
)
def test_bodies_that_are_no_request(server: Server, content: bytes, length: str | None, text: str) -> None:
    headers = [] if length is None else [(b"Inference-Header-Content-Length", length.encode("latin-1"))]
    answer = server.client.post("/v2/models/inspect/infer", content=content, headers=headers)
    assert answer.status_code == 400
    assert text in answer.json()["error"]


def test_binary_data_that_does_not_fit_its_sizes(server: Server) -> None:
    entry, data = images(1)
    short = server.infer({"inputs": [entry]}, binary=data[:-1])
    assert "binary_data_size of 192, but 191 bytes are left" in short.json()["error"]
    assert "1 bytes more than its inputs name" in server.infer({"inputs": [entry]}, binary=data + b"x").json()["error"]
    for raw in (b"\xff\xff\xff\xff", b"\x05\x00\x00\x00abcd", b"\x01"):
        entry, _ = encoded(b"")
        entry["parameters"]["binary_data_size"] = len(raw)
        assert "fewer are left" in server.infer({"inputs": [entry]}, binary=raw).json()["error"]
    entry, data = encoded(b"no image")
    assert "the image: not a JPEG" in server.infer({"inputs": [entry]}, binary=data).json()["error"]
    entry["shape"] = [2, 1]
    assert "has 1 images, but its shape says 2" in server.infer({"inputs": [entry]}, binary=data).json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/trace/setting", 501),
        ("POST", "/v2/trace/setting", 501),
        ("GET", "/v2/models/inspect/trace/setting", 501),
        ("POST", "/v2/logging", 501),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/systemsharedmemory/region/a/register", 501),
        ("POST", "/v2/cudasharedmemory/unregister", 501),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/nothing/config", 404),
        ("GET", "/v2/models/nothing/stats", 400),  # as Triton
        ("POST", "/v2/models/nothing/infer", 404),
        ("POST", "/v2/models/inspect/versions/9/infer", 404),
        ("POST", "/v1/models/nothing:classify", 404),
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/%2e%2e", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/v2/models/inspect/infer", 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/repository/models/inspect/load", 503),
        ("POST", "/v2/repository/models/inspect/unload", 503),
    ],
)
def test_what_is_not_there(server: Server, method: str, path: str, status: int) -> None:
    answer = server.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_load_and_unload_run_the_control_and_report_its_errors(tmp_path: Path) -> None:
    calls: list[str] = []

    def unload(name: str) -> None:
        raise EngineUnavailable(f"{name} cannot be freed")

    control = ModelControl(calls.append, unload)
    with serving(tmp_path, model_control=control, allow_load=True) as server:
        post = server.client.post
        assert post("/v2/repository/models/inspect/load", json={}).status_code == 200
        assert calls == ["inspect"]
        failed = post("/v2/repository/models/inspect/unload", json={"parameters": {"unload_dependents": False}})
        assert (failed.status_code, failed.json()["error"]) == (
            500,
            "failed to unload 'inspect': inspect cannot be freed",
        )
        assert post("/v2/repository/models/..%2fx/load").status_code == 404
        assert post("/v2/repository/models/inspect/load", json={"parameters": {"config": "{}"}}).status_code == 501
        assert post("/v2/repository/models/inspect/load", content=b"[").status_code == 400
        assert calls == ["inspect"]


def test_classify_takes_a_body_or_a_form(server: Server) -> None:
    plain = server.client.post("/v1/models/inspect:classify", content=png(1)).json()
    assert (plain["model"], plain["version"], plain["engine"]) == ("inspect", "1.0.0", "brightness")
    labels = plain["results"][0]["labels"]
    assert [(one["label"], one["is_detected"]) for one in labels] == [
        ("dent", True),
        ("ok", False),
        ("scratch", False),
    ]
    files = [("image", ("a.png", png(2))), ("other", ("b.png", png(0))), ("image", ("c.png", png(0)))]
    form = server.client.post("/v1/models/inspect:classify?top_k=1", files=files).json()
    assert [one["labels"][0]["label"] for one in form["results"]] == ["scratch", "ok"]
    (model,) = server.client.get("/v1/models").json()["models"]
    assert (model["name"], model["width"], model["labels"]) == ("inspect", SIDE, ["ok", "dent", "scratch"])


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ({"content": b""}, 400, "empty"),
        ({"content": b"hello"}, 400, "not a JPEG"),
        ({"content": png(1)[:-20]}, 400, "the image"),
        ({"json": {}}, 415, "the body is JSON"),
        ({"files": [("picture", png(1))]}, 400, "no file in a field `image`; send one there"),
        ({"files": [("image", png(1))] * 5}, 400, "5 files in its field"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "has no boundary"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "the form cannot"),
        (
            {"content": b"--b\r\n\r\nx", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            400,
            "ends before",
        ),
        ({"files": [("x", png(1))] * 65}, 400, "more than 64 parts"),
        ({"content": png(1), "params": {"top_k": "0"}}, 400, "top_k must be"),
        ({"content": png(1), "params": {"top_k": "three"}}, 400, "top_k must be"),
        ({"content": png(1), "params": {"topk": "3"}}, 400, "has 'topk', but it may have top_k alone, once"),
        ({"content": png(1), "params": {"top_k": ["1", "2"]}}, 400, "top_k alone, once"),
        ({"content": png(1), "headers": {"content-encoding": "gzip"}}, 415, "compressed"),
    ],
)
def test_classify_refuses_what_is_no_image(server: Server, arguments: dict[str, Any], status: int, text: str) -> None:
    answer = server.client.post("/v1/models/inspect:classify", **arguments)
    assert answer.status_code == status
    assert text in answer.json()["error"]


def test_statistics_add_up_over_http(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        entry, data = images(1, 2)
        for _ in range(3):
            assert server.infer({"inputs": [entry]}, binary=data).status_code == 200
        (statistics,) = server.client.get("/v2/models/stats").json()["model_stats"]
        assert server.client.get("/v2/models/inspect/versions/1/stats").json()["model_stats"] == [statistics]
    assert (statistics["inference_count"], statistics["execution_count"]) == (6, 3)
    stages = statistics["inference_stats"]
    parts = sum(stages[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert stages["success"] == {"count": 3, "ns": parts}
    assert statistics["batch_stats"][0]["batch_size"] == 2
    assert statistics["last_inference"] > 0


class _Stuck:
    """An engine whose calls wait until ``release``."""

    def __init__(self) -> None:
        self.release, self.entered = threading.Event(), threading.Event()
        self.engine = BrightnessEngine(3, on_infer=self._wait)

    def _wait(self, _: Images) -> None:
        self.entered.set()
        self.release.wait(20.0)


def test_a_full_queue_answers_429_and_a_deadline_503(tmp_path: Path) -> None:
    stuck = _Stuck()
    with serving(tmp_path, engine=stuck.engine, max_waiting=1) as server:
        entry, data = images(1)
        answers: list[httpx.Response] = []

        def send(body: dict[str, Any]) -> threading.Thread:
            thread = threading.Thread(target=lambda: answers.append(server.infer(body, binary=data)), name="client")
            thread.start()
            return thread

        running = send({"inputs": [entry]})
        assert stuck.entered.wait(5.0)
        late = send({"inputs": [entry], "parameters": {"timeout": 300_000}})
        wait_until(lambda: server.pipeline.workers["inspect"].requests.waiting == 1)
        full = server.infer({"inputs": [entry]}, binary=data)
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")

        def has_expired() -> bool:
            server.pipeline.tick()
            return not late.is_alive()

        wait_until(has_expired)
        (expired,) = answers
        assert expired.status_code == 503
        assert "Request timeout expired" in expired.json()["error"]
        stuck.release.set()
        running.join(10.0)
    assert answers[1].status_code == 200


def test_a_client_that_goes_takes_its_request_with_it(tmp_path: Path) -> None:
    stuck = _Stuck()
    with serving(tmp_path, engine=stuck.engine) as server:
        entry, data = images(1)
        head = orjson.dumps({"inputs": [entry]})
        request = (
            f"POST /v2/models/inspect/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(head) + len(data)}\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\n\r\n"
        ).encode()
        with socket.create_connection((server.host, server.port)) as first:
            first.sendall(request + head + data)
            assert stuck.entered.wait(5.0)
            with socket.create_connection((server.host, server.port)) as second:
                second.sendall(request + head + data)
                queue = server.pipeline.workers["inspect"].requests
                wait_until(lambda: queue.waiting == 1)
            wait_until(lambda: queue.waiting == 0)
            stuck.release.set()
            assert first.recv(12) == b"HTTP/1.1 200"
        statistics = server.pipeline.request_statistics("inspect")
    assert statistics.failures["CANCELED"] == 1  # type: ignore[index]  # a str Enum
    assert statistics.success.count == 1


def test_slow_and_endless_requests_are_ended(tmp_path: Path) -> None:
    body = b"POST /v2/models/inspect/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nab"
    with serving(tmp_path, read_timeout_s=0.3) as server:
        for sent in (b"", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nA: ", body):
            assert server.raw(sent).startswith(b"HTTP/1.1 408")
        endless = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * (MAX_HEAD_BYTES // 6 + 1)
        lines = b"A: %s\r\n" % (b"b" * 5000)
        long = b"GET /%s HTTP/1.1\r\n" % (b"a" * MAX_HEAD_BYTES)
        for too_large in (endless, b"%s\r\n" % (endless[:35] + lines * 14), long):
            assert b"431" in server.raw(too_large)[:20]
        # A connection that waits between requests is no slow one.
        get = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection((server.host, server.port)) as patient:
            patient.sendall(get)
            assert patient.recv(12) == b"HTTP/1.1 200"
            assert server.raw(b"").startswith(b"HTTP/1.1 408")  # which takes as long as a slow one has
            patient.sendall(get)
            assert b"HTTP/1.1 200" in patient.recv(65536) + patient.recv(65536)


def test_bodies_are_limited_one_by_one_and_together(tmp_path: Path) -> None:
    with serving(tmp_path, max_body_mib=1, max_bodies_mib=1, max_json_mib=1) as server:
        post = server.client.post
        # This client sends a whole body before it reads, as tritonclient does.
        with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as one:
            for status, body in ((413, b"x" * (20 << 20)), (200, png(1))):
                one.request("POST", "/v1/models/inspect:classify", body)
                answer = one.getresponse()
                assert (answer.status, b"serve.max_body_mib" in answer.read()) == (status, status == 413)

        def pieces() -> Iterator[bytes]:
            for _ in range(3):
                yield b"x" * (1 << 19)

        assert post("/v1/models/inspect:classify", content=pieces()).status_code == 413
        with socket.create_connection((server.host, server.port)) as holding:
            half = 600_000
            head = (
                f"POST /v1/models/inspect:classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {half + 1}\r\n\r\n"
            )
            holding.sendall(head.encode() + b"x" * half)
            bodies = server.service._faces.bodies
            wait_until(lambda: bodies.held > half - CHUNK_BYTES)
            together = post("/v1/models/inspect:classify", content=b"x" * (half + CHUNK_BYTES))
            assert (together.status_code, together.headers["retry-after"]) == (429, "1")
        wait_until(lambda: bodies.held == 0)
        assert post("/v1/models/inspect:classify", content=png(1)).status_code == 200


def test_json_is_limited_apart_from_binary_data(tmp_path: Path) -> None:
    with serving(tmp_path, max_body_mib=4, max_bodies_mib=4, max_json_mib=1) as server:
        answer = server.client.post("/v2/models/inspect/infer", content=b" " * ((1 << 20) + 1))
        assert answer.status_code == 413
        assert "send tensors as binary data" in answer.json()["error"]


def test_tokens_are_required_counted_and_read_again(tmp_path: Path) -> None:
    token, other = "a" * 32, "b" * 32
    file = tmp_path / "tokens"
    file.write_text(f"# clients\nline-3 {token}\n\n")
    file.chmod(0o600)
    with serving(tmp_path, tokens_file="tokens", max_requests_per_s=5) as server:
        client = server.client
        assert client.get("/v2/health/ready").status_code == 200
        refused = client.get("/v2")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for wrong in (
            f"Bearer {other}",
            f"Basic {token}",
            "Bearer",
            token,
            "Bearer \xff",
        ):
            headers = [(b"authorization", wrong.encode("latin-1"))]
            assert client.get("/v2", headers=headers).status_code == 401
        good = {"authorization": f"bearer {token}"}
        assert client.get("/v2", headers=good).status_code == 200
        statuses = [client.get("/v2", headers=good).status_code for _ in range(20)]
        assert 429 in statuses
        file.write_text(f"line-4 {other}\n")
        change = server.service.prepare(serving_config(tmp_path, tokens_file="tokens"))
        assert change is not None
        change()
        assert client.get("/v2", headers=good).status_code == 401
        assert client.get("/v2", headers={"authorization": f"Bearer {other}"}).status_code == 200
        assert server.service.prepare(serving_config(tmp_path, tokens_file="tokens")) is None


def test_web_pages_of_other_sites_and_rebound_names_are_refused(server: Server) -> None:
    get = server.client.get
    assert get("/v2", headers={"origin": "http://evil.example"}).status_code == 403
    assert get("/v2", headers={"origin": "null"}).status_code == 403
    assert get("/v2", headers={"origin": f"http://{server.host}:{server.port}"}).status_code == 200
    for name, status in (
        ("evil.example", 403),
        ("localhost:80", 200),
        ("127.0.0.1", 200),
        ("[::1]:9", 200),
        ("]", 400),
    ):
        assert get("/v2", headers={"host": name}).status_code == status


def test_the_openapi_document_names_every_route_and_the_page_needs_nothing_else(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    assert document == openapi_document(("inspect",), needs_tokens=False)
    for path, calls in document["paths"].items():
        for method in calls:
            answer = server.client.request(method.upper(), path.format(name="inspect", version="1"))
            assert answer.status_code not in {404, 405}, (method, path)
    page = server.client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http://THIS-SERVER", "")
    assert "<script" not in page.text


def test_an_address_in_use_a_bad_certificate_and_bad_tokens_are_errors_at_the_start(
    tmp_path: Path, server: Server
) -> None:
    models = ServedModels(server.pipeline)
    with pytest.raises(Unavailable, match=r"serve\.http: the server cannot listen on .*: Address already in use"):
        WebService(serving_config(tmp_path, http=f"{server.host}:{server.port}"), models)
    (tmp_path / "cert").write_text("no certificate")
    (tmp_path / "cert").chmod(0o600)
    tls = {"cert_file": "cert", "key_file": "cert"}
    with pytest.raises(ConfigError, match=r"certificate .* cannot be used"):
        WebService(serving_config(tmp_path, tls=tls), models)
    tokens = tmp_path / "tokens"
    for text, message in (
        ("", "holds no token"),
        ("name", "has 1 words"),
        ("name short", "has 5 characters"),
        (f"NAME {'a' * 32}", "is no name"),
        (f"a {'a' * 32}\nb {'a' * 32}", "is there twice"),
        (f"a {'ä' * 32}", "not ASCII"),
    ):
        tokens.write_text(text)
        tokens.chmod(0o600)
        with pytest.raises(ConfigError, match=message) as refused:
            WebService(serving_config(tmp_path, tokens_file="tokens"), models)
        assert "aaaa" not in refused.value.message
    tokens.chmod(0o644)
    with pytest.raises(ConfigError, match="every user of this machine"):
        WebService(serving_config(tmp_path, tokens_file="tokens"), models)


@pytest.mark.parametrize(
    "head", [b"nothing of HTTP\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_http_is_refused_in_json(server: Server, head: bytes) -> None:
    with socket.create_connection((server.host, server.port), timeout=10) as client:
        client.sendall(head)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
        assert "Send plain HTTP/1.1, and https only where serve.tls is set" in orjson.loads(answer.read())["error"]
        assert client.recv(1) == b""


def test_a_change_that_needs_an_absent_library_is_refused_before_it_is_applied(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("agent.web.grpc")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(PartMissing, match=r"serve\.grpc needs libraries that cannot be imported: .* install .*grpcio"):
        server.service.prepare(serving_config(tmp_path, grpc="127.0.0.1:0"))
    assert server.client.get("/v2/health/ready").status_code == 200


def test_only_the_surplus_connection_is_refused(tmp_path: Path) -> None:
    def status(client: http.client.HTTPConnection) -> int:
        client.request("GET", "/v2/health/live")
        answer = client.getresponse()
        answer.read()
        return answer.status

    with serving(tmp_path, max_connections=2) as server, ExitStack() as stack:
        clients = [
            stack.enter_context(closing(http.client.HTTPConnection(server.host, server.port, timeout=5)))
            for _ in range(3)
        ]
        assert [status(client) for client in clients] == [200, 200, 503]
        assert [status(client) for client in clients[:2]] == [200, 200]
        clients[0].close()
        wait_until(lambda: status(clients[2]) == 200, within_s=5)
        assert status(clients[1]) == 200


def test_a_refused_change_leaves_no_socket_behind(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        free = f"127.0.0.1:{other.getsockname()[1]}"
        other.close()
        with pytest.raises(Unavailable, match=r"serve\.grpc: the server cannot listen"):
            server.service.prepare(serving_config(tmp_path, http=free, grpc=f"127.0.0.1:{taken.getsockname()[1]}"))
        bind(free, "http").close()
        assert server.service.prepare(serving_config(tmp_path, http=free)) is not None
        with pytest.raises(Unavailable):
            bind(free, "http")
        server.service.drop()
        bind(free, "http").close()
        change = server.service.prepare(serving_config(tmp_path, http=free))
        assert change is not None
        change()
        server.service.drop()
        assert httpx.get(f"http://{free}/v2/health/ready").status_code == 200


def test_tls_by_the_configured_certificate_and_a_renewed_one_after_a_reload(tmp_path: Path) -> None:
    def renew() -> None:
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
        )
        more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
        subprocess.run([*command.split(), *more], cwd=tmp_path, check=True, capture_output=True)

    renew()
    tls = {"cert_file": "cert.pem", "key_file": "key.pem"}
    with serving(tmp_path, tls=tls) as server:
        address = f"https://{server.host}:{server.port}/v2/health/ready"
        assert httpx.get(address, verify=ssl.create_default_context(cafile=tmp_path / "cert.pem")).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            server.client.get("/v2/health/ready")  # in clear text
        renew()
        change = server.service.prepare(serving_config(tmp_path, tls=tls))
        assert change is not None
        change()
        assert httpx.get(address, verify=ssl.create_default_context(cafile=tmp_path / "cert.pem")).status_code == 200


def test_stopping_answers_what_waits_and_ends_within_its_time(tmp_path: Path) -> None:
    stuck = _Stuck()
    answers: list[bytes] = []
    with serving(tmp_path, engine=stuck.engine) as server:
        head = b"POST /v1/models/inspect:classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
            png(1)
        )
        client = threading.Thread(target=lambda: answers.append(server.raw(head + png(1))), name="client")
        client.start()
        assert stuck.entered.wait(5.0)
        began = time.monotonic()
        server.service.stop()
        assert time.monotonic() - began < 3.0
        client.join(5.0)
        stuck.release.set()
    assert answers[0].startswith(b"HTTP/1.1 503")
