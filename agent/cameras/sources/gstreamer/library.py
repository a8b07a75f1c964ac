"""The boundary to GStreamer, through PyGObject.

Both are system packages: PyGObject is built for the system's Python, and on a Jetson GStreamer has the elements that
use its hardware. A virtual environment sees them only if it was created with ``--system-site-packages``.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from agent.cameras.sources.decoder import image_from_array
from agent.cameras.sources.gstreamer.pipelines import SINK, Plan
from agent.runtime.records import Image

_STEP_S = 0.1
_MAX_STAMP_AGE_NS = 10 * 10**9
_MAX_FPS = 1000
_loading = threading.Lock()


class GStreamerMissing(Exception):
    """PyGObject or GStreamer's bindings cannot be imported; the text says how to install them."""


class PipelineFailed(Exception):
    """The pipeline reported an error; the text is GStreamer's."""


class PipelineEnded(Exception):
    """The pipeline reached the end of its stream."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame, and its age when it was ready; 0 if the pipeline has no time stamp."""

    image: Image
    age_ns: int


def load_gstreamer() -> ModuleType:
    """The GStreamer module, initialized. From any thread.

    Raises:
        GStreamerMissing: it cannot be imported.
    """
    with _loading:
        _unwind_by_libgcc()
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


def _unwind_by_libgcc() -> None:
    """Let exceptions of plug-ins written in C++ find libgcc's ``_Unwind_Resume`` first.

    GStreamer loads libunwind, which has one of the same name. With that one the process crashes at the first exception
    that passes a frame to clean up: srtsrc throws one at each stop (seen with GStreamer 1.22 and libsrt 1.5.1).
    """
    with suppress(OSError):  # a system without it has no such plug-ins
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)


class RunningPipeline:
    """A started pipeline. One thread creates, reads and stops it."""

    def __init__(self, gst: Any, plan: Plan) -> None:
        """Create the pipeline and start it.

        Raises:
            PipelineFailed: the description is wrong, or an element refuses to start.
        """
        self._gst = gst
        try:
            # Without FATAL_ERRORS a partly wrong description leaks the elements that did parse, and their descriptors.
            self._pipeline = gst.parse_launch_full(plan.text, None, gst.ParseFlags.FATAL_ERRORS)
        except RuntimeError as exc:  # GLib.Error is one
            raise PipelineFailed(_text_of(exc)) from exc
        for target, value in (*plan.properties.items(), *plan.optional.items()):
            name, _, prop = target.partition(".")
            element = self._pipeline.get_by_name(name)
            if target in plan.properties or element.find_property(prop) is not None:
                element.set_property(prop, value)
        self._sink = self._pipeline.get_by_name(SINK)
        self._bus = self._pipeline.get_bus()
        self._keep_alive_s = plan.keep_alive_s
        self._asked_at = time.monotonic()
        self.fps: float | None = None
        """Frame rate in the caps of the newest frame; None before the first frame, or if the caps have no rate."""
        # Force the system's monotonic clock: time stamps of another element's clock cannot be compared with ours.
        self._clock = gst.SystemClock.obtain()
        self._pipeline.use_clock(self._clock)
        if self._pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.FAILURE:
            reason = self._error() or "an element refused to start"
            self.stop()
            raise PipelineFailed(reason)

    def pull(self, timeout_s: float, interrupted: threading.Event) -> Sample | None:
        """Wait for the next frame; None on timeout or when ``interrupted`` is set (noticed within 0.1 s).

        Raises:
            PipelineFailed: an element reported an error.
            PipelineEnded: the stream has ended.
            UnsupportedImage: see ``image_from_array``.
        """
        deadline = time.monotonic() + timeout_s
        while not interrupted.is_set():
            # try_pull_sample cannot be interrupted, so wait in short steps.
            step_s = min(_STEP_S, deadline - time.monotonic())
            if step_s <= 0:
                return None
            sample = self._sink.try_pull_sample(int(step_s * self._gst.SECOND))
            if sample is not None:
                self._keep_alive()
                return self._convert(sample)
            reason = self._error()
            if reason is not None:
                raise PipelineFailed(reason)
            if self._sink.is_eos():
                raise PipelineEnded
        return None

    def stop(self) -> None:
        """Stop the pipeline and release its devices and connections."""
        self._pipeline.set_state(self._gst.State.NULL)

    def _keep_alive(self) -> None:
        """Send a request if one is due. The name is of no parameter: whatever the server answers, it was asked."""
        if self._keep_alive_s is None or time.monotonic() - self._asked_at < self._keep_alive_s:
            return
        self._asked_at = time.monotonic()
        try:
            promise = self._gst.Promise.new()
            self._pipeline.get_by_name("source").emit("get-parameter", "keep-alive", "text/parameters", promise)
        except TypeError:  # GStreamer before 1.18 has no such signal
            self._keep_alive_s = None

    def _error(self) -> str | None:
        message = self._bus.pop_filtered(self._gst.MessageType.ERROR)
        if message is None:
            return None
        error, debug = message.parse_error()
        # The last line of the debug text is the reason, such as the status of a server.
        reason = (debug or "").strip().rpartition("\n")[2]
        return f"{_text_of(error)} ({reason})" if reason and ".c(" not in reason else _text_of(error)

    def _convert(self, sample: Any) -> Sample:
        structure = sample.get_caps().get_structure(0)
        width, height = structure.get_value("width"), structure.get_value("height")
        has_rate, numerator, denominator = structure.get_fraction("framerate")
        self.fps = numerator / denominator if has_rate and 0 < numerator <= _MAX_FPS * denominator else None
        buffer = sample.get_buffer()
        good, mapped = buffer.map(self._gst.MapFlags.READ)
        if not good:
            raise PipelineFailed("the memory of a frame cannot be read")
        try:
            # videoconvert passes frames that need no conversion through unchecked, even if bytes are missing.
            if mapped.size % height or mapped.size < height * width * 4:
                raise PipelineFailed(
                    f"a frame of {width}x{height} came with {mapped.size} bytes, but {height * width * 4} were "
                    "expected"
                )
            # The stride may be larger than width * 4: cut every row.
            rows = np.frombuffer(mapped.data, np.uint8).reshape(height, -1)
            image = image_from_array(rows[:, : width * 4].reshape(height, width, 4))
        finally:
            buffer.unmap(mapped)
        return Sample(image, self._age_ns(buffer.pts))

    def _age_ns(self, pts: int) -> int:
        if pts == self._gst.CLOCK_TIME_NONE:
            return 0
        age_ns = int(self._clock.get_time() - self._pipeline.get_base_time() - pts)
        return age_ns if 0 <= age_ns <= _MAX_STAMP_AGE_NS else 0


def _text_of(error: Any) -> str:
    return str(getattr(error, "message", error)).strip().rstrip(".")
