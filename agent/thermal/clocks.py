"""The lever on the clocks: lowers the maximum clocks of GPU and CPU through the kernel's files, and restores them.

devfreq: ``/sys/class/devfreq/<gpu>/max_freq`` in Hz; cpufreq: ``/sys/devices/system/cpu/cpufreq/policyN/
scaling_max_freq`` in kHz. Both are limits set by user space: the kernel's own throttling works below them, and the
power mode (nvpmodel) is not touched. The original values are written to the state directory before the first change,
so that the next start restores them after a kill.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config.sections.thermal import ThermalConfig
from agent.runtime.boot import BOOT_ID, boot_id
from agent.runtime.logs import get_logger
from agent.thermal.levers import MIN_CLOCK_RATIO, Dither, Lever, LeverName, around
from agent.thermal.sensors.base import Sensor
from agent.thermal.sensors.choose import SYSFS_ROOT
from agent.thermal.sensors.cooling import role_of
from agent.thermal.sensors.files import amount_or_none, folders, text_or_none
from agent.thermal.sensors.simulated import SimulatedClocks, SimulatedSensor
from engines import JsonRecord, RecordDamaged

log = get_logger(__name__)

RECORD_NAME = "clocks.json"
_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")
_FOR_GOOD = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(slots=True)
class ClockFile:
    """One file with a maximum clock, in the kernel's unit. ``steps`` are the clocks that it can hold."""

    path: Path
    original: int
    steps: tuple[int, ...]
    written: int | None = None
    dither: Dither = field(default_factory=Dither)

    def wanted(self, level: float) -> int:
        """The step to write now for a mean of ``level`` times the original clock."""
        return round(self.dither.step(level * self.original, *around(level * self.original, self.steps)))


def clock_files(root: Path) -> dict[Path, Path]:
    """The files below ``root`` (for /sys) with a maximum clock, each with the file that lists its steps."""
    gpus = [f for f in folders(root / "class/devfreq") if any(name in f.name for name in _GPU_NAMES)]
    found = {folder / "max_freq": folder / "available_frequencies" for folder in gpus}
    for policy in folders(root / "devices/system/cpu/cpufreq", "policy*"):
        found[policy / "scaling_max_freq"] = policy / "scaling_available_frequencies"
    return {path: steps for path, steps in found.items() if path.is_file()}


def clock_levers(
    config: ThermalConfig, sensor: Sensor, *, state_dir: Path, root: Path = SYSFS_ROOT
) -> tuple[Lever, ...]:
    """The lever on the clocks, if the configuration allows it; for a simulated sensor the simulated clocks.

    Clocks that an earlier run left lowered are restored in any case.
    """
    if isinstance(sensor, SimulatedSensor):
        return (SimulatedClocks(sensor),) if config.governor.clocks else ()
    if not config.governor.clocks and not (state_dir / RECORD_NAME).exists():
        return ()
    clocks = KernelClocks(root, state_dir=state_dir)
    clocks.recover()
    return (clocks,) if config.governor.clocks and config.governor.enabled and config.source != "none" else ()


