"""The `runtime` message: what runs here. Published when a configuration takes effect or an engine changes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property

from agent.config.loader import LoadedConfig
from agent.config.overridden import overridden
from agent.inference.pipeline import Pipeline
from agent.mqtt.base import SinkStatistics
from agent.mqtt.identity import Identity
from agent.mqtt.messages import Runtime, utc_text
from agent.publish.uplink import Uplink
from agent.runtime.clock import Clock
from agent.telemetry.reporter import Reporter
from agent.telemetry.reports import camera_runtimes, library_versions, model_runtime
from engines import DeviceRecord, ModelPackage, describe_device


def runtime_message(
    loaded: LoadedConfig,
    packages: Mapping[str, ModelPackage],
    pipeline: Pipeline,
    *,
    identity: Identity,
    environment: DeviceRecord,
    at: str,
    previous_exit: str | None,
    connection: SinkStatistics,
    changed: str | None,
) -> Runtime:
    """What ``pipeline`` runs with ``loaded``. ``changed`` says what changed since the last message."""
    infos = {key: info for key, worker in pipeline.workers.items() if (info := worker.statistics().info) is not None}
    return Runtime(
        device=identity.device,
        session=identity.session,
        at=at,
        agent=identity.agent,
        libraries=library_versions(infos.values()),
        board={
            "model": environment.board,
            "name": loaded.device_name,
            "l4t": environment.l4t,
            "jetpack": environment.jetpack,
            "power_mode": environment.power_mode,
            "os": environment.os,
            "architecture": environment.architecture,
            "cpu": environment.cpu,
            "cpu_cores": environment.cpu_cores,
            "gpu": environment.gpus[0].name if environment.gpus else None,
            "driver": environment.driver,
            "cuda": environment.cuda,
            "python": environment.python,
        },
        models={key: model_runtime(info, packages[key]) for key, info in infos.items()},
        cameras=camera_runtimes(
            loaded.config,
            {name: camera.source.description for name, camera in pipeline.cameras.items()},
            packages,
        ),
        config_sha256=loaded.sha256,
        previous_exit=previous_exit,
        protocol=connection.protocol,
        protocol_reason=connection.protocol_reason,
        overridden={one.key: one.in_file for one in overridden(loaded)},
        changed=changed,
    )


class RuntimeAnnouncer:
    """Holds the configuration in force and publishes what runs with it. Any thread."""

    def __init__(
        self,
        loaded: LoadedConfig,
        identity: Identity,
        pipeline: Pipeline,
        uplink: Uplink,
        reporter: Reporter,
        *,
        previous_exit: str | None,
        clock: Clock,
    ) -> None:
        self._loaded = loaded
        self._identity = identity
        self._pipeline = pipeline
        self._uplink = uplink
        self._reporter = reporter
        self._previous_exit = previous_exit
        self._clock = clock
        self._lock = threading.Lock()
        self._changed: str | None = None
        self._protocol: tuple[str | None, str | None] | None = None
        """That of the last message; None before the first one."""

    @property
    def loaded(self) -> LoadedConfig:
        """The configuration in force."""
        return self._loaded

    def describe_device(self) -> None:
        """Read what the device is. Takes a moment, so call it while engines load."""
        _ = self._environment

    def applied(self, loaded: LoadedConfig, packages: Mapping[str, ModelPackage]) -> None:
        """``loaded`` is in force now: publish it."""
        with self._lock:
            self._loaded = loaded
            cameras = loaded.config.cameras
            disabled = [name for name, camera in cameras.items() if not camera.enabled]
            self._reporter.configured([*cameras], disabled=disabled)
            self._announce(packages, None)

    def engines_changed(self, changed: str) -> None:
        """An engine was replaced, or its replacement failed: ``changed`` says which and why."""
        with self._lock:
            packages = {key: worker.package for key, worker in self._pipeline.workers.items()}
            self._announce(packages, changed)

    def tick(self) -> None:
        """Call this regularly: publishes again once another version of the protocol is in use."""
        if self._protocol is not None and _protocol_of(self._uplink.publisher.connection()) != self._protocol:
            with self._lock:
                self._announce({key: one.package for key, one in self._pipeline.workers.items()}, self._changed)

    @cached_property
    def _environment(self) -> DeviceRecord:
        return describe_device()

    def _announce(self, packages: Mapping[str, ModelPackage], changed: str | None) -> None:
        connection = self._uplink.publisher.connection()
        self._changed, self._protocol = changed, _protocol_of(connection)
        message = runtime_message(
            self._loaded,
            packages,
            self._pipeline,
            identity=self._identity,
            environment=self._environment,
            at=utc_text(self._clock.utc_ns()),
            previous_exit=self._previous_exit,
            connection=connection,
            changed=changed,
        )
        self._uplink.announce(self._loaded, message)


def _protocol_of(connection: SinkStatistics) -> tuple[str | None, str | None]:
    return connection.protocol, connection.protocol_reason
