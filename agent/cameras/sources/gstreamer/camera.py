"""Frames through GStreamer: CSI cameras, network and USB cameras decoded in hardware, SRT, custom pipelines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.decoder import UnsupportedImage
from agent.cameras.sources.gstreamer.library import (
    GStreamerMissing,
    PipelineEnded,
    PipelineFailed,
    RunningPipeline,
    Sample,
    load_gstreamer,
)
from agent.cameras.sources.gstreamer.pipelines import PipelineSource, Plan, UnsupportedFormat, plan_for
from agent.cameras.sources.lifecycle import SourceBase
from agent.cameras.sources.network_errors import read_access
from agent.cameras.sources.network_stream import ask_camera
from agent.cameras.sources.reaching import is_server_there
from agent.cameras.sources.v4l2.camera import description_of
from agent.cameras.sources.v4l2.device import check_device
from agent.cameras.sources.v4l2.usb_identity import CameraIdentity
from agent.config.sections.sources import CsiSource, GStreamerSource, RtspSource, StreamSource, V4l2Source
from agent.config.source_address import SourceAccess, public_address
from agent.runtime.clock import Clock
from agent.runtime.errors import SourceUnavailable
from agent.runtime.logs import get_logger

log = get_logger(__name__)

_V4L2_OPEN_TIMEOUT_S = 10.0
_SRT_REFUSED = "Failed to authenticate"
"""GStreamer's text for a wrong passphrase. Source: ext/srt/gstsrtobject.c, 1.22."""
_ADVICE = "Set the camera to a format of 8 bits"


