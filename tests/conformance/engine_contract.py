"""The contract of every engine as checks: real engines must pass them, broken ones must fail."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

import numpy as np
import pytest

from engines import PRECISIONS, Engine, EngineError, Images, InferenceFailed, Scores

MAX_BATCH = 3


@dataclass(frozen=True)
class EngineCase:
    """One implementation: how to open it on three models, and the expected scores.

    ``open`` returns an engine for up to ``MAX_BATCH`` images (or a fixed batch of that size). ``open_tied`` serves a
    model whose first two classes are identical, ``open_failing`` one that gives NaN for a black image (None for int8,
    which has no NaN). ``images``: different images, ``(K, H, W, 3)`` with K > ``MAX_BATCH``; ``expected``: the
    reference's scores for them. Within ``broken(fault)`` the engine's library raises ``fault`` wherever it opens or
    runs a model, and ``faults`` are the kinds that it really raises.
    """

    open: Callable[[], Engine]
    open_tied: Callable[[], Engine]
    open_failing: Callable[[], Engine] | None
    images: Images
    expected: Scores
    tolerance: float
    broken: Callable[[BaseException], AbstractContextManager[None]]
    faults: tuple[BaseException, ...]
    names: frozenset[str] = field(default_factory=frozenset)

    @property
    def few(self) -> Images:
        """The largest batch."""
        return self.images[:MAX_BATCH]


def says_what_runs(case: EngineCase) -> None:
    with case.open() as engine:
        info = engine.info
        assert info.name in case.names
        assert info.precision in PRECISIONS
        assert info.device
        assert info.versions, "the libraries' versions are missing"
        assert info.classes == case.expected.shape[1]
        assert info.max_batch == MAX_BATCH
        assert all(count > 0 for count in info.placement.values())


def gives_probabilities_of_every_class(case: EngineCase) -> None:
    with case.open() as engine:
        for count in range(1, MAX_BATCH + 1):
            scores = engine.infer(case.images[:count])
            assert scores.shape == (count, case.expected.shape[1])
            assert scores.dtype == np.float32
            assert np.all(scores >= 0)
            assert np.all(scores <= 1)
            np.testing.assert_allclose(scores.sum(axis=1), 1, atol=5e-3)


def agrees_with_the_reference(case: EngineCase) -> None:
    with case.open() as engine:
        scores = engine.infer(case.few)
    np.testing.assert_allclose(scores, case.expected[:MAX_BATCH], atol=case.tolerance)


def keeps_the_order_of_a_batch(case: EngineCase) -> None:
    with case.open() as engine:
        together = engine.infer(case.few)
        backwards = engine.infer(np.ascontiguousarray(case.few[::-1]))
        alone = np.concatenate([engine.infer(case.images[row : row + 1]) for row in range(MAX_BATCH)])
    np.testing.assert_allclose(together, alone, atol=case.tolerance)
    np.testing.assert_allclose(backwards[::-1], alone, atol=case.tolerance)


def gives_the_same_scores_twice(case: EngineCase) -> None:
    with case.open() as engine:
        first = engine.infer(case.few)
        engine.infer(case.images[1:2])
        second = engine.infer(case.few)
    np.testing.assert_allclose(first, second, atol=1e-6)


def scores_belong_to_the_caller(case: EngineCase) -> None:
    with case.open() as engine:
        first = engine.infer(case.images[:1])
        kept = first.copy()
        engine.infer(case.images[1:2])
        np.testing.assert_array_equal(first, kept, "the scores of an earlier call were overwritten")
        first[:] = -1
        again = engine.infer(case.images[:1])
    np.testing.assert_allclose(again, kept, atol=1e-6)


def reads_the_batch_before_it_returns(case: EngineCase) -> None:
    batch = case.few.copy()
    with case.open() as engine:
        engine.infer(batch)
        np.testing.assert_array_equal(batch, case.few, "the caller's images were changed")
        batch[:] = case.images[-1]
        later = engine.infer(batch[:1])
    np.testing.assert_allclose(later, case.expected[-1:], atol=case.tolerance)


def refuses_an_oversized_and_an_empty_batch(case: EngineCase) -> None:
    with case.open() as engine:
        with pytest.raises(ValueError, match=rf"{MAX_BATCH + 1} images.*1 to {MAX_BATCH}"):
            engine.infer(case.images[: MAX_BATCH + 1])
        with pytest.raises(ValueError, match="0 images"):
            engine.infer(case.images[:0])


def refuses_other_shapes_and_dtypes(case: EngineCase) -> None:
    with case.open() as engine:
        with pytest.raises(ValueError, match=r"float32.*uint8"):
            engine.infer(case.few.astype(np.float32))
        for wrong in (case.few.transpose(0, 3, 1, 2), case.few[:, :-1], case.few[0], case.few[..., :1]):
            with pytest.raises(ValueError, match="shape"):
                engine.infer(np.ascontiguousarray(wrong))
        engine.infer(case.few)


def ties_go_to_the_lowest_class(case: EngineCase) -> None:
    with case.open_tied() as engine:
        scores = engine.infer(case.images[:1])
    assert scores[0, 0] == scores[0, 1], "two equal classes got different scores"
    assert int(scores[0].argmax()) == 0


def nan_is_never_a_class(case: EngineCase) -> None:
    if case.open_failing is None:
        pytest.skip("this arithmetic has no NaN")
    black = np.zeros_like(case.few)
    with case.open_failing() as engine:
        good = engine.infer(case.few)
        with pytest.raises(InferenceFailed, match="NaN"):
            engine.infer(black)
        mixed = case.few.copy()
        mixed[1] = 0
        scores = engine.infer(mixed)
        assert not np.isfinite(scores[1]).all(), "NaN became a score"
        np.testing.assert_allclose(scores[[0, 2]], good[[0, 2]], atol=case.tolerance)


def a_failed_call_leaves_the_engine_usable(case: EngineCase) -> None:
    if case.open_failing is None:
        pytest.skip("this arithmetic has no NaN")
    with case.open_failing() as engine:
        before = engine.infer(case.few)
        with pytest.raises(InferenceFailed):
            engine.infer(np.zeros_like(case.few))
        np.testing.assert_allclose(engine.infer(case.few), before, atol=1e-6)


def a_library_that_fails_at_the_opening_is_an_engine_error(case: EngineCase) -> None:
    for fault in case.faults:
        with case.broken(fault), pytest.raises((EngineError, type(fault))) as caught:
            case.open()
        assert isinstance(caught.value, EngineError), f"{fault!r} leaked out of the opening"
        assert str(caught.value)
    case.open().close()


def a_library_that_fails_in_a_run_is_an_engine_error(case: EngineCase) -> None:
    with case.open() as engine:
        before = engine.infer(case.few)
        for fault in case.faults:
            with case.broken(fault), pytest.raises((EngineError, type(fault))) as caught:
                engine.infer(case.few)
            assert isinstance(caught.value, InferenceFailed), f"{fault!r} leaked out of a run as {caught.value!r}"
        np.testing.assert_allclose(engine.infer(case.few), before, atol=1e-6)


def a_library_that_fails_at_the_close_is_an_engine_error_at_most(case: EngineCase) -> None:
    for fault in case.faults:
        engine = case.open()
        with case.broken(fault):
            try:
                with suppress(EngineError):
                    engine.close()
            except type(fault):
                pytest.fail(f"{fault!r} leaked out of the close")
        with pytest.raises(InferenceFailed, match="closed"):
            engine.infer(case.few)


def is_closed_after_its_block(case: EngineCase) -> None:
    with case.open() as engine:
        engine.infer(case.few)
    with pytest.raises(InferenceFailed, match="closed"):
        engine.infer(case.few)


def closing_twice_is_harmless(case: EngineCase) -> None:
    engine = case.open()
    engine.close()
    engine.close()
    with pytest.raises(InferenceFailed, match="closed"):
        engine.infer(case.few)
    assert engine.info.name in case.names


def interrupting_nothing_is_harmless(case: EngineCase) -> None:
    with case.open() as engine:
        engine.interrupt()
        first = engine.infer(case.few)
        engine.interrupt()
        np.testing.assert_allclose(engine.infer(case.few), first, atol=1e-6)
    engine.interrupt()


CONTRACT: list[Callable[[EngineCase], None]] = [
    says_what_runs,
    gives_probabilities_of_every_class,
    agrees_with_the_reference,
    keeps_the_order_of_a_batch,
    gives_the_same_scores_twice,
    scores_belong_to_the_caller,
    reads_the_batch_before_it_returns,
    refuses_an_oversized_and_an_empty_batch,
    refuses_other_shapes_and_dtypes,
    ties_go_to_the_lowest_class,
    nan_is_never_a_class,
    a_failed_call_leaves_the_engine_usable,
    a_library_that_fails_at_the_opening_is_an_engine_error,
    a_library_that_fails_in_a_run_is_an_engine_error,
    a_library_that_fails_at_the_close_is_an_engine_error_at_most,
    is_closed_after_its_block,
    closing_twice_is_harmless,
    interrupting_nothing_is_harmless,
]
