"""The boundary to GStreamer, through PyGObject.

Both come from the system's packages: PyGObject is bound to the system's Python, and on a Jetson GStreamer holds the
elements that use its hardware. An environment sees them when it was made with ``--system-site-packages``.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from agent.cameras.sources.decoder import image_from_array
from agent.cameras.sources.gst_pipelines import SINK, Plan
from agent.runtime.records import Image

_STEP_S = 0.1
_OLDEST_STAMP_NS = 10 * 10**9
_HIGHEST_FPS = 1000
_loading = threading.Lock()


class GStreamerMissing(Exception):
    """PyGObject or GStreamer's own bindings cannot be imported; the text says how to get them."""


class PipelineFailed(Exception):
    """The pipeline reported an error; the text is GStreamer's."""


class PipelineEnded(Exception):
    """The pipeline came to its end."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture, and how long ago it was captured when it was ready; 0 where the pipeline does not know."""

    image: Image
    age_ns: int


def load_gstreamer() -> ModuleType:
    """GStreamer, initialised; from any thread.

    Raises:
        GStreamerMissing: it cannot be imported.
    """
    with _loading:
        try:
            import gi

            gi.require_version("Gst", "1.0")
            gi.require_version("GstApp", "1.0")
            from gi.repository import Gst, GstApp  # noqa: F401 - importing GstApp gives appsink its methods
        except (ImportError, ValueError) as exc:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise GStreamerMissing(
                f"GStreamer's Python bindings cannot be imported by this Python {version} ({exc}). Run: apt-get "
                "install python3-gi gir1.2-gst-plugins-base-1.0, and make the agent's environment with the system's "
                "Python and --system-site-packages"
            ) from exc
        if not Gst.is_initialized():
            Gst.init(None)
        return Gst  # type: ignore[no-any-return]  # gi has no type information


class RunningPipeline:
    """A pipeline from its start to its stop. One thread makes, reads and stops it."""

    def __init__(self, gst: Any, plan: Plan) -> None:
        """Make the pipeline and start it.

        Raises:
            PipelineFailed: its text is wrong, or an element refuses to start.
        """
        self._gst = gst
        try:
            # Without this flag a text that is wrong in part leaves the other part behind, with its descriptors.
            self._pipeline = gst.parse_launch_full(plan.text, None, gst.ParseFlags.FATAL_ERRORS)
        except RuntimeError as exc:  # GLib.Error is one
            raise PipelineFailed(_text_of(exc)) from exc
        for target, value in (*plan.properties.items(), *plan.wishes.items()):
            name, _, prop = target.partition(".")
            element = self._pipeline.get_by_name(name)
            if target in plan.properties or element.find_property(prop) is not None:
                element.set_property(prop, value)
        self._sink = self._pipeline.get_by_name(SINK)
        self._bus = self._pipeline.get_bus()
        self.fps: float | None = None
        """Pictures a second by the caps of the newest picture; None before the first, and where they do not say."""
        # The system's monotonic clock, whatever clock an element offers: its stamps are compared with ours.
        self._clock = gst.SystemClock.obtain()
        self._pipeline.use_clock(self._clock)
        if self._pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.FAILURE:
            reason = self._error() or "an element refused to start"
            self.stop()
            raise PipelineFailed(reason)

    def pull(self, timeout_s: float, interrupted: threading.Event) -> Sample | None:
        """Wait for the next picture; None when the time is over or ``interrupted`` is set, which is seen in 0.1 s.

        Raises:
            PipelineFailed: an element reported an error.
            PipelineEnded: there will be no more.
            UnsupportedPicture: see ``image_from_array``.
        """
        deadline = time.monotonic() + timeout_s
        while not interrupted.is_set():
            step_s = min(_STEP_S, deadline - time.monotonic())
            if step_s <= 0:
                return None
            sample = self._sink.try_pull_sample(int(step_s * self._gst.SECOND))
            if sample is not None:
                return self._convert(sample)
            reason = self._error()
            if reason is not None:
                raise PipelineFailed(reason)
            if self._sink.is_eos():
                raise PipelineEnded
        return None

    def stop(self) -> None:
        """End the pipeline and give its devices and connections back."""
        self._pipeline.set_state(self._gst.State.NULL)

    def _error(self) -> str | None:
        message = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        return None if message is None else _text_of(message.parse_error()[0])

    def _convert(self, sample: Any) -> Sample:
        structure = sample.get_caps().get_structure(0)
        width, height = structure.get_value("width"), structure.get_value("height")
        has_rate, numerator, denominator = structure.get_fraction("framerate")
        self.fps = numerator / denominator if has_rate and 0 < numerator <= _HIGHEST_FPS * denominator else None
        buffer = sample.get_buffer()
        good, mapped = buffer.map(self._gst.MapFlags.READ)
        if not good:
            raise PipelineFailed("a picture's memory cannot be read")
        try:
            # A pipeline whose pictures need no conversion hands them through without a look at their bytes.
            if mapped.size % height or mapped.size < height * width * 4:
                raise PipelineFailed(
                    f"a picture of {width}x{height} came with {mapped.size} bytes, {height * width * 4} were expected"
                )
            rows = np.frombuffer(mapped.data, np.uint8).reshape(height, -1)
            image = image_from_array(rows[:, : width * 4].reshape(height, width, 4))
        finally:
            buffer.unmap(mapped)
        return Sample(image, self._age_ns(buffer.pts))

    def _age_ns(self, pts: int) -> int:
        if pts == self._gst.CLOCK_TIME_NONE:
            return 0
        age_ns = int(self._clock.get_time() - self._pipeline.get_base_time() - pts)
        return age_ns if 0 <= age_ns <= _OLDEST_STAMP_NS else 0


def _text_of(error: Any) -> str:
    return str(getattr(error, "message", error)).strip().rstrip(".")