class GStreamerCamera(SourceBase):
    """A live pipeline that keeps only the newest frame.

    ``captured_at_ns`` is the frame's time stamp on the pipeline's clock: for CSI and USB cameras the driver's time
    stamp, for network cameras the arrival; ``capture_ms`` is decoding and conversion. An interruption takes effect
    within 0.1 s, except while a driver blocks the start of the pipeline.
    """

    is_live = True

    def __init__(self, config: PipelineSource, *, base_dir: Path, clock: Clock) -> None:
        super().__init__(_description(config), clock=clock)
        self._config = config
        self._base_dir = base_dir
        self._identity = CameraIdentity(config, self) if isinstance(config, V4l2Source) else None
        self._access: SourceAccess | None = None
        self._pipeline: RunningPipeline | None = None
        self._first: Capture | None = None

    @property
    def kind(self) -> str:
        """See Source."""
        return self._config.type

    @property
    def fps(self) -> float | None:
        """See Source."""
        return self._config.fps or (None if self._pipeline is None else self._pipeline.fps)

    def open(self) -> None:
        """See Source. Waits for the first frame."""
        self.check_open()
        if self._pipeline is not None:
            return
        pipeline = self._start()
        try:
            first = pipeline.pull(self._open_timeout_s, self.interrupted)
        except (PipelineFailed, PipelineEnded, UnsupportedImage) as exc:
            pipeline.stop()
            raise self._not_opened(self._cleaned(exc) or "the pipeline ended at once") from exc
        if first is None:
            pipeline.stop()
            self.check_open()
            raise self._not_opened(f"no frame within {self._open_timeout_s:g} s")
        self._pipeline, self._first = pipeline, self._capture_of(first)

    def read(self) -> Capture | None:
        """See Source."""
        pipeline = self.opened(self._pipeline)
        capture, self._first = self._first, None
        if capture is None:
            capture = self._capture_of(self._pull(pipeline))
        self.count_delivered()
        return capture

    def is_there(self) -> bool | None:
        """See Source."""
        if isinstance(self._config, RtspSource):
            return is_server_there(self._config, self.interrupted)
        return None if self._identity is None else self._identity.is_plugged_in()

    def close(self) -> None:
        """See Source."""
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None
        self._first = None

    @property
    def _open_timeout_s(self) -> float:
        return _V4L2_OPEN_TIMEOUT_S if isinstance(self._config, V4l2Source) else self._config.open_timeout_s

    def _start(self) -> RunningPipeline:
        """The started pipeline."""
        config = self._config
        try:
            gst = load_gstreamer()
        except GStreamerMissing as exc:
            raise self.unavailable("no_gstreamer", f"{self.description} needs GStreamer: {exc}") from exc

        def has(element: str) -> bool:
            return gst.ElementFactory.find(element) is not None

        if isinstance(config, RtspSource | StreamSource | GStreamerSource):
            self._access = read_access(config, self._base_dir, self)
        try:
            plan = plan_for(config, has=has, access=self._access)
        except UnsupportedFormat as exc:
            raise self.unavailable("format", f"{self.description}: {exc}. Set one of these") from exc
        self._check_elements(plan.missing(has))
        plan = self._with_device(plan)
        if isinstance(config, RtspSource) and self._access is not None and self._access.password is not None:
            # GStreamer sends a wrong password eight times, and many cameras lock an address out after a few.
            ask_camera(config, self, self._access, clock=self._clock)
        log.info("pipeline.selected", source=self.description, elements=_elements(config, plan))
        try:
            return RunningPipeline(gst, plan)
        except PipelineFailed as exc:
            raise self._not_opened(self._cleaned(exc)) from exc

    def _cleaned(self, error: Exception) -> str:
        """GStreamer's text without the address and the credentials, which it repeats."""
        return str(error) if self._access is None else self._access.cleaned(str(error))

    def _with_device(self, plan: Plan) -> Plan:
        """The plan with the current device file of a V4L2 camera.

        Raises:
            SourceUnavailable: it cannot be used, or is a different camera than before.
        """
        if self._identity is None:
            return plan
        device = check_device(Path(self._identity.locate()), self)
        self._identity.check(device)
        return replace(plan, properties={**plan.properties, "source.device": str(device)})

    def _capture_of(self, sample: Sample) -> Capture:
        now_ns, now_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        return self._capture(sample.image, now_ns - sample.age_ns, now_utc_ns - sample.age_ns)

    def _check_elements(self, missing: dict[str, str]) -> None:
        if missing:
            packages = " ".join(sorted(set(missing.values())))
            advice = "It comes with JetPack" if "nvidia" in packages else f"Run: apt-get install {packages}"
            raise self.unavailable(
                "no_element",
                f"{self.description} needs the GStreamer element {', '.join(missing)} of {packages}, which is not "
                f"installed. {advice}",
                elements=sorted(missing),
            )

    def _pull(self, pipeline: RunningPipeline) -> Sample:
        timeout_s = self._config.read_timeout_s
        try:
            sample = pipeline.pull(timeout_s, self.interrupted)
        except PipelineEnded as exc:
            raise self.lost("ended", f"{self.description} reached the end of the stream") from exc
        except PipelineFailed as exc:
            raise self.lost("ended", f"{self.description} failed: {self._cleaned(exc)}") from exc
        except UnsupportedImage as exc:
            raise self.lost("format", f"{self.description} gives frames of {exc}. {_ADVICE}") from exc
        if sample is None:
            self.opened(self._pipeline)
            raise self.lost(
                "stalled",
                f"{self.description} runs but gave no frame within {timeout_s:g} s. Raise `read_timeout_s` for "
                "cameras slower than that",
            )
        return sample

    def _not_opened(self, detail: str) -> SourceUnavailable:
        """The error of a pipeline that did not start.

        Raises:
            SourceUnavailable: a network camera gives FFmpeg a clearer reason than GStreamer.
        """
        config = self._config
        if isinstance(config, RtspSource) and self._access is not None:
            ask_camera(config, self, self._access, clock=self._clock)
        if isinstance(config, StreamSource) and _SRT_REFUSED in detail:
            text = f"{self.description} cannot be opened: {detail}. Check the first line of `password_file`"
            return self.unavailable("credentials", text)
        advice = {
            "rtsp": "FFmpeg can read it: set `codec` to what the camera sends, try the other `transport`, or "
            "`reader: ffmpeg`",
            "stream": "Check the address, that the sender is running, and its passphrase; `?mode=listener` in the url "
            "lets the agent wait for a sender that calls",
            "csi": "Check the ribbon cable, `sensor_id`, the mode, and: systemctl status nvargus-daemon",
            "v4l2": "Check `device`, its size and format (v4l2-ctl --list-formats-ext), and that no program holds it",
            "gstreamer": "Try it by hand: gst-launch-1.0 <pipeline> ! videoconvert ! fakesink",
        }[config.type]
        return self.unavailable("no_stream", f"{self.description} cannot be opened: {detail}. {advice}")


def _description(config: PipelineSource) -> str:
    if isinstance(config, CsiSource):
        return f"CSI sensor {config.sensor_id}"
    return description_of(config) if isinstance(config, V4l2Source) else public_address(config)


def _elements(config: PipelineSource, plan: Plan) -> str:
    """The elements of the pipeline in order, without properties and caps; of a custom pipeline nothing is known."""
    if isinstance(config, GStreamerSource):
        return "custom"
    return " ! ".join(part.split()[0] for part in plan.text.split("!") if part.strip() and "/" not in part.split()[0])
