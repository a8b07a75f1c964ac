"""Shows a fleet as tables in a terminal: a pure function of the fleet's state and the time."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.tools.watch.documents import Document, printable
from agent.tools.watch.fleet import CameraView, ClassifierView, DeviceView, FleetView
from agent.tools.watch.history import curve
from agent.tools.watch.reasons import overrides, reasons

_STALE_S = 3.0
_BAR_CELLS = 8
_WIDE_CELLS = 108

_GOOD, _WARNING, _BAD, _FAINT = "green", "yellow", "bold red", "dim"
_STATE_STYLES = {
    "online": _GOOD,
    "connected": _GOOD,
    "free": _GOOD,
    "connecting": _WARNING,
    "reduced": _WARNING,
    "blind": _WARNING,
    "ended": _FAINT,
    "disabled": _FAINT,
    "stopped": _FAINT,
    "off": _FAINT,
    "lost": _BAD,
    "offline": _BAD,
    "disconnected": _BAD,
    "paused": _BAD,
}


def render(view: FleetView, *, now_s: float, width: int = 120, heading: str = "") -> RenderableType:
    """All devices at ``now_s`` (monotonic), ``width`` cells wide; ``heading`` names the source."""
    parts: list[RenderableType] = []
    if heading:
        parts.append(Text(heading, style=_FAINT))
    if not view.devices:
        parts.append(Text(f"No messages under {view.prefix}/ yet.", style=_WARNING))
    is_narrow = width < _WIDE_CELLS
    parts += [_device(name, view.devices[name], now_s, is_narrow=is_narrow) for name in sorted(view.devices)]
    if view.unreadable or view.left_out:
        parts.append(Text(f"{view.unreadable} unreadable messages, {view.left_out} left out", style=_WARNING))
    return Group(*parts)


def _device(name: str, device: DeviceView, now_s: float, *, is_narrow: bool) -> RenderableType:
    state = device.message("status").text("state") or "unknown"
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style=_FAINT, no_wrap=True)
    lines.add_column()
    for key, text in (*_facts(device, now_s), *_curves(device, now_s)):
        lines.add_row(key, text)
    title = Text.assemble(("● ", _STATE_STYLES.get(state, _WARNING)), (name, "bold"), f" {state} ")
    parts: list[RenderableType] = [lines]
    if device.cameras:
        cameras = _narrow_cameras(device, now_s) if is_narrow else _wide_cameras(device, now_s)
        cameras.style = "" if state == "online" else _FAINT
        parts.append(Padding(cameras, (1, 0, 0, 0)))
    parts += _errors(device)
    parts += [Text(f"{camera}/{key}: {text}", style=_WARNING) for camera, key, text in reasons(device)]
    parts += [Text(text, style=_WARNING) for text in overrides(device)]
    border = _BAD if state == "offline" else _FAINT
    return Panel(Group(*parts), title=title, title_align="left", border_style=border, padding=(0, 1))


def _facts(device: DeviceView, now_s: float) -> Iterator[tuple[str, Text]]:
    runtime, health, thermal = device.message("runtime"), device.message("health"), device.message("thermal")
    if runtime:
        yield "device", _machine(device, now_s)
    models = runtime.section("models")
    for key in models.names():
        yield "engine", _engine(key, models.section(key), health.section("models", key))
    if health and device.is_running:
        yield "broker", _broker(health)
    if thermal and device.is_running:
        yield "heat", _heat(thermal)


def _machine(device: DeviceView, now_s: float) -> Text:
    """What it is; how long it is up and what it uses, while it runs."""
    runtime, health = device.message("runtime"), device.message("health")
    board = runtime.text("board", "model") or runtime.text("board", "cpu") or "unknown machine"
    parts = [runtime.text("board", "name"), board, f"agent {runtime.text('agent') or '?'}"]
    uptime_s = device.uptime_s(now_s)
    if not device.is_running:
        return Text(" · ".join(part for part in parts if part))
    if uptime_s is not None:
        parts.append(f"up {duration(uptime_s)}")
    rss, cpu = health.number("process", "rss_mib"), health.number("process", "cpu_percent")
    if rss is not None and cpu is not None:
        parts.append(f"{rss:.0f} MiB, CPU {cpu:.0f} %")
    return Text(" · ".join(part for part in parts if part))


def _engine(key: str, model: Document, now: Document) -> Text:
    engine = now.text("engine") or model.text("engine") or "?"
    precision = now.text("precision") or model.text("precision") or "?"
    degraded = now.text("degraded") if now else model.text("degraded")
    text = Text.assemble((key, "bold"), f" {model.text('name')} {model.text('version')} on ", (engine, "bold"))
    text.append(f" {precision}")
    placement = model.section("placement")
    if placement:
        counts = (f"{placement.number(name):.0f} on {name}" for name in placement.names() if placement.number(name))
        text.append(f" ({', '.join(counts)})", style=_FAINT)
    if degraded:
        text.append(f"  degraded: {degraded}", style=_BAD)
    return text


def _broker(health: Document) -> Text:
    state = health.text("connection", "state") or "unknown"
    text = Text.assemble((state, _STATE_STYLES.get(state, _WARNING)))
    if protocol := health.text("connection", "protocol"):
        text.append(f" · {protocol}")
    if reason := health.text("connection", "reason"):
        text.append(f" · {reason}", style=_BAD)
    publisher = health.section("publisher")
    text.append(f" · sent {publisher.number('sent') or 0:.0f}")
    dropped = publisher.total("dropped")
    text.append(f" · dropped {dropped}", style=_WARNING if dropped else "")
    text.append(f" · waiting {(publisher.number('queued') or 0) + (publisher.number('stored') or 0):.0f}")
    if why := publisher.text("reason"):
        text.append(f" · kept in memory only: {why}", style=_BAD)
    if denied := len(publisher.section("denied").names()):
        text.append(f" · {denied} topics refused by the broker", style=_BAD)
    return text


def _heat(thermal: Document) -> Text:
    text = Text()
    hottest = thermal.text("hottest")
    celsius = thermal.number("zones", hottest, "celsius") if hottest else None
    text.append("no temperature" if celsius is None else f"{hottest} {celsius:.1f} °C")
    if (watts := thermal.number("power", "total_watts")) is not None:
        text.append(f" · {watts:.1f} W")
    if thermal.flag("throttled"):
        causes = ", ".join(thermal.section("throttle_causes").names()).replace("_", " ")
        text.append(f" · the board throttles{f' ({causes})' if causes else ''}", style=_BAD)
    state = thermal.text("governor", "state") or "off"
    share = thermal.number("governor", "rate_ratio")
    text.append(" · governor ").append(state, style=_STATE_STYLES.get(state, ""))
    if share is not None and state != "off":
        text.append(f" {share * 100:.0f} %")
    text.append(_given_way(thermal))
    return text


def _given_way(thermal: Document) -> Text:
    """Cause and levers, where something is cut; the rate itself stands before it."""
    governor, text = thermal.section("governor"), Text()
    clocks = governor.number("clock_ratio")
    names = {
        "batches": "larger batches",
        "engine": "cooler engine",
        "clocks": "clocks" if clocks is None else f"clocks {clocks * 100:.0f} %",
        "rate": "rate",
    }
    if levers := [names[name] for name in governor.texts("levers") if name in names]:
        text.append(f" by {', '.join(levers)}", style=_WARNING)
    if cause := governor.text("cause"):
        text.append(f" for {cause.replace('_', ' ')}", style=_WARNING)
    return text


def _curves(device: DeviceView, now_s: float) -> Iterator[tuple[str, Text]]:
    """Temperature with its limit, and the rate, if the governor is on."""
    if (device.message("thermal").text("governor", "state") or "off") == "off":
        return
    moments = device.heat.moments(now_s)
    temperatures = [moment.celsius for moment in moments]
    known = [celsius for celsius in temperatures if celsius is not None]
    if not known:
        return
    limit = moments[-1].limit_celsius
    high = max([*known, limit or 0.0])
    low = min([*known, high - 10.0])
    text = Text(curve(temperatures, low, high), style="yellow")
    text.append(f"  {known[-1]:.1f} °C", style="default")
    if limit is not None:
        text.append(f" of {limit:.1f} °C", style=_FAINT)
    yield "temp", text
    rate = Text(curve([moment.rate_ratio for moment in moments], 0.0, 1.0), style="cyan")
    yield "rate", rate.append(f"  {moments[-1].rate_ratio * 100:.0f} % of the configured rate", style="default")


def _wide_cameras(device: DeviceView, now_s: float) -> Table:
    table = _table()
    for column in ("camera", "state", "fps", "classifier", "label", "confidence", "results/s", "p50 ms", "p99 ms"):
        _add_column(table, column)
    _add_column(table, "dropped")
    for name, camera, key, is_first in _lines(device):
        classifier = camera.classifiers.get(key)
        cells = [Text()] * 5 if classifier is None else _classifier(classifier, now_s, with_bar=True)
        head = (
            [Text(name, style="bold"), _state(device, camera), _fps(device, camera, now_s)]
            if is_first
            else [Text()] * 3
        )
        table.add_row(*head, Text(key), *cells, _dropped(camera) if is_first else Text())
    return table


def _narrow_cameras(device: DeviceView, now_s: float) -> Table:
    table = _table()
    for column in ("camera", "classifier", "label", "conf", "res/s", "p50", "p99", "drop"):
        _add_column(table, column)
    for name, camera, key, is_first in _lines(device):
        classifier = camera.classifiers.get(key)
        cells = [Text()] * 5 if classifier is None else _classifier(classifier, now_s, with_bar=False)
        style = _STATE_STYLES.get(camera.health.text("state") or "", "") if device.is_running else _FAINT
        head = Text.assemble(("● ", style), (name, "bold")) if is_first else Text()
        table.add_row(head, Text(key), *cells, _dropped(camera) if is_first else Text())
    return table


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style=_FAINT)


def _add_column(table: Table, name: str) -> None:
    is_text = name in {"camera", "state", "classifier", "label", "confidence", "conf"}
    table.add_column(
        name,
        justify="left" if is_text else "right",
        no_wrap=True,
        overflow="ellipsis",
        min_width=None if is_text else len(name),
    )


def _lines(device: DeviceView) -> Iterator[tuple[str, CameraView, str, bool]]:
    """Camera, its view, classifier, and whether this is the camera's first line."""
    for name in device.visible_cameras():
        camera = device.cameras[name]
        for position, key in enumerate(sorted(camera.classifiers) or [""]):
            yield name, camera, key, position == 0


