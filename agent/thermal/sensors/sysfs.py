"""Temperatures, trip points, throttling, power and GPU from the kernel's files. Needs no privileges."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.thermal.sensors.base import (
    GpuSample,
    MemorySample,
    SensorDescription,
    ThermalSample,
    TripPoints,
    zone_name,
)
from agent.thermal.sensors.cooling import CoolingDevices, cooling_devices
from agent.thermal.sensors.files import (
    amount_or_none,
    folders,
    number_or_none,
    number_or_reason,
    read_text,
    text_or_none,
)
from agent.thermal.sensors.known_boards import assumed_throttling, firmware_files, firmware_states
from agent.thermal.sensors.over_current import OverCurrentMeter
from agent.thermal.sensors.plausible import ZoneCheck
from agent.thermal.sensors.rails import hwmon_folders, iio_folders, read_fans, read_power
from agent.thermal.sensors.throttling import ThrottleWatch
from agent.thermal.sensors.trips import trip_points, zone_trips

log = get_logger(__name__)

_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")
_OLD_GPU_LOADS = ("devices/gpu.0/load", "devices/platform/gpu.0/load")
_LOOK_AGAIN_S = 60.0
_STALE_S = 4.0
_MAX_INTEGER = 2**63 - 1
_STOP_S = 2.0


class SysfsReader:
    """Reads everything once, at the caller's time. Used by one thread.

    ``root`` replaces /sys, ``proc`` /proc. Zones keep their names over a reboot, not their numbers.
    """

    def __init__(self, root: Path, *, proc: Path = Path("/proc"), nvpmodel: Path | None = None) -> None:
        self._root = root
        self._meminfo = proc / "meminfo"
        # Written by nvpmodel as `pmode:0002`; not tested on a board.
        self._nvpmodel = nvpmodel if nvpmodel is not None else Path("/var/lib/nvpmodel/status")
        self._check = ZoneCheck()
        self._looked_at_s = float("-inf")
        self._zones: dict[str, Path] = {}
        self._constant: dict[str, str] = {}
        self._trips: dict[str, TripPoints] = {}
        self._untripped: frozenset[str] = frozenset()
        self._cooling = CoolingDevices()
        self._firmware: dict[str, Path] = {}
        self._throttling = ThrottleWatch()
        self._over_current = OverCurrentMeter()
        self._hwmons: list[Path] = []
        self._iio: list[Path] = []
        self._gpu: Path | None = None

    def read(self, now_ns: int) -> ThermalSample:
        """One sample, taken at ``now_ns``. What cannot be read is absent, never an error."""
        now_s = now_ns / 1e9
        if now_s - self._looked_at_s >= _LOOK_AGAIN_S:
            self._look(now_s)
        readings: dict[str, float] = {}
        absent = dict(self._constant)
        for zone, folder in self._zones.items():
            millicelsius = number_or_reason(folder / "temp")
            if isinstance(millicelsius, str):
                absent[zone] = millicelsius
            else:
                readings[zone] = millicelsius / 1000.0
        temperatures, lies = self._check.check(readings, now_s, doubtful=self._untripped)
        power, dark_rails = read_power(self._hwmons, self._iio)
        states = {**self._cooling.throttle_states(), **firmware_states(self._firmware)}
        over_current = self._over_current.read(now_s)
        return ThermalSample(
            source="sysfs",
            taken_at_ns=now_ns,
            temperatures=temperatures,
            trip_points=dict(self._trips),
            power=power,
            gpu=self._read_gpu(),
            memory=self._read_memory(),
            fans=read_fans(self._hwmons),
            power_mode=self._read_power_mode(),
            throttle_causes=self._throttling.causes(states, temperatures, over_current.throttles, now_s),
            throttle_states=states,
            over_current_hz=over_current.hz,
            over_current_events=over_current.events,
            hints=self._cooling.hint_states(),
            absent={**absent, **lies, **dark_rails},
        )

    def _look(self, now_s: float) -> None:
        """Find out what this board has."""
        self._looked_at_s = now_s
        thermal = self._root / "class/thermal"
        if not thermal.is_dir():
            thermal = self._root / "devices/virtual/thermal"
        self._zones, self._constant = {}, {}
        kinds: dict[str, str] = {}
        for folder in folders(thermal, "thermal_zone*"):
            kind = text_or_none(folder / "type")
            if kind is None:
                continue
            name = zone_name(kind, {**self._zones, **self._constant})
            if "PMIC" in kind:
                self._constant[name] = "the PMIC's zone gives a constant"
            else:
                self._zones[name], kinds[name] = folder, kind
        self._hwmons, self._iio = hwmon_folders(self._root), iio_folders(self._root)
        trips = {zone: zone_trips(folder) for zone, folder in self._zones.items()}
        self._trips = {
            zone: trip_points(each, assumed_throttling(self._root, kinds[zone], self._hwmons))
            for zone, each in trips.items()
        }
        self._untripped = frozenset(zone for zone, each in trips.items() if not each.trips)
        self._cooling, self._firmware = cooling_devices(thermal), firmware_files(self._root)
        self._throttling.look(self._cooling, trips, self._trips)
        self._over_current.look(self._hwmons)
        devices = folders(self._root / "class/devfreq")
        self._gpu = next((d for d in devices if any(name in d.name for name in _GPU_NAMES)), None)

    def _read_gpu(self) -> GpuSample:
        loads = [self._root / path for path in _OLD_GPU_LOADS]
        clock = highest = None
        if self._gpu is not None:
            loads.insert(0, self._gpu / "device/load")
            clock = amount_or_none(self._gpu / "cur_freq")
            highest = amount_or_none(self._gpu / "max_freq")
        permille = next((value for path in loads if (value := number_or_none(path)) is not None), None)
        return GpuSample(
            load_ratio=None if permille is None or not 0 <= permille <= 1000 else permille / 1000.0,
            clock_hz=None if clock is None else int(clock),
            max_clock_hz=None if highest is None else int(highest),
        )

    def _read_memory(self) -> MemorySample | None:
        try:
            lines = read_text(self._meminfo).splitlines()
            kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest}
            total, available = kib["MemTotal"], kib["MemAvailable"]
        except (OSError, ValueError, KeyError, IndexError):
            return None
        if total * 1024 > _MAX_INTEGER:
            return None
        return MemorySample(total_bytes=total * 1024, used_bytes=max(total - available, 0) * 1024)

    def _read_power_mode(self) -> str | None:
        text = text_or_none(self._nvpmodel)
        if text is None or not text.startswith("pmode:"):
            return None
        words = text.removeprefix("pmode:").split()
        return words[0].lstrip("0") or "0" if words else None  # while it is being written


class SysfsSensor:
    """Reads on its own thread, so that a hanging bus blocks nobody else."""

    def __init__(self, root: Path, *, clock: Clock, interval_s: float, reader: SysfsReader | None = None) -> None:
        self._root = root
        self._clock = clock
        self._interval_s = interval_s
        self._reader = reader if reader is not None else SysfsReader(root)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sample: ThermalSample | None = None

    def start(self) -> None:
        """See Sensor."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="thermal-sysfs", daemon=True)
            self._thread.start()

    def latest(self) -> ThermalSample | None:
        """See Sensor. A sample older than 4 s and than three intervals does not count."""
        sample = self._sample
        if sample is None or sample.age_s(self._clock.monotonic_ns()) > max(_STALE_S, 3 * self._interval_s):
            return None
        return sample

    def describe(self) -> SensorDescription:
        """See Sensor."""
        if self._thread is None:
            return SensorDescription("sysfs", "stopped", str(self._root))
        sample = self.latest()
        if sample is None:
            return SensorDescription("sysfs", "starting" if self._sample is None else "silent", str(self._root))
        detail = f"{len(sample.temperatures)} zones below {self._root}, {len(sample.absent)} absent"
        return SensorDescription("sysfs", "reading", detail)

    def stop(self) -> None:
        """See Sensor."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join(_STOP_S)
            if thread.is_alive():
                log.warning("thermal.sysfs_stalled", waited_s=_STOP_S, root=str(self._root))
        self._sample = None

    def _run(self) -> None:
        while True:
            sample = self._reader.read(self._clock.monotonic_ns())
            self._sample = replace(sample, taken_at_ns=self._clock.monotonic_ns())
            if self._clock.wait(self._stop, self._interval_s):
                return
