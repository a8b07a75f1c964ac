"""Which USB camera is behind a device file: the kernel numbers /dev/video0, 1, ... in the order of discovery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.cameras.sources.lifecycle import Lifecycle
from agent.config.sections.sources import V4l2Source

SYS = Path("/sys")
_CLASS = "class/video4linux"


@dataclass(frozen=True, slots=True)
class UsbIdentity:
    """The USB descriptors of a camera. Cameras of one model may have no serial number, or all the same one."""

    vendor: str
    product: str
    name: str
    serial: str | None

    def __str__(self) -> str:
        serial = "without a serial number" if self.serial is None else f"serial {self.serial}"
        return f"{self.name or 'camera'} {self.vendor}:{self.product}, {serial}"


def identity_of(device: Path, *, sys: Path = SYS) -> UsbIdentity | None:
    """The camera behind ``/dev/videoN``; None if it is not on USB.

    Source: Linux, ABI/testing/sysfs-bus-usb.
    """
    try:
        interface = (sys / _CLASS / device.name / "device").resolve(strict=True)
    except OSError:
        return None
    for folder in (interface, *interface.parents):
        vendor, product = _text(folder / "idVendor"), _text(folder / "idProduct")
        if vendor and product:
            return UsbIdentity(vendor, product, _text(folder / "product") or "", _text(folder / "serial"))
    return None


def devices_with_serial(serial: str, *, sys: Path = SYS) -> Iterator[Path]:
    """Device files of the camera with that serial number, without its metadata devices."""
    for node in sorted((sys / _CLASS).glob("video*")):
        identity = identity_of(Path("/dev") / node.name, sys=sys)
        if identity is not None and identity.serial == serial and _text(node / "index") in {"0", None}:
            yield Path("/dev") / node.name


class CameraIdentity:
    """Finds a camera's device, and remembers its identity to detect swapped cables. Used by one thread."""

    def __init__(self, config: V4l2Source, lifecycle: Lifecycle, *, sys: Path = SYS) -> None:
        self._config = config
        self._lifecycle = lifecycle
        self._sys = sys
        self._known: UsbIdentity | None = None

    def locate(self) -> str:
        """The device to open: the one with the configured `serial`, else `device`.

        Raises:
            SourceUnavailable: no camera with that serial number is plugged in, or several are.
        """
        serial = self._config.serial
        if serial is None:
            return self._config.device
        found = list(devices_with_serial(serial, sys=self._sys))
        if len(found) == 1:
            return str(found[0])
        present = "; ".join(map(str, self._present())) or "none"
        count = "no USB camera has" if not found else f"{len(found)} USB cameras have"
        raise self._lifecycle.unavailable(
            "missing" if not found else "ambiguous",
            f"{count} the serial number {serial}; plugged in: {present}. Plug it in, or correct `serial`",
        )

    def is_plugged_in(self) -> bool:
        """Whether there is a device to open."""
        serial = self._config.serial
        if serial is None:
            return Path(self._config.device).exists()
        return any(True for _ in devices_with_serial(serial, sys=self._sys))

    def check(self, device: Path) -> None:
        """Check that the camera behind ``device`` (links resolved) is the one that was opened before.

        Raises:
            SourceUnavailable: it is a different camera.
        """
        identity = identity_of(device, sys=self._sys)
        if identity is None:  # not on USB: nothing to compare
            return
        if self._known is not None and identity != self._known:
            raise self._lifecycle.unavailable(
                "swapped",
                f"{self._config.device} is now a different camera ({identity}); before, it was {self._known}. Swap "
                "the cables back; or set `serial`, or a link below /dev/v4l/by-id as `device`. If it was replaced on "
                "purpose, restart the agent",
            )
        self._known = identity

    def _present(self) -> Iterator[UsbIdentity]:
        for node in sorted((self._sys / _CLASS).glob("video*")):
            identity = identity_of(Path("/dev") / node.name, sys=self._sys)
            if identity is not None and _text(node / "index") in {"0", None}:
                yield identity


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
