"""Shows a fleet as lines, for output that is not a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from agent.tools.watch.fleet import DeviceView, FleetView
from agent.tools.watch.reasons import overrides, reason


def lines_from_fleet(view: FleetView, *, now_s: float) -> Iterator[str]:
    """One line per classifier, one for a device without any, one per override; ``now_s`` is monotonic."""
    if not view.devices:
        yield f"no messages under {view.prefix}/ yet"
    for name in sorted(view.devices):
        yield from _lines_of_device(name, view.devices[name], now_s)


def _lines_of_device(name: str, device: DeviceView, now_s: float) -> Iterator[str]:
    head = f"{name} {device.message('status').text('state') or 'unknown'}"
    if not any(camera.classifiers for camera in device.cameras.values()):
        yield head
    for camera_name in sorted(device.cameras):
        camera = device.cameras[camera_name]
        dropped = camera.health.total("dropped")
        for key in sorted(camera.classifiers):
            classifier = camera.classifiers[key]
            label = classifier.decided or classifier.result.text("label") or "-"
            text = reason(device, camera_name, key, classifier)
            confidence = classifier.result.number("confidence") or 0.0
            p50, p99 = (classifier.latency_ms(now_s, percent) or 0.0 for percent in (50, 99))
            yield (
                f"{head} {camera_name}/{key}: {label} {confidence:.2f}, {classifier.rate_hz(now_s):.1f} results/s, "
                f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, dropped {dropped}" + (f"; {text}" if text else "")
            )
    yield from (f"{name} {text}" for text in overrides(device))