class KernelClocks:
    """The lever ``clocks``. Any thread. A failed write is logged once and makes it unavailable."""

    name: LeverName = "clocks"

    def __init__(self, root: Path, *, state_dir: Path, boot: Path = BOOT_ID) -> None:
        self._root = root
        # The boot is part of the value and not of the facts: a record of another boot is no damage to warn of.
        self._record = JsonRecord[_Originals](state_dir / RECORD_NAME, encode=_encoded, decode=_decoded)
        self._boot = boot_id(boot)
        self._lock = threading.Lock()
        self._files: list[ClockFile] = []
        self._left: list[ClockFile] = []  # given up, and not put back
        self._is_available = bool(clock_files(root))
        if not self._is_available:
            log.warning("thermal.clocks_unavailable", reason=f"no devfreq GPU and no cpufreq policy below {root}")

    @property
    def is_available(self) -> bool:
        """See Lever."""
        return self._is_available

    def engage(self, level: float) -> None:
        """See Lever. Does nothing while the kernel throttles and the original clocks are not known yet."""
        with self._lock:
            if not self._is_available or (not self._files and not self._take_originals()):
                return
            for file in tuple(self._files):
                # _give_up may have removed the others too.
                error = _lower(file, max(level, MIN_CLOCK_RATIO)) if file in self._files else None
                if error is not None:
                    self._give_up(file, error)

    def release(self) -> None:
        """See Lever."""
        with self._lock:
            lowered = (*self._files, *self._left)
            left = {file.path: file.original for file in lowered if not _put_back(file)}
            self._files, self._left = [], []
            if lowered and not left:
                self._forget()
            elif left:
                self._is_available = False
                log.error("thermal.clocks_restore_failed", files=_names(left), remedy="reboot, or write them by hand")

    def recover(self) -> None:
        """Restore what an earlier run of this boot left lowered. Called once, before ``engage``."""
        with self._lock:
            before = self._read_record()
            if before is None:
                return
            left = {}
            known = clock_files(self._root)
            for path, original in before.items():
                # Only files that this program could have lowered, and only upwards: a higher value was set on purpose.
                current = amount_or_none(path) if path in known else None
                if current is not None and current < original and _write(path, original) is not None:
                    left[path] = original
            if left:
                log.error("thermal.clocks_restore_failed", files=_names(left), remedy="reboot, or write them by hand")
                return
            self._forget()
            log.warning(
                "thermal.clocks_restored", files=_names(before), reason="an earlier run ended without restoring them"
            )

    def _take_originals(self) -> bool:
        """Read the original values and save them; False if that is not possible now."""
        if self._is_capped():
            return False
        files = []
        for path, steps_path in clock_files(self._root).items():
            original = amount_or_none(path)
            if original:
                files.append(ClockFile(path, int(original), _steps(steps_path, int(original))))
        try:
            self._record.save(_Originals(self._boot, {file.path: file.original for file in files}))
        except OSError as exc:
            self._is_available = False
            why = (
                f"{self._record.path} cannot be written: {exc.strerror}; without it a kill would leave the clocks low"
            )
            log.warning("thermal.clocks_unavailable", reason=why)
            return False
        self._files = files
        return bool(files)

    def _is_capped(self) -> bool:
        """Whether the kernel throttles now, so that the files read lower than their original values."""
        for folder in folders(self._root / "class/thermal", "cooling_device*"):
            kind = text_or_none(folder / "type") or ""
            if role_of(kind) == "throttle" and (amount_or_none(folder / "cur_state") or 0) > 0:
                return True
        return False

    def _give_up(self, file: ClockFile, error: OSError) -> None:
        """Restore and drop the file; without permission all of them, because half a lever costs speed and saves
        little."""
        given_up = self._files if error.errno in _FOR_GOOD else [file]
        self._left += [one for one in given_up if not _put_back(one)]
        self._files = [one for one in self._files if one not in given_up]
        if not self._files:
            self._is_available = False
            if self._left:
                # The record stays: the next start tries again.
                left = {one.path: one.original for one in self._left}
                log.error("thermal.clocks_restore_failed", files=_names(left), remedy="reboot, or write them by hand")
            else:
                self._forget()
        log.warning(
            "thermal.clocks_unavailable" if not self._files else "thermal.clock_skipped",
            reason=f"{file.path} cannot be written: {error.strerror or error}",
            remedy="install systemd/drop-ins/clocks.conf, or set thermal.governor.clocks to false",
        )

    def _read_record(self) -> Mapping[Path, int] | None:
        """What an earlier run of this boot saved. A reboot restores the clocks without help."""
        try:
            before = self._record.read()
        except FileNotFoundError:
            return None
        except RecordDamaged as exc:
            log.warning("thermal.clocks_record_unreadable", file=str(self._record.path), error=str(exc))
            before = None
        if before is None or before.boot != self._boot:
            self._forget()
            return None
        return before.files

    def _forget(self) -> None:
        """Delete the record. One that stays does no harm: it only ever raises clocks, and only in its own boot."""
        try:
            self._record.path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning(
                "thermal.clocks_record_delete_failed",
                file=str(self._record.path),
                error=exc.strerror or str(exc),
                remedy="make the state directory writable, and delete this file",
            )


@dataclass(frozen=True, slots=True)
class _Originals:
    """What the files held before the first change, and in which boot."""

    boot: str
    files: Mapping[Path, int]


def _encoded(originals: _Originals) -> object:
    return {"boot_id": originals.boot, "files": {str(path): clock for path, clock in originals.files.items()}}


def _decoded(value: Any) -> _Originals:
    return _Originals(str(value["boot_id"]), {Path(path): int(clock) for path, clock in value["files"].items()})


def _steps(path: Path, original: int) -> tuple[int, ...]:
    """The clocks that the kernel lists, from the lowest that the governor uses to ``original``."""
    lowest = original * MIN_CLOCK_RATIO
    words = (text_or_none(path) or "").split()
    listed = {int(word) for word in words if word.isdecimal() and lowest <= int(word) <= original}
    if not listed:
        # Some drivers list none and round what is written: use ten even steps.
        listed = {round(lowest + (original - lowest) * step / 10) for step in range(11)}
    return tuple(sorted(listed | {original}))


def _lower(file: ClockFile, level: float) -> OSError | None:
    current = amount_or_none(file.path)
    if file.written is not None and current is not None and current > file.written:
        # Another program has raised it since, for example a new power mode: restore that value at the end.
        file.original = max(file.original, int(current)) if current > file.original else file.original
    wanted = file.wanted(level)
    if wanted == file.written and current == wanted:
        return None
    error = _write(file.path, wanted)
    if error is None:
        file.written = wanted
    return error


def _put_back(file: ClockFile) -> bool:
    return file.written is None or _write(file.path, file.original) is None


def _write(path: Path, value: int) -> OSError | None:
    """Write one number without blocking; return the error if the kernel refuses it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        return exc
    try:
        os.write(descriptor, f"{value}\n".encode())
    except OSError as exc:
        return exc
    finally:
        os.close(descriptor)
    return None


def _names(files: Mapping[Path, int]) -> str:
    return ", ".join(f"{path}={value}" for path, value in files.items())
