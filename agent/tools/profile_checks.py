"""Compares a configuration with the limits of the service that ``mqtt.profile`` names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson

import agent
from agent.config.loader import LoadedConfig
from agent.config.model import CameraConfig
from agent.config.problems import Problem, at
from agent.config.profiles import PROFILES, BrokerProfile
from agent.config.shape import KeyPath
from agent.mqtt.inbound import subscriptions
from agent.mqtt.messages import ModelRuntime, Runtime
from agent.mqtt.settings import client_id_of
from agent.mqtt.topics import Topics, encode
from agent.publish.home_assistant.discovery import discovery_message, object_id
from agent.telemetry.reports import camera_runtimes
from engines import EngineError, ModelPackage

_UNKNOWN_BYTES = 2048
"""Room for what only the device knows of its ``runtime`` message: board, libraries, rejected engines. The documented
example has 0.8 kB of it."""
_COMPACT_BYTES, _RESULT_BYTES, _CLASS_BYTES = 450, 1000, 70
"""A compact result with its topic and headers; a full one without its classes, and each class: the documented
examples have 0.3 kB, 0.97 kB and 62 bytes."""


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """``errors``: what the service would refuse. ``warnings``: what it may throttle, or could not be compared.
    ``unverified``: see BrokerProfile."""

    title: str
    unverified: tuple[str, ...]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def compare_with_profile(
    loaded: LoadedConfig, *, load: Callable[[str], ModelPackage] | None = None
) -> ProfileReport | None:
    """The configuration compared with its profile; None if it names none. ``load`` reads the package of a model, by
    its key; by default as the configuration says.
    """
    name = loaded.config.mqtt.profile
    if name is None:
        return None
    comparison = _Comparison(loaded, PROFILES[name], load or (lambda model: loaded.read_package(model, None)))
    profile = comparison.profile
    return ProfileReport(profile.title, profile.unverified, tuple(comparison.errors()), tuple(comparison.warnings()))


class _Comparison:
    def __init__(self, loaded: LoadedConfig, profile: BrokerProfile, load: Callable[[str], ModelPackage]) -> None:
        self.profile = profile
        self._loaded = loaded
        self._config = loaded.config
        self._topics = Topics(loaded.config.mqtt.prefix, loaded.device_id)
        self._packages: dict[str, ModelPackage] = {}
        self._unreadable: dict[str, str] = {}
        for model in loaded.config.models:
            self._read(model, load)

    def _read(self, model: str, load: Callable[[str], ModelPackage]) -> None:
        try:
            self._packages[model] = load(model)
        except EngineError as exc:
            self._unreadable[model] = exc.message

    def errors(self) -> Iterator[Problem]:
        yield from self._clear_text()
        yield from self._client_id()
        yield from self._long_topics()
        yield from self._many_filters()
        yield from self._large_messages()

    def warnings(self) -> Iterator[Problem]:
        yield from self._fast_results()
        for model, message in self._unreadable.items():
            text = f"its labels count in `runtime`, whose size was not compared with {self.profile.title}: {message}"
            yield self._at(("models", model, "package"), text)

    def _at(self, path: KeyPath, text: str) -> Problem:
        return at(self._loaded.document, path, text)

    def _clear_text(self) -> Iterator[Problem]:
        mqtt = self._config.mqtt
        for index, address in enumerate(mqtt.addresses):
            if self.profile.needs_tls and not address.is_tls:
                path = ("mqtt", "broker") if isinstance(mqtt.broker, str) else ("mqtt", "broker", index)
                scheme = "wss" if address.is_websocket else "mqtts"
                yield self._at(path, f"{address} has no TLS, but {self.profile.title} needs it; write {scheme}://")
        if mqtt.is_embedded:
            yield self._at(
                ("mqtt", "profile"), "the broker is embedded, so no service's limits apply; remove one of both"
            )

    def _client_id(self) -> Iterator[Problem]:
        limit, mqtt = self.profile.max_client_id_bytes, self._config.mqtt
        size = len(client_id_of(mqtt, self._loaded.device_id).encode())
        if limit is not None and size > limit:
            text = f"the client id has {size} bytes, but {self.profile.title} accepts {limit}; set a shorter client_id"
            yield self._at(("mqtt", "client_id" if mqtt.client_id else "prefix"), text)

    def _topics_by_key(self) -> Iterator[tuple[KeyPath, str]]:
        """Every kind of topic, with the place in the file that makes it long."""
        prefix: KeyPath = ("mqtt", "prefix")
        for camera, body in self._config.cameras.items():
            for index, use in enumerate(body.classify):
                yield ("cameras", camera, "classify", index), self._topics.event(camera, use.key)
            yield ("cameras", camera), self._topics.snapshot(camera)
        yield prefix, self._topics.reply("benchmark")
        if self._config.mqtt.home_assistant.enabled:
            home = self._config.mqtt.home_assistant.prefix
            path = ("mqtt", "home_assistant", "prefix")
            yield path, f"{home}/device/{object_id(self._loaded.device_id)}/config"

    def _long_topics(self) -> Iterator[Problem]:
        title, topics = self.profile.title, list(self._topics_by_key())
        levels, size = self.profile.max_topic_levels, self.profile.max_topic_bytes
        path, deepest = max(topics, key=lambda one: one[1].count("/"))
        found = deepest.count("/") + 1
        if levels is not None and found > levels:
            path = path if path[0] == "mqtt" else ("mqtt", "prefix")
            text = f"the topic {deepest} has {found} levels, but {title} accepts {levels}; shorten the prefix by"
            yield self._at(path, f"{text} {found - levels}")
        path, longest = max(topics, key=lambda one: len(one[1].encode()))
        bytes_found = len(longest.encode())
        if size is not None and bytes_found > size:
            text = f"the topic {longest} has {bytes_found} bytes, but {title} accepts {size}; shorten names or prefix"
            yield self._at(path, text)

    def _many_filters(self) -> Iterator[Problem]:
        limit, wanted = self.profile.max_filters, len(subscriptions(self._config.mqtt, self._topics))
        if limit is not None and wanted > limit:
            yield self._at(("mqtt", "commands"), f"{wanted} subscriptions, but {self.profile.title} accepts {limit}")

    def _large_messages(self) -> Iterator[Problem]:
        runtime = self._runtime()
        found: list[tuple[str, KeyPath, int]] = [("runtime", ("models",), len(encode(runtime)) + _UNKNOWN_BYTES)]
        mqtt = self._config.mqtt
        if mqtt.home_assistant.enabled:
            allowed = mqtt.commands.allow if mqtt.commands.enabled else ()
            message = discovery_message(
                runtime, self._topics, allowed=allowed, snapshots=mqtt.home_assistant.snapshots
            )
            found.append(
                ("Home Assistant's discovery message", ("mqtt", "home_assistant"), len(orjson.dumps(message)))
            )
        retained, payload = self.profile.max_retained_bytes, self.profile.max_payload_bytes
        limit = min((size for size in (retained, payload) if size is not None), default=None)
        for name, path, size in found:
            if limit is not None and size > limit:
                text = (
                    f"{name} has about {size:,} bytes ({self._label_count()} labels), but {self.profile.title} "
                    f"accepts {limit:,} in a retained message; divide the models or cameras among several agents"
                )
                yield self._at(path, text)

    def _label_count(self) -> int:
        return sum(len(package.labels) for package in self._packages.values())

    def _runtime(self) -> Runtime:
        return Runtime(
            device=self._loaded.device_id,
            session=1,
            at="2026-01-01T00:00:00.000000Z",
            agent=agent.__version__,
            libraries={},
            board={},
            models={name: _model_runtime(name, package) for name, package in self._packages.items()},
            cameras=camera_runtimes(self._config, {}, self._packages),
            config_sha256=self._loaded.sha256,
            previous_exit=None,
        )

    def _fast_results(self) -> Iterator[Problem]:
        title, limit = self.profile.title, self.profile.max_publish_hz
        if limit is None:
            return
        uses = [
            (name, camera) for name, camera in self._config.cameras.items() if camera.enabled for _ in camera.classify
        ]
        max_hz = self._config.mqtt.results.max_hz
        share = math.floor(0.9 * limit / max(1, len(uses)) * 10) / 10
        remedy = f"set mqtt.results.max_hz to at most {share:g}, which leaves a tenth for events, states and health"
        for name, camera in self._config.cameras.items():
            if camera.enabled and camera.rate_hz is None and max_hz is None:
                text = f"no rate_hz and no mqtt.results.max_hz, so results come as fast as frames, but {title} accepts"
                yield self._at(("cameras", name), f"{text} {limit} messages a second; {remedy}")
        rates = [_result_hz(camera, max_hz) for _, camera in uses]
        total = sum(rate for rate in rates if rate is not None)
        if total > 0.9 * limit:
            path = ("mqtt", "results", "max_hz") if max_hz is not None else ("mqtt", "results")
            text = (
                f"{_in_words(uses, rates)} make up to {total:g} results a second, but {title} accepts {limit} messages"
            )
            yield self._at(path, f"{text} of every kind; {remedy}")
        top_k = max((use.decide.top_k for _, camera in uses for use in camera.classify), default=0)
        is_compact = self._config.mqtt.results.detail == "compact"
        size = _COMPACT_BYTES if is_compact else _RESULT_BYTES + _CLASS_BYTES * top_k
        most = self.profile.max_publish_bytes_hz
        if most is not None and total * size > most:
            text = f"results make up to {total * size:,.0f} bytes a second, but {title} accepts {most:,}; {remedy}"
            yield self._at(("mqtt", "results"), text)


def _model_runtime(name: str, package: ModelPackage) -> ModelRuntime:
    return ModelRuntime(
        name=package.name,
        version=package.version,
        sha256=package.sha256,
        engine="ort-tensorrt",
        requested_engine="ort-tensorrt",
        precision="fp16",
        requested_precision="fp16",
        placement={},
        device=name,
        degraded=None,
        rejected=(),
        accuracy=None,
        labels=package.labels,
        task=package.output.task.value,
        load_ms=0.0,
    )


def _result_hz(camera: CameraConfig, max_hz: float | None) -> float | None:
    """Most results a second of one classifier; None if only the camera knows."""
    known = [rate for rate in (camera.rate_hz, max_hz) if rate is not None]
    return min(known) if known else None


def _in_words(uses: Sequence[tuple[str, CameraConfig]], rates: Sequence[float | None]) -> str:
    by_camera: dict[str, list[float]] = {}
    for (name, _), rate in zip(uses, rates, strict=True):
        if rate is not None:
            by_camera.setdefault(name, []).append(rate)
    shown = [f"{name} ({len(found)} x {found[0]:g})" for name, found in by_camera.items()]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more cameras" if len(shown) > 4 else "")
