"""The same client against a real Triton and against the agent: same answers, fields and errors; and Triton as engine.

Only with `scripts/test --with triton`, which makes the environments that these tests need.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import EngineOptions, ModelPackage, load_package, open_engine
from engines.backends.triton.messages import file_descriptor
from tests.fixtures import oracle_client
from tests.fixtures.agent_process import AgentProcess, write_config
from tests.fixtures.colour_packages import colour_model, write_colour_package
from tests.fixtures.mosquitto import free_port
from tests.fixtures.triton_server import Triton, triton_server, write_repository

_CLIENT, _SERVER = os.environ.get("TRITON_CLIENT_PYTHON"), os.environ.get("TRITON_PACKAGES")
_PERF_ANALYZER = os.environ.get("PERF_ANALYZER")
pytestmark = [
    pytest.mark.skipif(_CLIENT is None or _SERVER is None, reason="needs a real Triton: scripts/test --with triton"),
    pytest.mark.timeout(180),
]

SIDE = 64
_OWN = {"metadata", "config", "statistics", "index"}
"""Answers that describe the server; each is compared by the fields that must agree."""


@dataclass
class Bench:
    """What both servers answered; they still run. ``addresses`` are those of HTTP and gRPC."""

    package: ModelPackage
    triton: Triton
    answers: dict[str, dict[str, Any]]
    addresses: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("oracle")
    package = load_package(write_colour_package(directory / "package", model=colour_model(side=SIDE), side=SIDE))
    write_repository(directory / "repository", "m", package)
    http, grpc = (f"127.0.0.1:{free_port()}" for _ in range(2))
    config = {
        "models": {"m": {"package": str(package.directory), "engine": "ort-cpu", "serve": True}},
        "serve": {"http": http, "grpc": grpc},
        "mqtt": {"broker": f"mqtt://127.0.0.1:{free_port()}"},
    }
    path = write_config(directory / "agent", config)
    with ExitStack() as stack:
        triton = stack.enter_context(
            triton_server(
                directory, directory / "repository", packages=Path(_SERVER or ""), python=Path(_CLIENT or "")
            )
        )
        agent = stack.enter_context(AgentProcess(directory / "agent", "run", "-c", str(path)))
        agent.wait_for_log("agent.ready")
        addresses = {"triton": (triton.http, triton.grpc), "agent": (http, grpc)}
        yield Bench(package, triton, {name: _asked(*both) for name, both in addresses.items()}, addresses)


def _asked(http: str, grpc: str) -> dict[str, Any]:
    script = Path(oracle_client.__file__)
    arguments = [_CLIENT or "", str(script), http, grpc, "m", str(SIDE), str(SIDE)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def _kind(name: str) -> str:
    return name.partition(" ")[2]


def test_answers_fields_and_errors_are_those_of_triton(bench: Bench) -> None:
    triton, agent = bench.answers["triton"], bench.answers["agent"]
    assert triton.keys() == agent.keys()
    compared = {name for name in triton if _kind(name) not in {*_OWN, "id"}}
    assert len(compared) > 35
    assert {name: agent[name] for name in compared} == {name: triton[name] for name in compared}
    refusals = {name for name in compared if "refused" in str(triton[name])}
    assert len(refusals) > 12


def test_without_a_choice_the_agent_answers_its_labels_too(bench: Bench) -> None:
    for name in ("http id", "grpc id"):
        mine, theirs = (bench.answers[who][name] for who in ("agent", "triton"))
        assert mine["scores"] == theirs["scores"]
        assert mine["response"]["id"] == theirs["response"]["id"] == "7"
        assert mine["response"]["outputs"][:1] == theirs["response"]["outputs"]
        assert [one["name"] for one in mine["response"]["outputs"]] == ["scores", "labels"]


def test_the_model_is_described_as_by_triton_with_an_input_and_an_output_more(bench: Bench) -> None:
    for name in ("http metadata", "grpc metadata"):
        mine, theirs = (bench.answers[who][name] for who in ("agent", "triton"))
        assert mine["name"] == theirs["name"]
        assert mine["versions"] == theirs["versions"]
        assert mine["inputs"][:1] == theirs["inputs"]
        assert mine["outputs"][:1] == theirs["outputs"]
    mine, theirs = (bench.answers[who]["http config"] for who in ("agent", "triton"))
    assert mine["max_batch_size"] == theirs["max_batch_size"]
    for entry in ("input", "output"):
        same = mine[entry][0].keys() & theirs[entry][0].keys() - {"label_filename"}
        assert {"name", "data_type", "dims"} <= same
        assert {key: mine[entry][0][key] for key in same} == {key: theirs[entry][0][key] for key in same}


def test_statistics_count_as_triton_counts(bench: Bench) -> None:
    for name in ("http statistics", "grpc statistics"):
        (mine,), (theirs,) = (bench.answers[who][name]["model_stats"] for who in ("agent", "triton"))
        assert set(mine) <= set(theirs)
        for key in ("inference_count", "execution_count"):
            assert mine[key] == theirs[key], name
        ours, triton = mine["inference_stats"], theirs["inference_stats"]
        assert {key: one.get("count", 0) for key, one in ours.items()} == {
            key: one.get("count", 0) for key, one in triton.items()
        }
        stages = ("queue", "compute_input", "compute_infer", "compute_output")
        assert sum(int(ours[key]["ns"]) for key in stages) <= int(ours["success"]["ns"])


def test_the_index_lists_the_model_as_triton_does(bench: Bench) -> None:
    for name in ("http index", "grpc index"):
        mine, theirs = (bench.answers[who][name] for who in ("agent", "triton"))
        mine, theirs = (one["models"] if isinstance(one, dict) else one for one in (mine, theirs))
        assert [{key: value for key, value in one.items() if value} for one in mine] == theirs


_FIELDS = """
import json
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2
for module in (service_pb2, model_config_pb2):
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    print(file.SerializeToString().hex())
"""


def test_every_field_of_our_messages_is_that_of_tritonclient() -> None:
    printed = subprocess.run([_CLIENT or "", "-c", _FIELDS], capture_output=True, text=True, check=True).stdout
    theirs: dict[str, tuple[object, ...]] = {}
    for line in printed.split():
        theirs |= _fields(type(file_descriptor()).FromString(bytes.fromhex(line)).message_type)
    mine = _fields(file_descriptor().message_type)
    assert len(mine) > 140
    assert mine == {name: theirs.get(name) for name in mine}


def _fields(messages: Any, path: str = "") -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for message in messages:
        place = f"{path}.{message.name}"
        for one in message.field:
            oneof = message.oneof_decl[one.oneof_index].name if one.HasField("oneof_index") else ""
            found[f"{place}.{one.name}"] = (one.number, one.type, one.label, one.type_name, oneof)
        found |= _fields(message.nested_type, place)
    return found


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_real_triton_serves_as_an_engine(bench: Bench, tmp_path: Path, protocol: str) -> None:
    url = bench.triton.http if protocol == "http" else bench.triton.grpc
    given = {"url": url, "model": "m", "protocol": protocol, "timeout_ms": 10000}
    options = EngineOptions(cache_dir=tmp_path, engine="triton", strict=True, max_batch=8, options=given, sandbox=None)
    images = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    with open_engine(bench.package, options) as engine:
        assert engine.info.versions == {"triton": "2.51.0"}
        assert engine.info.max_batch == 4, "the server's own limit"
        assert engine.info.details["model_version"] == "1"
        scores = engine.infer(images)
    local = EngineOptions(cache_dir=tmp_path, engine="ort-cpu", max_batch=4, sandbox=None)
    with open_engine(bench.package, local) as engine:
        np.testing.assert_allclose(scores, engine.infer(images), atol=1e-5)


_FIGURES = {
    "sent": r"Request count: (\d+)",
    "latency_us": r"Avg latency: (\d+) usec",
    "images": r"Inference count: (\d+)",
    "calls": r"Execution count: (\d+)",
    "answered": r"Successful request count: (\d+)",
    "server_us": r"Avg request latency: (\d+) usec",
    "parts_us": r"\(overhead (\d+) usec \+ queue (\d+) usec \+ compute input (\d+) usec \+ compute infer (\d+) usec"
    r" \+ compute output (\d+) usec\)",
}


@pytest.mark.skipif(_PERF_ANALYZER is None, reason="this wheel of the client has no perf_analyzer")
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("server", ["triton", "agent"])
def test_perf_analyzer_completes_and_its_statistics_add_up(
    bench: Bench, tmp_path: Path, server: str, protocol: str
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8).tobytes()
    data = tmp_path / "images.json"
    data.write_text(json.dumps({"data": [{"images": {"b64": base64.b64encode(image).decode()}}]}))
    url = bench.addresses[server][protocol == "grpc"]
    command = [_PERF_ANALYZER or "", "-m", "m", "-u", url, "-i", protocol, "--concurrency-range", "1:4"]
    # Any three windows count: how steady they are is the machine's business.
    windows = ["--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "999"]
    libraries = {**os.environ, "LD_LIBRARY_PATH": os.environ.get("PERF_ANALYZER_LIBRARIES", "")}
    done = subprocess.run(
        [*command, *windows, "--input-data", str(data)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env=libraries,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    levels = re.split(r"^Request concurrency: ", done.stdout, flags=re.MULTILINE)[1:]
    assert [level.split()[0] for level in levels] == ["1", "2", "3", "4"]
    for clients, level in enumerate(levels, 1):
        _add_up(level, clients)


def _add_up(level: str, clients: int) -> None:
    found = {name: re.search(pattern, level) for name, pattern in _FIGURES.items()}
    assert all(found.values()), level
    figures = {name: [int(one) for one in match.groups()] for name, match in found.items() if match is not None}
    ((sent,), (latency_us,), (images,), (calls,), (answered,), (server_us,)) = [*figures.values()][:6]
    under_way = 4 * clients  # at the borders of the windows
    assert images == answered
    assert abs(sent - answered) <= under_way, level
    assert 1 <= calls <= images + under_way, level
    assert abs(sum(figures["parts_us"]) - server_us) <= 5, level
    assert 0 < server_us <= latency_us, level
