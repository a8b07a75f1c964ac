"""The engine ``tensorrt``: a plan of this device behind the contract of ``engines.base.Engine``."""

from __future__ import annotations

from types import TracebackType

import numpy as np

from engines.backends.batches import check_batch, check_scores
from engines.backends.tensorrt.crash_counter import CrashCounter
from engines.backends.tensorrt.session import PlanSession
from engines.base import EngineInfo, Images, Scores
from engines.errors import EngineLost, InferenceFailed, OutOfMemory

_WARM_UP_RUNS = 2


class TensorRtEngine:
    """One plan. ``interrupt`` has no effect: a kernel on the GPU cannot be interrupted."""

    def __init__(self, session: PlanSession, *, info: EngineInfo, crashes: CrashCounter) -> None:
        """Take ownership of ``session``, and of ``crashes``, which has counted this start."""
        self._session: PlanSession | None = session
        self._info = info
        self._height, self._width = session.tensors.height, session.tensors.width
        self._crashes: CrashCounter | None = crashes

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    def infer(self, batch: Images) -> Scores:
        """Classify a batch; see ``engines.base.Engine``."""
        session = self._session
        if session is None:
            raise InferenceFailed("tensorrt was used after it was closed. Open it again", engine="tensorrt")
        check_batch(batch, height=self._height, width=self._width, max_batch=self._info.max_batch)
        try:
            scores = session.run(batch)
        except EngineLost:
            # This start counts as a crash of the plan.
            self._crashes = None
            raise
        # During a run this is a failed call, not a reason to select another engine.
        except OutOfMemory as exc:
            raise InferenceFailed(exc.message, engine="tensorrt") from exc
        check_scores(scores, engine="tensorrt")
        if self._crashes is not None and self._crashes.note_success():
            self._crashes = None
        return scores

    def interrupt(self) -> None:
        """Do nothing: TensorRT cannot interrupt a run."""

    def close(self) -> None:
        """Free the plan and its buffers."""
        session, self._session = self._session, None
        if session is None:
            return
        session.close()
        crashes, self._crashes = self._crashes, None
        if crashes is not None:
            crashes.end_well()

    def __enter__(self) -> TensorRtEngine:
        """Use the engine for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def warm_up(self) -> None:
        """Run the smallest and the largest batch.

        Raises:
            InferenceFailed: a run failed.
        """
        for size in sorted({1, self._info.max_batch}):
            grey = np.full((size, self._height, self._width, 3), 127, np.uint8)
            for _ in range(_WARM_UP_RUNS):
                self.infer(grey)
