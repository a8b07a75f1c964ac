"""The thermal monitor of the configuration in force; a reload replaces it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from agent.config.loader import LoadedConfig
from agent.config.sections.thermal import ThermalConfig
from agent.runtime.logs import get_logger
from agent.thermal.decision import GovernorDecision
from agent.thermal.monitor import ThermalMonitor, ThermalStatistics

log = get_logger(__name__)


class ReloadableMonitor:
    """Owns one monitor at a time. ``on_decision`` is called with the first decision of each later one."""

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
        """See ThermalMonitor. No other monitor is started afterwards."""
        with self._lock:
            self._is_stopped = True
        self._monitor.stop()

    @property
    def failure(self) -> Exception | None:
        """The exception that ended the thread."""
        return self._monitor.failure

    def statistics(self) -> ThermalStatistics:
        """See ThermalMonitor."""
        return self._monitor.statistics()

    def throttled_between(self, first_ns: int, last_ns: int) -> bool | None:
        """See ThermalMonitor. Only readings of the current monitor count."""
        return self._monitor.throttled_between(first_ns, last_ns)

    def prepare(self, loaded: LoadedConfig) -> Callable[[], None] | None:
        """Return what switches to ``loaded``; None if nothing differs. Changes nothing itself."""
        config = loaded.config.thermal
        return None if config == self._config else partial(self._switch_to, config)

    def _switch_to(self, config: ThermalConfig) -> None:
        # The new governor's ratio holds at once, not after its first reading: it cuts for heat within seconds.
        fresh = self._make(config)
        self._monitor.stop()
        self._on_decision(fresh.decision)
        with self._lock:
            if self._is_stopped:
                return
            self._config, self._monitor = config, fresh
            fresh.start()
        log.info("thermal.changed", source=config.source, governor=config.governor.enabled)
