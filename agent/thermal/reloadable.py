"""The thermal monitor of the configuration in force, and its way to the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from agent.config.loader import LoadedConfig
from agent.config.thermal import ThermalConfig
from agent.runtime.logs import get_logger
from agent.thermal.governor import GovernorDecision
from agent.thermal.monitor import ThermalMonitor, ThermalStatistics

log = get_logger(__name__)


class ThermalInForce:
    """Owns one monitor at a time. ``on_decision`` hears of the first decision of each that follows another."""

    def __init__(
        self,
        config: ThermalConfig,
        make: Callable[[ThermalConfig], ThermalMonitor],
        *,
        on_decision: Callable[[GovernorDecision], None],
    ) -> None:
        self._config = config
        self._make = make
        self._on_decision = on_decision
        self._lock = threading.Lock()
        self._is_stopped = False
        self._monitor = make(config)

    def start(self) -> None:
        """Start the sensor and the thread."""
        self._monitor.start()

    def stop(self) -> None:
        """See ThermalMonitor; none is started after it."""
        with self._lock:
            self._is_stopped = True
        self._monitor.stop()

    @property
    def failure(self) -> Exception | None:
        """What ended the thread."""
        return self._monitor.failure

    def statistics(self) -> ThermalStatistics:
        """See ThermalMonitor."""
        return self._monitor.statistics()

    def throttled_between(self, first_ns: int, last_ns: int) -> bool | None:
        """See ThermalMonitor; what an earlier monitor saw is forgotten."""
        return self._monitor.throttled_between(first_ns, last_ns)

    def prepare(self, loaded: LoadedConfig) -> Callable[[], None] | None:
        """How to go over to ``loaded``, None where nothing differs; so far nothing has changed."""
        config = loaded.config.thermal
        return None if config == self._config else partial(self._go_over_to, config)

    def _go_over_to(self, config: ThermalConfig) -> None:
        """Rates are as the new governor has them from its first word on; it gives way to heat within seconds."""
        fresh = self._make(config)
        self._monitor.stop()
        self._on_decision(fresh.decision)
        with self._lock:
            if self._is_stopped:
                return
            self._config, self._monitor = config, fresh
            fresh.start()
        log.info("thermal.changed", source=config.source, governor=config.governor.enabled)
