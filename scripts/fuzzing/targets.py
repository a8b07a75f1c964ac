"""What is fuzzed: for each target good input to damage, and a check that raises when the reader misbehaves.

A reader may refuse with its own error. Anything else is a finding: another exception, a crash, an answer that takes
seconds, or output that controls a terminal.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from onnx import TensorProto

from agent.cli.io.console import Console
from agent.commands.contract import Answer, Details
from agent.commands.requests import REQUESTS, Capture
from agent.commands.server import CommandServer
from agent.config.sections.subscribers import CommandsConfig
from agent.mqtt.base import Received
from agent.mqtt.identity import Identity
from agent.mqtt.inbound import Inbound
from agent.runtime.clock import SystemClock
from agent.tools.watch.fleet import FleetView
from agent.tools.watch.lines import lines_from_fleet
from agent.tools.watch.terminal import render
from engines import ImageRejected, ModelRejected
from engines.package.image_headers import HeaderError, read_header
from engines.package.images import decode_image
from engines.package.labels import fit_labels, parse_labels
from engines.package.manifest import parse_manifest
from engines.package.model_file import check_model, read_onnx
from engines.package.signature.onnx import onnx_signature
from engines.package.specs import InputSpec
from tests.fixtures.packages import PackageFiles, TinyModel
from tests.fixtures.publish_samples import IDENTITY, TOPICS

_COMMANDS_OF_A_SERVER = 50
"""It remembers ids and keeps accepted commands waiting; then it refuses all."""
_EXPIRES_S = 1_900_000_000
_SMALL_PIXELS = 4_000_000
_SEQUENCE = re.compile(r"\x1b(?!\[[0-9;]*[mK])|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_SPEC = InputSpec(
    width=8, height=6, color="rgb", resize="stretch", resize_to=None, interpolation="linear",
    scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """``check`` takes one input; it returns normally for what is accepted or properly refused."""

    originals: Sequence[bytes]
    check: Callable[[bytes], None]
    max_s: float = 5.0
    """An input that takes longer is a finding."""


def _manifest() -> Target:
    text = json.dumps(PackageFiles.of().manifest).encode()
    yaml = (
        b"name: a\nversion: 1.0.0\nfile: model.onnx\nsha256: "
        + b"0" * 64
        + b"\nlabels: {file: l}\ninput: {width: 8}\n"
    )

    def check(data: bytes) -> None:
        with contextlib.suppress(ModelRejected):
            parse_manifest(data.decode("utf-8", "surrogateescape"), name="model.yaml")

    return Target((text, yaml), check)


def _labels() -> Target:
    originals = (
        b"ash\nbirch\ncedar\n",
        b"0: ash\n1: birch\n2: cedar\n",
        b"0, ash\r\n1, birch\r\n",
        b"\xef\xbb\xbfn01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        b'["ash", "birch"]',
        b'{"0": "ash", "1": "birch"}',
        b'{"ash": 0, "birch": 1}',
        "größe\n漢字\n".encode("utf-16"),
    )

    def check(data: bytes) -> None:
        for offset in (0, 1):
            with contextlib.suppress(ModelRejected):
                labels = parse_labels(data, name="labels.txt", offset=offset)
                fit_labels(labels, classes=3, offset=offset, name="labels.txt")

    return Target(originals, check)


def _onnx() -> Target:
    models = [TinyModel(ending=ending).proto() for ending in ("none", "softmax")]
    models += [TinyModel(layout="NHWC", batch="N").proto(), TinyModel(dtype="float16").proto()]
    for keys in ({"location": "w"}, {"location": "w", "offset": "0", "length": "2880"}):
        model = TinyModel().proto()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in keys.items():
            tensor.external_data.add(key=key, value=value)
        models.append(model)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-onnx-"))
    (folder / "w").write_bytes(bytes(2880))

    def check(data: bytes) -> None:
        path = folder / "model.onnx"
        path.write_bytes(data)
        with contextlib.suppress(ModelRejected):
            model, _ = read_onnx(path, root=folder)
            check_model(model, name="model.onnx")
            onnx_signature(model, _SPEC, name="model.onnx")

    return Target([model.SerializeToString() for model in models], check)


def _images() -> Target:
    photo = np.random.default_rng(1).integers(0, 255, (24, 32, 3), np.uint8)
    kinds = (".jpg", ".png", ".bmp", ".webp", ".tiff")
    originals = [cv2.imencode(kind, photo)[1].tobytes() for kind in kinds]
    originals.append(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    originals.append(b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,"
                     b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;")  # fmt: skip

    def check(data: bytes) -> None:
        try:
            header = read_header(data)
        except HeaderError:
            return
        if header.width * header.height * header.scans > _SMALL_PIXELS:
            return  # the time of a large one says nothing about its reader
        with contextlib.suppress(ImageRejected):
            image = decode_image(data, name="image")
            if image.ndim != 3 or image.shape[2] != 3 or image.size > 3 * _SMALL_PIXELS:
                raise AssertionError(f"an image of {image.shape} came of a header of {header}")

    return Target(originals, check)


class _Clock(SystemClock):
    """Each look is a second after the last, so that no rate limit refuses a command unread; UTC stands still."""

    def __init__(self) -> None:
        self._looks = itertools.count()

    def monotonic_ns(self) -> int:
        """See Clock."""
        return next(self._looks) * 10**9

    def utc_ns(self) -> int:
        """See Clock."""
        return (_EXPIRES_S - 60) * 10**9


class _Handler:
    """Answers every command."""

    def capture(self, request: Capture, answer: Answer) -> None:
        answer({"camera": request.camera})

    def __getattr__(self, _: str) -> Callable[..., Details]:
        return lambda *_: {}


def _server(identity: Identity) -> tuple[CommandServer, list[object]]:
    replies: list[object] = []
    config = CommandsConfig(enabled=True, allow=tuple(REQUESTS), max_per_minute=6000)
    server = CommandServer(
        config,
        identity,
        _Handler(),
        replies.append,
        clock=_Clock(),
    )
    return server, replies


def _commands() -> Target:
    """The payload of each command."""
    server, replies = _server(IDENTITY)
    count = itertools.count(1)
    verbs = itertools.cycle(REQUESTS)
    bodies: list[Mapping[str, object]] = [
        {"id": "a", "expires_at": "2030-03-17T17:46:40Z"},
        {"id": "b", "expires_at": _EXPIRES_S, "camera": "front", "rate_hz": 5.0},
        {"id": "c", "expires_at": _EXPIRES_S, "classifier": "front/inspect", "decide": {"enter": 0.7, "votes": 3}},
    ]

    def check(data: bytes) -> None:
        nonlocal server, replies
        if next(count) % _COMMANDS_OF_A_SERVER == 0:
            server, replies = _server(IDENTITY)
        replies.clear()
        server.receive(Received(TOPICS.command(next(verbs)), data, 1, retain=False))
        if len(replies) > 1:
            raise AssertionError(f"{len(replies)} replies to one command")

    return Target([json.dumps(body).encode() for body in bodies], check)


def _inbound() -> Target:
    """Topic, response topic and payload of any message that the broker sends."""
    server, _ = _server(IDENTITY)
    inbound = Inbound()
    for topic in server.subscriptions:
        inbound.listen(topic, server.receive)
    body = b'\n{"id": "a", "expires_at": 1900000000}'
    topics = (TOPICS.command("set"), TOPICS.command("rebirth"), f"{TOPICS.root}/reply/x")

    def check(data: bytes) -> None:
        topic, response, payload = [*data.split(b"\n", 2), b"", b""][:3]
        text, answer = topic.decode("utf-8", "replace"), response.decode("utf-8", "replace") or None
        inbound.receive(Received(text, payload, 1, retain=bool(len(data) % 5 == 0), response_topic=answer))

    return Target([f"{topic}\n{TOPICS.reply('x')}".encode() + body for topic in topics], check)


def _watch() -> Target:
    """Topic and document of what `agent watch` shows, and what it then writes to a terminal."""
    inner = {"engine": "ort-cpu", "placement": {"cpu": 3}, "state": "online", "celsius": 50.0}
    whole = {
        "state": "online", "models": {"m": inner}, "cameras": {"front": inner}, "board": {"model": "Orin"},
        "connection": inner, "zones": {"cpu": inner}, "hottest": "cpu", "errors": ["e"], "throttled": True,
        "throttle_causes": {"c": 1}, "publisher": {"denied": {"t": 1}, "dropped": {"overflow": 1}, "sent": 3},
        "label": "ok", "confidence": 0.5, "latency_ms": {"total": 3.0}, "governor": {"state": "free", "rate_ratio": 1},
    }  # fmt: skip
    topics = ("status", "runtime", "health", "thermal", "latency", "camera/front/health", "camera/front/m/result",
              "camera/front/m/state")  # fmt: skip
    times = itertools.count(1)
    view = FleetView("edge")

    def check(data: bytes) -> None:
        nonlocal view
        now_s = next(times) / 100
        if len(view.devices) > 3:
            view = FleetView("edge")
        topic, _, payload = data.partition(b"\n")
        view.update(topic.decode("utf-8", "replace"), payload, now_s=now_s)
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=100, color_system="standard")
        console.print(render(view, now_s=now_s, width=100, heading="edge"))
        written = file.getvalue() + "\n".join(lines_from_fleet(view, now_s=now_s))
        if found := _SEQUENCE.search(written):
            raise AssertionError(f"{found[0]!r} reaches the terminal")

    return Target([f"edge/dut/{topic}\n{json.dumps(whole)}".encode() for topic in topics], check)


TARGETS: dict[str, Callable[[], Target]] = {
    "manifest": _manifest,
    "labels": _labels,
    "onnx": _onnx,
    "images": _images,
    "commands": _commands,
    "inbound": _inbound,
    "watch": _watch,
}
