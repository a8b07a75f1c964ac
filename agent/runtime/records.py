"""The records that threads hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""Pixels: ``(H, W, 3)`` uint8 BGR, C-contiguous."""


class LazyImage(Protocol):
    """A decoded frame that is converted to an image when somebody needs one."""

    def image(self) -> Image:
        """The image, converted at the first call and kept. From any thread."""
        ...


def image_of(picture: Image | LazyImage) -> Image:
    """The image of a picture, which may still have to be converted."""
    return picture if isinstance(picture, np.ndarray) else picture.image()


@dataclass(frozen=True, slots=True)
class ImageOrigin:
    """The file that a frame was read from: its name, below the folder if there is one, and the hash of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of one camera.

    ``index`` counts every frame that the camera's source delivered in this session, from 0, without gaps.
    ``captured_at_ns`` is monotonic, and every latency starts from it; ``captured_at_utc_ns`` is the same moment in
    UTC, for people. ``capture_ms`` is the time to fetch and decode the frame. The frame owns its picture, which is
    never written to.
    """

    camera: str
    index: int
    picture: Image | LazyImage
    captured_at_ns: int
    captured_at_utc_ns: int
    capture_ms: float
    image_fault: str | None = None
    """What is wrong with the image (``black``, ``frozen`` ...); None if nothing is."""
    origin: ImageOrigin | None = None
    """The image file that holds it; None for cameras and videos."""
    trigger: str | None = None
    """Id of the trigger that asked for it; None if none did."""

    @property
    def image(self) -> Image:
        """The picture's image. From any thread."""
        return image_of(self.picture)


@dataclass(frozen=True, slots=True)
class Score:
    """One class and its probability."""

    index: int
    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a worker serves now: one object, replaced as a whole when the engine is replaced.

    ``key`` is the model's name in the configuration; ``degraded`` means that less runs than was configured.
    """

    key: str
    name: str
    version: str
    sha256: str
    engine: str
    precision: str
    degraded: bool


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds that one frame spent in each stage; ``total_ms`` is their sum by construction."""

    capture_ms: float
    queue_ms: float
    preprocess_ms: float
    infer_ms: float
    decide_ms: float

    @property
    def total_ms(self) -> float:
        """From the start of the capture to the decision."""
        return self.capture_ms + self.queue_ms + self.preprocess_ms + self.infer_ms + self.decide_ms


@dataclass(frozen=True, slots=True)
class Classification:
    """The result of one classifier for one frame, from the worker to the publisher.

    ``top`` is sorted by falling confidence, ties by rising index, and holds at least one class. ``margin`` is the
    difference of the best two. ``served`` is what computed it; ``decided_at_ns`` is monotonic.
    """

    camera: str
    classifier: str
    served: ServedModel
    frame_index: int
    captured_at_ns: int
    captured_at_utc_ns: int
    decided_at_ns: int
    top: tuple[Score, ...]
    margin: float
    batch: int
    times: StageTimes
    image_fault: str | None = None
    origin: ImageOrigin | None = None
    trigger: str | None = None


@dataclass(frozen=True, slots=True)
class StateChange:
    """The decided label of one classifier: when it changes, and repeated while it holds.

    ``previous`` is None for a repetition. ``votes`` of ``window`` results agreed.
    """

    camera: str
    classifier: str
    label: str
    previous: str | None
    since_utc_ns: int
    confidence: float
    votes: int
    window: int
    reason: str
    evidence: Classification | None
