"""The `runtime` message: what runs on this device, put together from everything that knows a part of it."""

from __future__ import annotations

from collections.abc import Mapping

from agent.config.loader import LoadedConfig
from agent.inference.pipeline import Pipeline
from agent.mqtt.identity import Identity
from agent.mqtt.messages import Runtime
from agent.telemetry.reports import camera_runtimes, library_versions, model_runtime
from engines import EnvironmentRecord, ModelPackage


def runtime_message(
    loaded: LoadedConfig,
    packages: Mapping[str, ModelPackage],
    pipeline: Pipeline,
    *,
    identity: Identity,
    environment: EnvironmentRecord,
    at: str,
    previous_exit: str | None,
    changed: str | None,
) -> Runtime:
    """What ``pipeline`` runs under ``loaded``; ``changed`` is what became another while the agent ran."""
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
            loaded.config, {name: camera.source.description for name, camera in pipeline.cameras.items()}
        ),
        config_sha256=loaded.sha256,
        previous_exit=previous_exit,
        changed=changed,
    )
