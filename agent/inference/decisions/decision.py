"""Decides what a classifier sees from its latest results: one label, or each of several."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from agent.config.sections.decide import STALE, DecideConfig, LabelRule
from agent.inference.decisions.votes import Votes, votes_for
from agent.runtime.records import Classification, Move, Standing, StateChange
from engines import ModelPackage, Scores, Task

_HEARTBEAT_NS = 60 * 1_000_000_000
"""A state is repeated this often, so a subscriber can distinguish an unchanged label from a dead agent."""
_AFTER_ALL = np.float32(2.0)
"""More than two confidences can differ."""
NO_SCORES: Scores = np.zeros(0, np.float32)
_ANY = "any"
"""What every result votes for, to see when enough have come."""


class Decision(ABC):
    """What one classifier of one camera has decided.

    Used by its worker's thread and by the main thread, which checks the time; after a reload, also by the old worker's
    thread while it answers its last frames. Each holds ``order`` while it calls a method and emits what that returned,
    so the messages go out in the order of the decisions.

    The state is the decided labels, or a word: `unknown` (the configured one) while results come but confirm nothing,
    `stale` after `stale_after_s` without a result.
    """

    def __init__(
        self,
        camera: str,
        classifier: str,
        config: DecideConfig,
        *,
        now_ns: int,
        utc_ns: int,
        before: Decision | None = None,
    ) -> None:
        """``before`` decided by the old configuration; ``initial`` ends its labels."""
        self._before = before
        self.order: threading.Lock = threading.Lock() if before is None else before.order
        """Shared with the decision before this one: its last messages come before the first of this one."""
        self.is_announced = False
        """Whether ``initial`` was called."""
        self.is_over = False
        """Whether the decision after this one was announced: this one must emit nothing more."""
        self._camera = camera
        self._classifier = classifier
        self._config = config
        self._rule = config.rule()
        self._lock = threading.Lock()
        self._word: str | None = config.unknown
        self._labels: tuple[str, ...] = ()
        self._since_utc_ns = utc_ns
        self._last: Classification | None = None
        self._last_result_ns = now_ns
        self._last_sent_ns = now_ns

    @property
    def label(self) -> str | None:
        """The decided label, or the word instead; None while a decision about several labels holds."""
        return self._word

    @property
    def labels(self) -> tuple[str, ...]:
        """The decided labels."""
        return self._labels

    @property
    def enters(self) -> Scores | None:
        """``(classes,)`` float32: the confidence from which each label counts as found in a frame; None where the best
        label counts."""
        return None

    @abstractmethod
    def fits(self, package: ModelPackage) -> bool:
        """Whether the decision can go on with the results of ``package``."""

    def initial(self) -> StateChange:
        """The state before the first result; it replaces a state that an earlier session left on the broker."""
        before, self._before = self._before, None
        self.is_announced = True
        ended: tuple[str | None, ...] = ()
        if before is not None:
            before.is_over = True
            ended = before.labels or (before.label,)
        with self._lock:
            moves = tuple(Move(name, self.label) for name in ended if name is not None and name != self.label)
            return self._change(moves, "start", None)

    def update(
        self, result: Classification, *, now_ns: int, utc_ns: int, scores: Scores = NO_SCORES
    ) -> StateChange | None:
        """Count one result; returns a change of the state, its repetition if that is due, or None.

        ``scores`` ``(classes,)`` float32 are the confidences of all labels, in the order of the package; a decision
        about several labels reads and keeps them.
        """
        with self._lock:
            self._last, self._last_result_ns = result, now_ns
            decided = self._decide(result, scores)
            if decided is None and self._word == STALE:
                # A result is evidence, though too little yet.
                self._word = self._config.unknown
                decided = (Move(STALE, self._word),), "resumed"
            if decided is None:
                return self._heartbeat(result, now_ns)
            self._since_utc_ns, self._last_sent_ns = utc_ns, now_ns
            return self._change(*decided, result)

    def tick(self, *, now_ns: int, utc_ns: int) -> StateChange | None:
        """Check the time: without results the state goes stale, an unchanged one is repeated once a minute."""
        with self._lock:
            if self._word == STALE or self.silent_s(now_ns) < self._config.stale_after_s:
                return self._heartbeat(None, now_ns)
            ended = self._labels or (self.label,)
            self._word, self._labels = STALE, ()
            self._forget()
            self._since_utc_ns, self._last_sent_ns = utc_ns, now_ns
            return self._change(tuple(Move(name, STALE) for name in ended if name is not None), "stale", None)

    @property
    def stale_after_s(self) -> float:
        """Seconds without a result after which the state is `stale`."""
        return self._config.stale_after_s

    def silent_s(self, now_ns: int) -> float:
        """Seconds since the last result, or since the start."""
        return (now_ns - self._last_result_ns) / 1e9

    def standing(self) -> Standing:
        """Where the decision stands: what its newest result speaks for. Any thread."""
        with self._lock:
            return self._candidate()

    def standings(self) -> tuple[Standing, ...]:
        """Where the decision about each label stands that is decided on its own. Any thread."""
        return (self.standing(),)

    @abstractmethod
    def _decide(self, result: Classification, scores: Scores) -> tuple[tuple[Move, ...], str] | None:
        """Count a result; the events and the reason if the state changed."""

    @abstractmethod
    def _forget(self) -> None:
        """Forget all votes."""

    @abstractmethod
    def _candidate(self) -> Standing: ...

    @abstractmethod
    def _figures(self) -> tuple[float, float]:
        """Confidence and votes of the state."""

    def _heartbeat(self, evidence: Classification | None, now_ns: int) -> StateChange | None:
        if now_ns - self._last_sent_ns < _HEARTBEAT_NS:
            return None
        self._last_sent_ns = now_ns
        return self._change((), "heartbeat", evidence)

    def _change(self, moves: tuple[Move, ...], reason: str, evidence: Classification | None) -> StateChange:
        confidence, votes = self._figures()
        return StateChange(
            camera=self._camera,
            classifier=self._classifier,
            label=self.label,
            labels=self._labels,
            moves=moves,
            since_utc_ns=self._since_utc_ns,
            confidence=confidence,
            votes=votes,
            window=self._rule.figure(self._rule.window),
            is_timed=self._rule.is_timed,
            reason=reason,
            evidence=evidence,
        )

    def _votes_for(self, rule: LabelRule) -> Votes:
        return votes_for(rule, stale_after_s=self._config.stale_after_s)

    def _standing(
        self,
        rule: LabelRule,
        votes: Votes | None,
        candidate: tuple[str, float] | None,
        runner_up: tuple[str, float] | None,
    ) -> Standing:
        name, confidence = (None, 0.0) if candidate is None else candidate
        amount = 0 if votes is None or name is None else votes.amount(name)
        return Standing(
            label=self.label,
            labels=self._labels,
            candidate=name,
            confidence=confidence,
            threshold=rule.exit if name in self._labels else rule.enter,
            votes=rule.figure(amount),
            needed=rule.figure(rule.needed),
            window=rule.figure(rule.window),
            is_timed=rule.is_timed,
            runner_up=runner_up,
        )


class LabelDecision(Decision):
    """One label. A result votes for its best class if the confidence reaches `enter`; for the class already decided,
    `exit` is enough.

    A different class takes over with `votes` votes among the last `window` results, or once it has held for `hold_s`.
    Without one, the state becomes `unknown` once as many results, or results for as long, fail to confirm the label.
    """

    def __init__(
        self,
        camera: str,
        classifier: str,
        config: DecideConfig,
        *,
        now_ns: int,
        utc_ns: int,
        before: Decision | None = None,
    ) -> None:
        super().__init__(camera, classifier, config, now_ns=now_ns, utc_ns=utc_ns, before=before)
        self._votes = self._votes_for(self._rule)
        self._confidences: dict[str, float] = {}
        """The confidence of the newest vote for each label."""

    @property
    def label(self) -> str | None:
        """The decided label, or the word instead."""
        labels = self._labels  # read once: another thread may ask while it changes
        return labels[0] if labels else self._word

    def fits(self, package: ModelPackage) -> bool:
        """See Decision."""
        return package.output.task is not Task.MULTI_LABEL

    def _decide(
        self,
        result: Classification,
        scores: Scores,  # noqa: ARG002 (one label needs the best ones only)
    ) -> tuple[tuple[Move, ...], str] | None:
        best, current = result.top[0], self._labels[0] if self._labels else None
        threshold = self._rule.exit if best.label == current else self._rule.enter
        vote = best.label if best.confidence >= threshold else None
        self._votes.add(vote, result.captured_at_ns)
        if vote is not None or best.label == current:
            self._confidences[best.label] = best.confidence
        winner = self._votes.winner(current)
        if winner is not None:
            return self._become(winner), "votes"
        if current is not None and vote != current and self._votes.others(current) >= self._rule.needed:
            return self._become(None), "unconfirmed"
        return None

    def _become(self, label: str | None) -> tuple[Move, ...]:
        """Decide ``label``, or none; the event."""
        before = self.label
        if label is None:
            self._word, self._labels = self._config.unknown, ()
        else:
            self._labels, self._word = (label,), None
        # Votes for other labels would switch the state straight back.
        self._votes.keep(label)
        return (Move(before, self.label, *self._figures()),)

    def _forget(self) -> None:
        self._votes = self._votes_for(self._rule)

    def _candidate(self) -> Standing:
        ranked = [] if self._last is None else [(one.label, one.confidence) for one in self._last.top[:2]]
        best, runner_up, *_ = *ranked, None, None
        return self._standing(self._rule, self._votes, best, runner_up)

    def _figures(self) -> tuple[float, float]:
        if not self._labels:
            return 0.0, 0
        label = self._labels[0]
        return self._confidences.get(label, 0.0), self._rule.figure(self._votes.amount(label))


class LabelSetDecision(Decision):
    """Each label of a model that finds several, with its own thresholds and votes.

    A label comes when enough results give it at least its `enter`, and goes when as many give it less than its `exit`.
    The set is `unknown` until as many results have come as one label needs, and may then be empty.
    """

    def __init__(
        self,
        camera: str,
        classifier: str,
        config: DecideConfig,
        *,
        labels: Sequence[str],
        stated: Mapping[str, float],
        now_ns: int,
        utc_ns: int,
        before: Decision | None = None,
    ) -> None:
        """``labels`` in the order of the scores; ``stated`` are the thresholds that the package's manifest states."""
        super().__init__(camera, classifier, config, now_ns=now_ns, utc_ns=utc_ns, before=before)
        self._names = tuple(labels)
        self._stated = dict(stated)
        self._rules = tuple(config.rule(name, stated=stated.get(name)) for name in labels)
        # As float32, like the scores: a score of 0.7 has to reach an `enter` of 0.7.
        self._enters = np.array([rule.enter for rule in self._rules], np.float32)
        self._exits = np.array([rule.exit for rule in self._rules], np.float32)
        self._present: dict[int, float] = {}
        """The labels that are decided by their index, and the confidence of the newest vote for each."""
        self._votes: dict[int, Votes] = {}
        """Of the labels that some result in the window voted for."""
        self._seen = self._votes_for(self._rule)
        self._scores = NO_SCORES

    @property
    def enters(self) -> Scores:
        """The confidence from which each label counts as found in a frame."""
        return self._enters

    def fits(self, package: ModelPackage) -> bool:
        """See Decision."""
        is_several = package.output.task is Task.MULTI_LABEL
        return is_several and package.labels == self._names and dict(package.output.stated) == self._stated

    def _decide(self, result: Classification, scores: Scores) -> tuple[tuple[Move, ...], str] | None:
        self._scores = scores
        self._seen.add(_ANY, result.captured_at_ns)
        found = np.flatnonzero(scores >= self._enters).tolist()
        moves = []
        for index in sorted({*found, *self._votes}):
            move = self._vote(index, scores, result.captured_at_ns)
            if move is not None:
                moves.append(move)
        is_settled = self._word is None
        if moves or (not is_settled and self._seen.amount(_ANY) >= self._rule.needed):
            self._word = None
            self._labels = tuple(self._names[index] for index in sorted(self._present))
            return tuple(moves), "votes" if any(one.to_label for one in moves) or not is_settled else "unconfirmed"
        return None

    def _vote(self, index: int, scores: Scores, at_ns: int) -> Move | None:
        """Count one label of one result; the event if it comes or goes."""
        name, rule, score = self._names[index], self._rules[index], float(scores[index])
        votes = self._votes.setdefault(index, self._votes_for(rule))
        is_present = index in self._present
        is_vote = bool(scores[index] >= (self._exits if is_present else self._enters)[index])
        votes.add(name if is_vote else None, at_ns)
        if is_vote and is_present:
            self._present[index] = score
        elif is_vote and votes.amount(name) >= rule.needed:
            self._present[index] = score
            votes.keep(name)
            return Move(None, name, score, rule.figure(votes.amount(name)))
        elif is_present and not is_vote and votes.others(name) >= rule.needed:
            del self._present[index], self._votes[index]
            return Move(name, None, score, rule.figure(votes.others(name)))
        elif not is_present and not is_vote and not votes.amount(name):
            del self._votes[index]
        return None

    def _forget(self) -> None:
        self._present, self._votes = {}, {}
        self._seen = self._votes_for(self._rule)

    def standings(self) -> tuple[Standing, ...]:
        """Where the decision about each label stands; the best one that is not decided comes first. Any thread."""
        with self._lock:
            ranked = self._missing().argsort(kind="stable").tolist()
            return tuple(self._standing_of(index) for index in ranked) or (self._candidate(),)

    def _candidate(self) -> Standing:
        if not self._scores.size:
            return self._standing(self._rule, None, None, None)
        return self._standing_of(int(self._missing().argmin()))

    def _standing_of(self, index: int) -> Standing:
        candidate = self._names[index], float(self._scores[index])
        return self._standing(self._rules[index], self._votes.get(index), candidate, None)

    def _missing(self) -> Scores:
        """How much each label lacks to its `enter`; those that are decided come after all others."""
        missing: Scores = self._enters[: self._scores.size] - self._scores
        missing[[*self._present]] += _AFTER_ALL
        return missing

    def _figures(self) -> tuple[float, float]:
        if not self._present:
            return 0.0, 0
        votes = min(self._rules[one].figure(self._votes[one].amount(self._names[one])) for one in self._present)
        return min(self._present.values()), votes
