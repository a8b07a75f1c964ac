"""The records that threads hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines import Planes

Image = npt.NDArray[np.uint8]
"""Pixels: ``(H, W, 3)`` uint8 BGR, C-contiguous."""


class LazyImage(Protocol):
    """A decoded frame that is converted to an image when somebody needs one."""

    @property
    def planes(self) -> Planes | None:
        """The frame before its conversion; None if it must be converted first. From any thread."""
        ...

    def image(self) -> Image:
        """The image, converted at the first call and kept. From any thread."""
        ...


def image_of(picture: Image | LazyImage) -> Image:
    """The image of a picture, which may still have to be converted."""
    return picture if isinstance(picture, np.ndarray) else picture.image()


def planes_or_image(picture: Image | LazyImage) -> Image | Planes:
    """What takes the least work to scale down: the planes of a picture where it has some, else its image."""
    if isinstance(picture, np.ndarray):
        return picture
    return picture.image() if picture.planes is None else picture.planes


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
class Standing:
    """Where a decision stands after its newest result.

    ``label`` and ``labels`` are those of the state. ``candidate`` is the label that the newest result speaks for, with
    its ``confidence``; None before the first result. It was judged at
    ``threshold``: ``exit`` if it is decided, else ``enter``. ``votes`` of ``window`` are for it and ``needed`` decide:
    results, or seconds of captured time if ``is_timed``.
    """

    label: str | None
    labels: tuple[str, ...]
    candidate: str | None
    confidence: float
    threshold: float
    votes: float
    needed: float
    window: float
    is_timed: bool
    runner_up: tuple[str, float] | None = None
    """The label after the candidate, and its confidence."""

    @property
    def is_decided(self) -> bool:
        """Whether the candidate is one of the decided labels."""
        return self.candidate in self.labels


@dataclass(frozen=True, slots=True)
class Classification:
    """The result of one classifier for one frame, from the worker to the publisher.

    ``top`` is sorted by falling confidence, ties by rising index, and holds at least one class. ``margin`` is the
    difference of the best two. ``served`` is what computed it; ``decided_at_ns`` is monotonic. ``found`` has the
    labels of the frame if the model finds several, else None; ``top`` holds them too. ``standing`` is that of the
    decision with this result. ``features`` are the numbers made from the model's embedding, None without one.
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
    found: tuple[str, ...] | None = None
    standing: Standing | None = None
    features: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """One event of a state: a label or word that went, and one that came. ``to_label`` has these votes."""

    from_label: str | None
    to_label: str | None
    confidence: float = 0.0
    votes: float = 0.0


@dataclass(frozen=True, slots=True)
class StateChange:
    """The state of one classifier: when it changes, and repeated while it holds.

    ``label`` is the decided label, or the word for "unsure" or "no results"; None while a model that finds several
    has decided ``labels``. ``moves`` are the events, empty for a repetition. ``votes`` of ``window`` agreed: results,
    or seconds of captured time if ``is_timed``; of several labels the lowest figures.
    """

    camera: str
    classifier: str
    label: str | None
    labels: tuple[str, ...]
    moves: tuple[Move, ...]
    since_utc_ns: int
    confidence: float
    votes: float
    window: float
    is_timed: bool
    reason: str
    evidence: Classification | None