def _state(device: DeviceView, camera: CameraView) -> Text:
    if not device.is_running:
        return Text(f"agent {device.message('status').text('state')}", style=_FAINT)
    state = camera.health.text("state") or "…"
    text = Text(state, style=_STATE_STYLES.get(state, ""))
    if image_fault := camera.health.text("image_fault"):
        text.append(f" {image_fault}", style=_BAD)
    return text


def _fps(device: DeviceView, camera: CameraView, now_s: float) -> Text:
    fps = camera.fps(now_s) if device.is_running else None
    return Text("" if fps is None else f"{fps:.1f}")


def _dropped(camera: CameraView) -> Text:
    dropped = camera.health.total("dropped")
    return Text(str(dropped) if camera.health else "", style=_WARNING if dropped else "")


def _errors(device: DeviceView) -> Iterator[Text]:
    if not device.is_running:
        return
    for name in device.visible_cameras():
        if error := device.cameras[name].health.text("error"):
            yield Text(f"{name}: {error}", style=_BAD)


def _labels_of(result: Document) -> list[str]:
    """The labels of a frame: a list, or in a compact result an object with their confidences."""
    return result.texts("labels") or [printable(label) for label in result.section("labels").names()]


def _classifier(classifier: ClassifierView, now_s: float, *, with_bar: bool) -> list[Text]:
    """Label, confidence, rate, p50 and p99."""
    decided = classifier.decided
    result = classifier.result
    label = Text(decided or "", style="bold cyan")
    found = result.value("labels")
    seen = result.text("label") if found is None else ", ".join(_labels_of(result)) or "none"
    if seen is not None and seen != decided:
        label.append(f" ({seen})" if decided else f"({seen})", style=_FAINT)
    p50, p99 = classifier.latency_ms(now_s, 50), classifier.latency_ms(now_s, 99)
    last_s = classifier.last_result_s
    confidence = result.number("confidence") if result else classifier.state.number("confidence")
    if last_s is not None and now_s - last_s > _STALE_S:
        shown = Text(f"{duration(now_s - last_s)} ago", style=_WARNING)
    elif confidence is None:
        shown = Text()
    else:
        shown = _bar(confidence) if with_bar else Text(f"{confidence:.2f}")
    return [
        label,
        shown,
        Text("" if last_s is None else f"{classifier.rate_hz(now_s):.1f}"),
        Text("" if p50 is None else f"{p50:.1f}"),
        Text("" if p99 is None else f"{p99:.1f}"),
    ]


def _bar(share: float) -> Text:
    share = min(1.0, max(0.0, share))
    full = round(share * _BAR_CELLS)
    return Text.assemble(("█" * full, "cyan"), ("░" * (_BAR_CELLS - full), _FAINT), f" {share:.2f}")


def duration(seconds: float) -> str:
    """``75`` gives ``1 min 15 s``; two units at most."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((index for index, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count or unit == "s")
