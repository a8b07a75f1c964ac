"""Puts the command desk to a running agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.commands.handlers import AgentHost, HostParts
from agent.commands.overrides import amended, load_overrides
from agent.commands.server import CommandDesk
from agent.config.loader import LoadedConfig
from agent.config.model import AgentConfig
from agent.mqtt.identity import Identity
from agent.mqtt.inbound import Inbound
from agent.reload import Reloader
from agent.runtime.clock import Clock
from agent.telemetry.reporter import Parts

_IDS_FILE = "commands.json"


def with_kept_changes(loaded: LoadedConfig) -> LoadedConfig:
    """``loaded`` with what commands of earlier sessions changed for good; nothing where commands are off."""
    if not loaded.config.mqtt.commands.enabled:
        return loaded
    return amended(loaded, load_overrides(loaded.state_dir))


def make_desk(
    in_force: Callable[[], LoadedConfig],
    identity: Identity,
    inbound: Inbound,
    parts: Parts,
    reloader: Reloader,
    *,
    clock: Clock,
) -> CommandDesk:
    """The desk for an agent that runs ``in_force()``, started where commands are enabled."""
    loaded = in_force()

    def base() -> LoadedConfig:
        now = in_force()
        return replace(now, config=AgentConfig.model_validate(now.document.data))

    host = AgentHost(
        HostParts(
            pipeline=parts.pipeline,
            topics=identity.topics,
            state_dir=loaded.state_dir,
            base=base,
            publish=parts.publisher.offer,
            adjust=reloader.adjust,
            reload=reloader.reload_now,
            rebirth=parts.publisher.rebirth,
        )
    )
    config = loaded.config.mqtt.commands
    desk = CommandDesk(
        config, identity, host, parts.publisher.offer, ids_file=loaded.state_dir / _IDS_FILE, clock=clock
    )
    if config.enabled:
        inbound.listen(desk.subscription, desk.receive)
        desk.start()
    return desk
