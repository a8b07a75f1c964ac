"""Checks across keys: names that must exist elsewhere in the file, and combinations that make no sense.

The checks read the file's plain data and skip values of the wrong type. So they also run on a file with other faults,
and all faults are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.config.broker_address import EMBEDDED, BrokerAddress
from agent.config.credentials import PASSWORD, USERNAME
from agent.config.model import AgentConfig
from agent.config.problems import Problem, at, suggestion
from agent.config.sections.base import PlacedError
from agent.config.sections.broker import addresses_of
from agent.config.sections.serve import is_loopback
from agent.config.sections.sources import SourceConfig
from agent.config.shape import KeyPath
from agent.runtime.secrets import seems_to_hold_a_password
from engines import StrictDocument, nearest_key

# Repeated here, because asking the engines would load their libraries. A test compares the two.
ENGINES = ("auto", "fastest", "tensorrt", "ort-tensorrt", "ort-cuda", "torch", "ort-openvino", "ort-cpu", "triton")
ENGINE_ALIASES = ("trt", "ort-trt", "onnxruntime", "ort", "cpu", "cuda", "openvino", "pytorch")
# The engines without embeddings; those of ONNX Runtime (ort-*) have them. A test compares this too.
_SCORES_ONLY = ("tensorrt", "trt", "torch", "pytorch", "triton")
_PROVIDERS = ("dml", "directml", "coreml", "nnapi", "xnnpack", "qnn", "vitisai", "cann", "migraphx", "rocm", "webgpu")

# The retained messages that come regularly: seconds between two, and typical bytes with topic and headers. A test
# compares the intervals of health and the sizes of the larger ones with what the agent sends.
REGULAR = {"health": (10.0, 1000), "thermal": (30.0, 950)}
REGULAR_PER_CAMERA = {"health": (10.0, 250), "camera-health": (10.0, 400)}
REGULAR_PER_CLASSIFIER = {"state": (60.0, 400)}


_WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The region of a classifier without a `roi`: the whole frame."""


@dataclass(frozen=True, slots=True)
class _Use:
    """One entry of a camera's ``classify``: its path and those of its values that are text."""

    path: KeyPath
    model: str | None
    key: str | None
    waits_for: str | None
    waits_at: KeyPath
    roi: tuple[object, ...]


def cross_problems(document: StrictDocument) -> Iterator[Problem]:
    """Every fault between the keys of the file."""
    models = section_of(document.data, "models")
    yield from _files_count_results(document)
    yield from _engines_exist(document, models)
    yield from _engines_give_features(document, models)
    for camera, uses in _uses_by_camera(document.data):
        yield from _models_exist(document, uses, list(models))
        yield from _names_are_unique(document, camera, uses)
        yield from _gates_open(document, camera, uses)
        yield from _means_are_of_two(document, uses)
    yield from _ways_are_used(document)


def broker_problems(document: StrictDocument) -> Iterator[Problem]:
    """Addresses of brokers that cannot be used."""
    given = section_of(document.data, "mqtt").get("broker")
    if isinstance(given, list) and not any(map(_is_no_address, given)):
        try:
            addresses_of(tuple(given))
        except PlacedError as exc:
            yield at(document, ("mqtt", *exc.below), str(exc))
        return
    for place, url in enumerate(given if isinstance(given, list) else [given]):
        if not isinstance(url, str) or url == EMBEDDED:
            continue
        try:
            BrokerAddress.parse(url)
        except ValueError as exc:
            path: KeyPath = ("mqtt", "broker", place) if isinstance(given, list) else ("mqtt", "broker")
            yield at(document, path, str(exc))


def _is_no_address(url: object) -> bool:
    try:
        if not isinstance(url, str):
            return True
        if url != EMBEDDED:
            BrokerAddress.parse(url)
    except ValueError:
        return True
    return False


