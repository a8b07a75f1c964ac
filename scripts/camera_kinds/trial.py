"""Tries one kind: opens it, reads it, takes its server away and brings it back."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.cameras.camera import Camera
from agent.cameras.frame_counters import FrameCounters
from agent.cameras.sources.base import Source
from agent.cameras.sources.choose import make_source
from agent.config.model import CameraConfig
from agent.runtime.clock import SystemClock
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime.records import Image
from scripts.camera_kinds.kinds import Kind, Result, Stage

_TRIAL_S = 45.0
_FRAMES_OF_A_STREAM = 10
_AWAY_S = 5.0
_BACK_S = 60.0


def tried(kind: Kind, folder: Path) -> Result:
    """The row of ``kind``, whose files are made in ``folder``."""
    with ExitStack() as stack:
        try:
            stage = kind.make(folder, stack)
        except subprocess.CalledProcessError as exc:
            return Result(kind, "nothing", message=str(exc.cmd[0]), differs="it could not be made")
        if stage.server is not None:
            stack.callback(stage.server.stop)
            try:
                stage.server.start()
            except RuntimeError as exc:
                return Result(kind, "nothing", message=str(exc)[:60], differs="its server did not start")
        result = _read(kind, stage, folder)
        if stage.server is not None and result.first_s is not None:
            loss_s, return_s = _loss_and_return(stage, folder)
            result = replace(result, loss_s=loss_s, return_s=return_s)
            if loss_s is None or return_s is None:
                result = replace(result, differs="the loss was not noticed, or the camera did not come back")
        return result


def _read(kind: Kind, stage: Stage, folder: Path) -> Result:
    source = make_source(stage.config, base_dir=folder, clock=SystemClock())
    timer = threading.Timer(_TRIAL_S, source.interrupt)
    timer.start()
    began = time.monotonic()
    first_s: float | None = None
    images: list[Image] = []
    message, reason = "", "frames"
    try:
        source.open()
        while kind.frames is not None or len(images) < _FRAMES_OF_A_STREAM:
            capture = source.read()
            if capture is None:
                break
            images.append(capture.image)
            first_s = first_s or time.monotonic() - began
    except (SourceUnavailable, SourceLost) as exc:
        message, reason = exc.message, str(exc.fields.get("reason"))
    finally:
        timer.cancel()
        source.close()
    return Result(kind, _came(images, source), first_s, message=message, differs=_differs(kind, images, reason))


def _came(images: list[Image], source: Source) -> str:
    if not images:
        return "nothing"
    sizes = list(dict.fromkeys(f"{image.shape[1]}x{image.shape[0]}" for image in images))
    skipped = source.statistics().skipped
    return f"{len(images)} frames, {', '.join(sizes)}" + (f", {skipped} skipped" if skipped else "")


def _differs(kind: Kind, images: list[Image], reason: str) -> str:
    if reason != kind.expected:
        return f"expected {kind.expected}, got {reason}"
    if reason == "frames" and not images:
        return "no frame"
    if kind.frames is not None and reason == "frames" and len(images) != kind.frames:
        return f"expected {kind.frames} frames"
    if images and kind.scene and (seen := _scene(images[-1])) != kind.scene:
        return f"expected the colours {kind.scene}, got {seen}"
    return ""


def _scene(image: Image) -> str:
    """Where red and blue are."""
    height, width = image.shape[:2]
    parts = {
        "left": image[:, : max(width // 5, 1)],
        "right": image[:, -max(width // 5, 1) :],
        "top": image[: max(height // 5, 1)],
        "bottom": image[-max(height // 5, 1) :],
    }
    found = {}
    for name, part in parts.items():
        blue, green, red = np.asarray(part, np.float64).reshape(-1, 3).mean(axis=0)
        if max(abs(red - blue), green) >= 60.0:
            found["red" if red - blue > max(green, 60.0) else "blue" if blue - red > max(green, 60.0) else "?"] = name
    return f"{found.get('red', '?')}-{found.get('blue', '?')}"


def _loss_and_return(stage: Stage, folder: Path) -> tuple[float | None, float | None]:
    """Seconds from the server's end to the state lost, and from its start to the next frame."""
    server = stage.server
    if server is None:
        raise TypeError("without a server there is no loss")
    config = CameraConfig.model_validate({"source": stage.config.model_dump(), "classify": [{"model": "m"}]})
    source = make_source(config.source, base_dir=folder, clock=SystemClock())
    camera = Camera("trial", config, source, FrameCounters("trial", ()), clock=SystemClock())
    camera.start()
    try:
        if _seconds_until(lambda: camera.newest_frame() is not None) is None:
            return None, None
        server.stop()
        loss_s = _seconds_until(lambda: camera.statistics().state != "connected")
        time.sleep(_AWAY_S)
        newest = camera.newest_frame()
        server.start()
        return loss_s, _seconds_until(lambda: camera.newest_frame() is not newest)
    finally:
        camera.stop()
        camera.join(10.0)


def _seconds_until(is_so: Callable[[], bool]) -> float | None:
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > _BACK_S:
            return None
        time.sleep(0.01)
    return time.monotonic() - began
