"""The last 24 hours of heat, one record per minute, in a file of fixed size that survives kills and torn writes.

The file has a header and 1440 slots. Each record has a rising number, the UTC of its minute, its values and a
checksum, and is written to the slot ``number % 1440``. The numbers give the order, because the clock may jump: the
reader leaves out records whose UTC does not fit the newest one, and counts them. It is no record of ``engines.store``:
one minute is written in place, without copying the other 1439.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.runtime.logs import get_logger
from agent.thermal.sensors.base import ThermalSample, ThrottleCause

log = get_logger(__name__)

FILE_NAME = "thermal-minutes"
SLOTS = 1440
CAUSES: tuple[ThrottleCause, ...] = ("heat", "over_current", "power_cap")
_HEAD = struct.Struct("<8sHHI")
_MAGIC = b"AGTHERM\0"
_VERSION = 1
_RECORD = struct.Struct("<QqffffHHHH")
"""Number, UTC second of the minute's end, hottest, rate ratio, clock ratio, watts, throttled seconds by cause (3),
seconds with a reading. An unknown value is NaN."""
_CHECK = struct.Struct("<I")
_SLOT_BYTES = _RECORD.size + _CHECK.size
_MAX_NUMBER = 2**62
_MAX_UTC_S = 253_402_300_799
"""The last second of the year 9999, beyond which no date can be shown."""
_DAY_S = 24 * 3600
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute. ``rate_ratio`` and ``clock_ratio`` are minima, ``watts`` a mean; None if unknown."""

    utc_s: int
    """Its end, seconds since 1970."""
    max_celsius: float | None
    rate_ratio: float
    clock_ratio: float
    watts: float | None
    throttled_s: Mapping[ThrottleCause, int]
    seen_s: int
    """Seconds of it with a reading."""


@dataclass(frozen=True, slots=True)
class DayOfHeat:
    """The content of the file, oldest minute first. ``left_out`` counts minutes that are damaged, of another day,
    or in a file of another version."""

    minutes: tuple[Minute, ...]
    left_out: int = 0


@dataclass(slots=True)
class MinuteSum:
    """Adds up readings, about one per second, until a minute is full. The clock is monotonic."""

    _began_s: float | None = None
    _last_s: float = 0.0
    _max_celsius: float = field(default=math.nan)
    _rate: float = 1.0
    _clock: float = 1.0
    _watt_seconds: float = 0.0
    _watts_s: float = 0.0
    _seen_s: float = 0.0
    _throttled_s: dict[ThrottleCause, float] = field(default_factory=dict)

    def add(self, sample: ThermalSample | None, *, rate_ratio: float, clock_ratio: float, now_s: float) -> bool:
        """Add one reading; True when the minute is full and ``take`` is due."""
        if self._began_s is None:
            self._began_s = self._last_s = now_s
        # A late reading stands for ten seconds at most; the time before was not observed.
        passed_s = min(max(now_s - self._last_s, 0.0), 10.0)
        self._last_s = now_s
        self._rate, self._clock = min(self._rate, rate_ratio), min(self._clock, clock_ratio)
        if sample is not None:
            self._seen_s += passed_s
            if sample.hottest is not None:
                self._max_celsius = (
                    sample.hottest[1] if math.isnan(self._max_celsius) else max(self._max_celsius, sample.hottest[1])
                )
            if sample.power.total_watts is not None:
                self._watt_seconds += sample.power.total_watts * passed_s
                self._watts_s += passed_s
            for cause in sample.throttle_causes:
                self._throttled_s[cause] = self._throttled_s.get(cause, 0.0) + passed_s
        return now_s - self._began_s >= _MINUTE_S

    def take(self, utc_s: int) -> Minute:
        """Return the minute that ends at ``utc_s``, and begin the next one."""
        minute = Minute(
            utc_s=utc_s,
            max_celsius=None if math.isnan(self._max_celsius) else self._max_celsius,
            rate_ratio=self._rate,
            clock_ratio=self._clock,
            watts=self._watt_seconds / self._watts_s if self._watts_s > 0.0 else None,
            throttled_s={cause: round(self._throttled_s.get(cause, 0.0)) for cause in CAUSES},
            seen_s=round(self._seen_s),
        )
        self._began_s = self._last_s
        self._max_celsius, self._rate, self._clock = math.nan, 1.0, 1.0
        self._watt_seconds = self._watts_s = self._seen_s = 0.0
        self._throttled_s = {}
        return minute


