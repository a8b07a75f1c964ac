"""One classifier of one camera: what a worker needs to answer for it, and the classifiers that wait for its label."""

from __future__ import annotations

from dataclasses import dataclass

from agent.cameras.frame_counters import FrameCounters
from agent.config.model import ClassifierConfig
from agent.inference.batcher import Batcher, Binding
from agent.inference.decisions import Decision


@dataclass(frozen=True, slots=True)
class Dependent:
    """A classifier behind this one in a cascade: frames with one of ``labels`` go on to ``batcher``."""

    binding: ClassifierBinding
    batcher: Batcher[ClassifierBinding]
    labels: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierBinding(Binding):
    """One classifier of one camera, served by one worker. A new configuration makes a new one."""

    config: ClassifierConfig
    counters: FrameCounters
    decision: Decision
    dependents: tuple[Dependent, ...] = ()
