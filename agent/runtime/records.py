"""What travels between the threads of the agent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""One picture: ``(H, W, 3)`` uint8 BGR, C-contiguous."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one camera.

    ``index`` counts every frame that the camera's source delivered in this session, from 0, without gaps.
    ``captured_at_ns`` is monotonic and is what every latency is measured from; ``captured_at_utc_ns`` was taken at the
    same moment for people. ``capture_ms`` is what fetching and decoding took. The image belongs to the frame and is
    never written to.
    """

    camera: str
    index: int
    image: Image
    captured_at_ns: int
    captured_at_utc_ns: int
    capture_ms: float
    mark: str | None = None
    """What is wrong with the picture (``black``, ``frozen`` ...), None when nothing is."""


@dataclass(frozen=True, slots=True)
class Score:
    """One class and its probability."""

    index: int
    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a worker serves at the moment: one object, replaced as a whole when the engine is swapped.

    ``key`` is the model's name in the configuration; ``degraded`` says that less runs than was asked for.
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
    """The answer of one classifier to one frame, as the worker hands it to the publisher.

    ``top`` is sorted by falling confidence, ties by rising index, and holds at least one class. ``margin`` is the
    distance between the best two. ``served`` says what computed it; ``decided_at_ns`` is monotonic.
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
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class StateChange:
    """The decided label of one classifier, when it changed or when it is repeated to show that it still holds.

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
