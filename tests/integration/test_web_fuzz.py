"""Damaged requests get an answer that blames the client, and the server works on.

The variable `AGENT_FUZZ_BODIES` sets how many.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import httpx
import orjson

from tests.fixtures.serving import Server, encoded, images, png, serving

_COUNT = int(os.environ.get("AGENT_FUZZ_BODIES", "200"))
_ALLOWED = {200, 400, 404, 405, 408, 413, 415, 501, 503}


def _seeds() -> list[tuple[str, bytes, dict[str, str]]]:
    """Whole calls: path, body, headers."""
    seeds = []
    for entry, data in (images(1), images(0, 2), encoded(png(1)), encoded(png(2), png(0))):
        body = {"id": "1", "inputs": [entry], "outputs": [{"name": "scores", "parameters": {"classification": 2}}]}
        head = orjson.dumps({**body, "parameters": {"priority": 1, "timeout": 5_000_000, "binary_data_output": True}})
        seeds.append(("/v2/models/inspect/infer", head + data, {"inference-header-content-length": str(len(head))}))
    flat = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [1] * 192}
    seeds.append(("/v2/models/inspect/infer", orjson.dumps({"inputs": [flat]}), {}))
    seeds.append(("/v1/models/inspect:classify?top_k=2", png(1), {}))
    form = httpx.Request("POST", "http://x", files=[("image", ("a.png", png(1)))])
    seeds.append(("/v1/models/inspect:classify", form.read(), {"content-type": form.headers["content-type"]}))
    seeds.append(("/v2/repository/index", b'{"ready": true}', {}))
    seeds.append(("/v2/repository/models/inspect/load", b"{}", {}))
    return seeds


def _damaged(body: bytes, rng: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 2:
            data[at:at] = rng.choice(
                (b"null", b"[[", b"-1", b"1e999", b"{}", b"\x00", b"\xff\xff\xff\xff", b'"', b"true")
            )
        elif kind == 3:
            data = data[:at]
        else:
            data[at:at] = data[max(0, at - 40) : at]
    return bytes(data)


def _send(server: Server, path: str, body: bytes, headers: dict[str, str], rng: random.Random) -> int:
    if "inference-header-content-length" in headers and rng.random() < 0.3:
        headers = {"inference-header-content-length": str(rng.choice((0, 1, len(body), len(body) + 1, 10**9)))}
    return server.client.post(path, content=body, headers=headers).status_code


def test_damaged_bodies_are_answered_and_never_with_500(tmp_path: Path) -> None:
    rng, seeds = random.Random(7), _seeds()
    with serving(tmp_path, read_timeout_s=2.0) as server:
        for path, body, headers in seeds:
            assert server.client.post(path, content=body, headers=headers).status_code in {200, 503}
        for _ in range(_COUNT):
            path, body, headers = rng.choice(seeds)
            assert _send(server, path, _damaged(body, rng), headers, rng) in _ALLOWED
        assert server.client.post("/v1/models/inspect:classify", content=png(1)).status_code == 200
        assert server.pipeline.workers["inspect"].failure is None
        assert server.service.failure is None
        assert server.service._faces.bodies.held == 0


def test_damaged_heads_are_answered_or_closed(tmp_path: Path) -> None:
    rng = random.Random(11)
    whole = (
        b"POST /v2/models/inspect/infer?a=b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        b"Authorization: Bearer x\r\nOrigin: http://localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n{}"
    )
    with serving(tmp_path, read_timeout_s=0.2) as server:
        for _ in range(max(40, _COUNT // 10)):
            with socket.create_connection((server.host, server.port)) as client:
                client.settimeout(5.0)
                client.sendall(_damaged(whole, rng))
                client.shutdown(socket.SHUT_WR)
                try:
                    answer = client.recv(65536)
                except ConnectionError:
                    continue
            assert not answer.startswith(b"HTTP/1.1 500"), answer
        assert server.client.get("/v2/health/ready").status_code == 200
        assert server.service.failure is None
