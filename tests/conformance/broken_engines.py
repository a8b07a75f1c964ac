"""An engine in memory that keeps the contract, and variants that each break it in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from engines import EngineInfo, EngineUnavailable, Images, InferenceFailed, Scores
from engines.backends.batches import check_batch, check_scores

FAULTS: tuple[BaseException, ...] = (
    *(RuntimeError("the library failed"), ValueError("the library failed"), OSError("the library failed")),
    MemoryError(),
)


class Library:
    """What these engines call: within ``broken`` every call raises the fault."""

    fault: BaseException | None = None

    @classmethod
    @contextmanager
    def broken(cls, fault: BaseException) -> Iterator[None]:
        cls.fault = fault
        try:
            yield
        finally:
            cls.fault = None

    @classmethod
    def call(cls) -> None:
        if cls.fault is not None:
            raise cls.fault


class GoodEngine:
    """Classifies by colour channel: class k by the brightness of channel k, the fourth class by a constant."""

    def __init__(self, *, max_batch: int, side: int, is_tied: bool = False, fails_on_black: bool = False) -> None:
        self.side = side
        self.is_tied = is_tied
        self.fails_on_black = fails_on_black
        self.is_open = True
        try:
            Library.call()
        except (RuntimeError, ValueError, OSError, MemoryError) as exc:
            raise EngineUnavailable(f"memory cannot be opened: {exc!r}") from exc
        self._info = EngineInfo(
            name="memory",
            requested="memory",
            precision="fp32",
            requested_precision="fp32",
            device="memory",
            max_batch=max_batch,
            classes=4,
            versions={"memory": "1"},
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, batch: Images) -> Scores:
        if not self.is_open:
            raise InferenceFailed("memory was used after it was closed")
        check_batch(batch, height=self.side, width=self.side, max_batch=self._info.max_batch)
        try:
            Library.call()
        except (RuntimeError, ValueError, OSError, MemoryError) as exc:
            raise InferenceFailed(f"memory failed: {exc!r}") from exc
        scores = self.answer(batch)
        check_scores(scores, engine="memory")
        return scores

    def answer(self, batch: Images) -> Scores:
        values = self.logits(batch)
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        scores: Scores = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return scores

    def logits(self, batch: Images) -> Scores:
        means = batch.astype(np.float32).mean(axis=(1, 2))
        columns = np.concatenate([means[:, ::-1], np.full((len(batch), 1), 120)], axis=1)
        values: Scores = (columns / 40).astype(np.float32)
        if self.is_tied:
            values[:, 1] = values[:, 0]
        if self.fails_on_black:
            values[means.max(axis=1) == 0] = np.nan
        return values

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self.is_open = False

    def __enter__(self) -> GoodEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReversesTheBatch(GoodEngine):
    def answer(self, batch: Images) -> Scores:
        return np.ascontiguousarray(super().answer(batch)[::-1])


class ReusesItsBuffer(GoodEngine):
    buffer = np.zeros((64, 4), np.float32)

    def answer(self, batch: Images) -> Scores:
        view = self.buffer[: len(batch)]
        view[:] = super().answer(batch)
        return view


class ReturnsThePreviousBatch(GoodEngine):
    last: Images | None = None

    def answer(self, batch: Images) -> Scores:
        before = self.last if self.last is not None and self.last.shape == batch.shape else batch
        self.last = batch.copy()
        return super().answer(before)


class GivesLogits(GoodEngine):
    def answer(self, batch: Images) -> Scores:
        return self.logits(batch)


class GivesDoubles(GoodEngine):
    def infer(self, batch: Images) -> Scores:
        return super().infer(batch).astype(np.float64)


class DropsTheLastClass(GoodEngine):
    def answer(self, batch: Images) -> Scores:
        return super().answer(batch)[:, :3]


class SwallowsNan(GoodEngine):
    def answer(self, batch: Images) -> Scores:
        return np.nan_to_num(super().answer(batch))


class FailsWithTheWholeBatch(GoodEngine):
    def infer(self, batch: Images) -> Scores:
        scores = super().infer(batch)
        if not np.isfinite(scores).all():
            scores[:] = np.nan
        return scores


class StaysBrokenAfterAFailure(GoodEngine):
    def infer(self, batch: Images) -> Scores:
        try:
            return super().infer(batch)
        except InferenceFailed:
            self.close()
            raise


class TakesAnyBatch(GoodEngine):
    def infer(self, batch: Images) -> Scores:
        return self.answer(batch) if self.is_open else super().infer(batch)


class ConvertsSilently(GoodEngine):
    def infer(self, batch: Images) -> Scores:
        return super().infer(batch.astype(np.uint8))


class ReturnsRandomScores(GoodEngine):
    random = np.random.default_rng(1)

    def logits(self, batch: Images) -> Scores:
        noise: Scores = self.random.normal(0, 1e-3, (len(batch), 4)).astype(np.float32)
        return super().logits(batch) + noise


class BreaksTies(GoodEngine):
    def logits(self, batch: Images) -> Scores:
        values = super().logits(batch)
        values[:, 1] += 1e-3
        return values


class WritesIntoTheBatch(GoodEngine):
    def answer(self, batch: Images) -> Scores:
        scores = super().answer(batch)
        batch[:] = 0
        return scores


class SwapsRedAndBlue(GoodEngine):
    def answer(self, batch: Images) -> Scores:
        return super().answer(np.ascontiguousarray(batch[..., ::-1]))


class WorksWhenClosed(GoodEngine):
    def close(self) -> None:
        pass


class FailsOnTheSecondClose(GoodEngine):
    def close(self) -> None:
        if not self.is_open:
            raise RuntimeError("closed already")
        super().close()


class StaysInterrupted(GoodEngine):
    def interrupt(self) -> None:
        self.close()


class HidesItsVersions(GoodEngine):
    @property
    def info(self) -> EngineInfo:
        info = super().info
        return EngineInfo(**{name: getattr(info, name) for name in info.__slots__ if name != "versions"})


class LeaksAtTheOpening(GoodEngine):
    def __init__(self, *, max_batch: int, side: int, is_tied: bool = False, fails_on_black: bool = False) -> None:
        Library.call()
        super().__init__(max_batch=max_batch, side=side, is_tied=is_tied, fails_on_black=fails_on_black)


class LeaksInARun(GoodEngine):
    def infer(self, batch: Images) -> Scores:
        Library.call()
        return super().infer(batch)


class LeaksAValueErrorInARun(GoodEngine):
    def infer(self, batch: Images) -> Scores:
        if isinstance(Library.fault, ValueError):
            raise Library.fault
        return super().infer(batch)


class LeaksAtTheClose(GoodEngine):
    def close(self) -> None:
        super().close()
        Library.call()