def section_of(data: object, *path: str) -> Mapping[str, object]:
    """The section at ``path`` of plain data; empty if there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _uses_by_camera(data: object) -> Iterator[tuple[str, list[_Use]]]:
    for camera, body in section_of(data, "cameras").items():
        entries = body.get("classify") if isinstance(body, dict) else None
        if not isinstance(entries, list):
            continue
        uses = []
        for index, entry in enumerate(entries):
            if isinstance(entry, dict):
                model = _text(entry.get("model"))
                key = _text(entry.get("name")) or model
                gate, partner = _text(section_of(entry, "when").get("classifier")), _text(entry.get("mean_with"))
                path: KeyPath = ("cameras", camera, "classify", index)
                waits_at: KeyPath = (*path, "mean_with") if gate is None else (*path, "when", "classifier")
                roi = entry.get("roi")
                seen = tuple(roi) if isinstance(roi, list) else _WHOLE
                uses.append(_Use(path, model, key, partner if gate is None else gate, waits_at, seen))
        yield str(camera), uses


def _files_count_results(document: StrictDocument) -> Iterator[Problem]:
    """Files are read as fast as they are classified, so seconds between their frames mean nothing."""
    for camera, body in section_of(document.data, "cameras").items():
        section = section_of({"camera": body}, "camera")
        kind, entries = _text(section_of(body, "source").get("type")), section.get("classify")
        is_timeless = kind in {"images", "folder"} or (kind == "file" and section.get("rate_hz") is None)
        if not is_timeless or not isinstance(entries, list):
            continue
        remedy = "count results with votes and window" + (", or set rate_hz" if kind == "file" else "")
        text = (
            f"hold_s is in seconds of captured time, but frames of the source `{kind}` come as fast as they are read"
        )
        for index, entry in enumerate(entries):
            if section_of(entry, "decide").get("hold_s") is not None:
                path: KeyPath = ("cameras", camera, "classify", index, "decide", "hold_s")
                yield at(document, path, f"{text}; {remedy}")


def _engines_exist(document: StrictDocument, models: Mapping[str, object]) -> Iterator[Problem]:
    for name, model in models.items():
        engine = _text(model.get("engine")) if isinstance(model, dict) else None
        if engine is None:
            continue
        wanted = engine.strip().lower().replace("_", "-")
        if wanted in ENGINES or wanted in ENGINE_ALIASES:
            continue
        near = nearest_key(wanted, [*ENGINES, *(f"ort-{provider}" for provider in _PROVIDERS)])
        # Any provider of ONNX Runtime may follow `ort-`; only a near miss of a known name is a mistake.
        if wanted.startswith("ort-") and (near is None or near.removeprefix("ort-") in _PROVIDERS):
            continue
        hint = "" if near is None else f"; did you mean `{near}`?"
        text = f"there is no engine `{engine}`; give one of {', '.join(ENGINES)} or ort-<provider>{hint}"
        yield at(document, ("models", name, "engine"), text)


def _engines_give_features(document: StrictDocument, models: Mapping[str, object]) -> Iterator[Problem]:
    for name, model in models.items():
        section = model if isinstance(model, dict) else {}
        engine = (_text(section.get("engine")) or "auto").strip().lower().replace("_", "-")
        if section.get("features") is True and engine in _SCORES_ONLY:
            text = (
                f"features is true, but the engine `{engine}` gives scores only; choose auto or an engine of ONNX "
                "Runtime (ort-tensorrt, ort-cuda, ort-cpu), or remove features"
            )
            yield at(document, ("models", name, "features"), text)


def _models_exist(document: StrictDocument, uses: Sequence[_Use], models: Sequence[str]) -> Iterator[Problem]:
    for use in uses:
        if use.model is not None and models and use.model not in models:
            text = f"there is no model `{use.model}`; `models` has {', '.join(models)}{suggestion(use.model, models)}"
            yield at(document, (*use.path, "model"), text)


def _names_are_unique(document: StrictDocument, camera: str, uses: Sequence[_Use]) -> Iterator[Problem]:
    first: dict[str, _Use] = {}
    for use in uses:
        if use.key is None:
            continue
        if use.key in first:
            line = document.line_of(first[use.key].path)
            text = (
                f"camera {camera} has two classifiers named `{use.key}`, the first on line {line}; give this one "
                "another `name`"
            )
            yield at(document, (*use.path, "name"), text)
        else:
            first[use.key] = use


def _gates_open(document: StrictDocument, camera: str, uses: Sequence[_Use]) -> Iterator[Problem]:
    by_key = {use.key: use for use in uses if use.key is not None}
    reported: set[str] = set()
    for use in uses:
        if use.waits_for is None:
            continue
        path = use.waits_at
        if use.waits_for == use.key:
            yield at(document, path, f"`{use.key}` waits for itself; name another classifier of camera {camera}")
        elif use.waits_for not in by_key:
            others = [key for key in by_key if key != use.key]
            known = f"it has {', '.join(others)}" if others else "it has no other"
            text = f"camera {camera} has no classifier `{use.waits_for}`; {known}{suggestion(use.waits_for, others)}"
            yield at(document, path, text)
        elif use.key is not None and use.key not in reported and (circle := _circle(use.key, by_key)):
            reported.update(circle)
            yield at(document, path, f"these wait for each other: {' -> '.join(circle)}; one of them must not wait")


def _means_are_of_two(document: StrictDocument, uses: Sequence[_Use]) -> Iterator[Problem]:
    """The mean of a model with itself is its own result, unless both see different regions."""
    by_key = {use.key: use for use in uses if use.key is not None}
    for use in uses:
        partner = by_key.get(use.waits_for or "")
        if use.waits_at[-1] != "mean_with" or partner is None or partner is use or use.model != partner.model:
            continue
        if use.model is not None and use.roi == partner.roi and partner.waits_for != use.key:
            text = (
                f"`{use.key}` takes the mean with `{partner.key}`, but both run the model `{use.model}` on the same "
                "region, so the mean is its own result; name another model, or give one of them another roi"
            )
            yield at(document, use.waits_at, text)


def _circle(start: str, by_key: Mapping[str, _Use]) -> list[str]:
    """The names from ``start`` back to ``start``; empty if its chain of gates ends."""
    names = [start]
    while (use := by_key.get(names[-1])) is not None and use.waits_for is not None:
        names.append(use.waits_for)
        if names[-1] == start:
            return names if len(names) > 2 else []
        if len(names) > len(by_key) + 1:
            break
    return []


def _ways_are_used(document: StrictDocument) -> Iterator[Problem]:
    """What is configured for one kind of address needs an address of that kind."""
    mqtt = section_of(document.data, "mqtt")
    given = mqtt.get("broker", "mqtt://")
    urls = [url for url in (given if isinstance(given, list) else [given]) if isinstance(url, str)]
    if not urls or any(broker_problems(document)):
        return  # what follows from an address that is none would only confuse

    def has(*schemes: str) -> bool:
        return any(url.startswith(tuple(f"{scheme}://" for scheme in schemes)) for url in urls)

    tls = [key for key, value in section_of(mqtt, "tls").items() if value is not None]
    if tls and not has("mqtts", "wss"):
        text = f"{' and '.join(tls)} would be ignored, because no address of the broker starts with mqtts:// or wss://"
        yield at(document, ("mqtt", "tls"), f"{text}; write mqtts:// or remove what is for TLS")
    headers = section_of(mqtt, "websocket", "header_files")
    if headers and not has("ws", "wss"):
        text = (
            f"{' and '.join(headers)} would be ignored, because no address of the broker starts with ws:// or wss://"
        )
        yield at(document, ("mqtt", "websocket"), f"{text}; write wss:// or remove the headers")
    if mqtt.get("proxy") is not None and not has("mqtt", "mqtts", "ws", "wss"):
        text = "the proxy would be ignored, because the broker is on this machine"
        yield at(document, ("mqtt", "proxy"), f"{text}; remove the proxy or name another broker")


def warnings_of(config: AgentConfig, document: StrictDocument) -> Iterator[Problem]:
    """Likely mistakes that are allowed."""
    for name in config.models:
        if name not in config.used_models:
            yield at(document, ("models", name), "no enabled camera uses this model; it is not loaded")
    yield from _warnings_of_serve(config, document)
    if config.cameras and not any(camera.enabled for camera in config.cameras.values()):
        yield at(document, ("cameras",), "every camera is disabled; nothing will be classified")
    yield from _warnings_of_devices(config, document)
    for name, camera in config.cameras.items():
        yield from _warnings_of_credentials(name, camera.source, document)
        yield from _warnings_of_work(config, name, document)
        for index, use in enumerate(camera.classify):
            if use.when is None:
                continue
            path = ("cameras", name, "classify", index, "when", "labels")
            repeated = {label for label in use.when.labels if use.when.labels.count(label) > 1}
            if repeated:
                yield at(document, path, f"named more than once: {', '.join(sorted(repeated))}")
    yield from _warnings_of_mqtt(config, document)


def _warnings_of_serve(config: AgentConfig, document: StrictDocument) -> Iterator[Problem]:
    asking = [name for name, model in config.models.items() if model.serve]
    if config.serve.is_on and not asking and not config.serve.page:
        yield at(document, ("serve",), "programs are served no model; write `serve: true` at a model")
    if config.serve.control and not (config.mqtt.commands.enabled and config.mqtt.commands.allow):
        text = "the page may send commands, but mqtt.commands allows none; enable them there, and name them in allow"
        yield at(document, ("serve", "control"), text)
    if asking and not config.serve.is_on:
        text = "no program can reach this model, because `serve` has no address; write http: 127.0.0.1:8000 there"
        yield from (at(document, ("models", name, "serve"), text) for name in asking)
    if config.serve.tls.cert_file is None:
        text = "tokens and images cross the network in clear text; give `tls` a certificate"
        for key, address in config.serve.addresses.items():
            if not is_loopback(address):
                yield at(document, ("serve", key), text)


def _warnings_of_credentials(name: str, source: SourceConfig, document: StrictDocument) -> Iterator[Problem]:
    """A likely password in the file itself. It is published in no case; this only helps to move it."""
    if source.type == "gstreamer":
        key, text = "pipeline", source.pipeline
    elif source.type in {"rtsp", "http", "stream"}:
        key, text = "url", source.url
        if source.username is not None and source.password_file is None and USERNAME not in source.url:
            missing = "username is given without password_file, so the camera gets an empty password"
            yield at(document, ("cameras", name, "source", "username"), f"{missing}; name the file with it")
    else:
        return
    without = text.replace(USERNAME, "").replace(PASSWORD, "")
    if seems_to_hold_a_password(without):
        remedy = "move it to a file named by password_file, and write {password} where it belongs"
        yield at(document, ("cameras", name, "source", key), f"the {key} seems to hold a password; {remedy}")


def _warnings_of_work(config: AgentConfig, name: str, document: StrictDocument) -> Iterator[Problem]:
    """A camera that can never be opened, or whose frames nothing asks for."""
    camera, commands = config.cameras[name], config.mqtt.commands
    if not camera.enabled:
        return
    if camera.trigger is not None and camera.trigger.gpio is None:
        missing = "`mqtt.commands.enabled` is false" if not commands.enabled else "`mqtt.commands.allow` lacks capture"
        if not commands.enabled or "capture" not in commands.allow:
            text = f"only the command `capture` can ask for a frame, but {missing}; nothing is ever classified"
            yield at(document, ("cameras", name, "trigger"), f"{text}: allow the command, or give `gpio`")


def _warnings_of_devices(config: AgentConfig, document: StrictDocument) -> Iterator[Problem]:
    """A device delivers frames to one camera only; a second one on it never opens."""
    first: dict[str, str] = {}
    for name, camera in config.cameras.items():
        source = camera.source
        if not camera.enabled or source.type not in {"v4l2", "csi"}:
            continue
        device = f"serial {source.serial}" if source.type == "v4l2" and source.serial else None
        device = device or (source.device if source.type == "v4l2" else f"sensor {source.sensor_id}")
        other = first.setdefault(device, name)
        if other != name:
            text = f"camera {other} also reads {device}, which delivers frames to one camera only; name another device"
            yield at(document, ("cameras", name, "source"), text)


def _warnings_of_mqtt(config: AgentConfig, document: StrictDocument) -> Iterator[Problem]:
    mqtt = config.mqtt
    if mqtt.password_file is not None and mqtt.username is None:
        yield at(document, ("mqtt", "password_file"), "there is no `username`; most brokers ignore a password alone")
    open_ones = [str(address) for address in mqtt.addresses if address.is_clear_text]
    if mqtt.username is not None and open_ones:
        text = f"the password crosses the network in clear text to {' and '.join(open_ones)}; use mqtts:// or wss://"
        yield at(document, ("mqtt", "broker"), f"{text} where the broker offers it")
    if mqtt.websocket.header_files and any(one.is_websocket and one.is_clear_text for one in mqtt.addresses):
        text = "the headers cross the network in clear text; use wss:// where the broker offers it"
        yield at(document, ("mqtt", "websocket", "header_files"), text)
    yield from _warnings_of_switches(config, document)
    yield from _warnings_of_max_rate(config, document)


def _warnings_of_switches(config: AgentConfig, document: StrictDocument) -> Iterator[Problem]:
    """Settings of what is switched off, unless the file itself says that it is off."""
    mqtt = section_of(document.data, "mqtt")
    for key in ("commands", "home_assistant"):
        given = section_of(mqtt, key)
        if given and "enabled" not in given:
            text = f"`enabled` is missing, which means false, so the agent ignores {', '.join(sorted(given))}"
            yield at(document, ("mqtt", key), f"{text}; write `enabled: true`")
    if config.mqtt.commands.enabled and not config.mqtt.commands.allow:
        text = "commands are enabled, but `allow` names none, so every command is ignored; name those to take"
        yield at(document, ("mqtt", "commands"), text)


def _warnings_of_max_rate(config: AgentConfig, document: StrictDocument) -> Iterator[Problem]:
    """A limit that even the regular messages exceed leaves nothing for changes of state, events and results."""
    cameras = [camera for camera in config.cameras.values() if camera.enabled]
    kinds = [*REGULAR.values(), *(REGULAR_PER_CLASSIFIER["state"] for camera in cameras for _ in camera.classify)]
    kinds += [REGULAR_PER_CAMERA["camera-health"] for _ in cameras]
    every_s, health_bytes = REGULAR_PER_CAMERA["health"]  # a part of `health`, no message of its own
    needed = {
        "messages_hz": sum(1 / interval_s for interval_s, _ in kinds),
        "bytes_per_s": sum(size / interval_s for interval_s, size in kinds) + len(cameras) * health_bytes / every_s,
    }
    for key, least in needed.items():
        limit = getattr(config.mqtt.max_rate, key)
        if limit is not None and limit < least:
            text = f"the limit is {_figure(limit)}, but states, health and thermal alone need about {_figure(least)}"
            yield at(document, ("mqtt", "max_rate", key), f"{text}; raise it, or results never leave and events wait")


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
