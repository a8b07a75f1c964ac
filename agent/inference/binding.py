"""One classifier of one camera: what its worker needs to serve it, and the classifiers gated by its label."""

from __future__ import annotations

from dataclasses import dataclass

from agent.cameras.frame_counters import FrameCounters
from agent.config.model import ClassifierConfig
from agent.inference.batcher import Batcher, Binding
from agent.inference.decisions import Decision


@dataclass(frozen=True, slots=True)
class Dependent:
    """A classifier gated by this one: frames with one of ``labels`` go to its ``batcher``."""

    binding: ClassifierBinding
    batcher: Batcher[ClassifierBinding]
    labels: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierBinding(Binding):
    """One classifier of one camera, served by one worker. Every new configuration creates new bindings."""

    config: ClassifierConfig
    counters: FrameCounters
    decision: Decision
    dependents: tuple[Dependent, ...] = ()