class MinuteFile:
    """Writes minutes. Used by one thread. A failure is logged once; the next minute tries again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next: int | None = None
        self._has_failed = False

    def append(self, minute: Minute) -> bool:
        """Overwrite the oldest minute; return whether that worked."""
        try:
            self._append(minute)
        except OSError as exc:
            if not self._has_failed:
                log.warning("thermal.minutes_write_failed", file=str(self._path), error=exc.strerror or str(exc))
            self._has_failed = True
            return False
        if self._has_failed:
            log.info("thermal.minutes_write_recovered", file=str(self._path))
        self._has_failed = False
        return True

    def _append(self, minute: Minute) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if not _has_our_head(descriptor):
                self._begin(descriptor)
            if self._next is None:
                known = _numbered(descriptor)
                self._next = max(known) + 1 if known else 0
            _write_all(descriptor, _packed(self._next, minute), _HEAD.size + self._next % SLOTS * _SLOT_BYTES)
            self._next += 1
        finally:
            os.close(descriptor)

    def _begin(self, descriptor: int) -> None:
        """Allocate the whole file now, so that a disk that fills up later does not matter."""
        if os.fstat(descriptor).st_size:
            log.warning("thermal.minutes_reset", file=str(self._path), reason="another version, or damaged")
        os.ftruncate(descriptor, 0)
        os.posix_fallocate(descriptor, 0, _HEAD.size + SLOTS * _SLOT_BYTES)
        _write_all(descriptor, _HEAD.pack(_MAGIC, _VERSION, _SLOT_BYTES, SLOTS), 0)
        self._next = 0


def read_minutes(path: Path) -> DayOfHeat:
    """The 24 hours before the newest minute in ``path``; none if the file is absent, damaged or of another version.

    Raises:
        OSError: it exists and cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return DayOfHeat(())
    try:
        if not _has_our_head(descriptor):
            # All of it is left out. A file too short for a record counts as one.
            damaged = sum(1 for content in _slots(descriptor) if any(content))
            return DayOfHeat((), damaged or min(os.fstat(descriptor).st_size, 1))
        found = _numbered(descriptor)
        damaged = _count_damaged(descriptor)
    finally:
        os.close(descriptor)
    if not found:
        return DayOfHeat((), damaged)
    newest = found[max(found)]
    fitting = [found[number] for number in sorted(found) if 0 <= newest.utc_s - found[number].utc_s < _DAY_S]
    return DayOfHeat(tuple(fitting), damaged + len(found) - len(fitting))


def minutes_for_people(day: DayOfHeat) -> list[dict[str, float | None]]:
    """The minutes as JSON objects, oldest first; temperatures in degrees Celsius, power in watts."""
    return [
        {
            "at": one.utc_s,
            "celsius": one.max_celsius,
            "rate_ratio": one.rate_ratio,
            "clock_ratio": one.clock_ratio,
            "watts": one.watts,
            "throttled_s": sum(one.throttled_s.values()),
        }
        for one in day.minutes
    ]


def _packed(number: int, minute: Minute) -> bytes:
    body = _RECORD.pack(
        number,
        minute.utc_s,
        math.nan if minute.max_celsius is None else minute.max_celsius,
        minute.rate_ratio,
        minute.clock_ratio,
        math.nan if minute.watts is None else minute.watts,
        *(min(minute.throttled_s.get(cause, 0), 0xFFFF) for cause in CAUSES),
        min(minute.seen_s, 0xFFFF),
    )
    return body + _CHECK.pack(zlib.crc32(body))


def _unpacked(slot: bytes) -> tuple[int, Minute] | None:
    """Number and minute; None for an empty or torn slot."""
    body, check = slot[: _RECORD.size], slot[_RECORD.size :]
    if len(check) != _CHECK.size or _CHECK.unpack(check)[0] != zlib.crc32(body):
        return None
    number, utc_s, celsius, rate, clock, watts, *seconds, seen_s = _RECORD.unpack(body)
    if not 0 <= utc_s <= _MAX_UTC_S:
        return None
    return number, Minute(
        utc_s=utc_s,
        max_celsius=None if math.isnan(celsius) else celsius,
        rate_ratio=rate,
        clock_ratio=clock,
        watts=None if math.isnan(watts) else watts,
        throttled_s=dict(zip(CAUSES, seconds, strict=True)),
        seen_s=seen_s,
    )


def _slots(descriptor: int) -> list[bytes]:
    content = os.pread(descriptor, SLOTS * _SLOT_BYTES, _HEAD.size)
    return [content[at : at + _SLOT_BYTES] for at in range(0, len(content), _SLOT_BYTES)]


def _numbered(descriptor: int) -> dict[int, Minute]:
    """Every whole record by its number, except records in the wrong slot, which a fault has copied there."""
    unpacked = ((slot, _unpacked(content)) for slot, content in enumerate(_slots(descriptor)))
    return {one[0]: one[1] for slot, one in unpacked if one is not None and _fits(one[0], slot)}


def _fits(number: int, slot: int) -> bool:
    return number < _MAX_NUMBER and number % SLOTS == slot


def _count_damaged(descriptor: int) -> int:
    return sum(1 for content in _slots(descriptor) if any(content) and _unpacked(content) is None)


def _has_our_head(descriptor: int) -> bool:
    head = os.pread(descriptor, _HEAD.size, 0)
    return len(head) == _HEAD.size and _HEAD.unpack(head) == (_MAGIC, _VERSION, _SLOT_BYTES, SLOTS)


def _write_all(descriptor: int, content: bytes, at: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, at)
        content, at = content[written:], at + written
