"""From a configuration to the stations that frames pass: which classifier of which camera, served by which worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.cameras.camera import Route
from agent.cameras.frame_counters import CameraAccount
from agent.config.model import CameraConfig, ClassifierConfig
from agent.inference.decisions import Decision
from agent.inference.worker import Dependent, Station, Worker
from agent.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """One camera's stations by classifier, and the routes to those without a gate."""

    stations: Mapping[str, Station]
    routes: tuple[Route, ...]


def plan_camera(
    name: str,
    config: CameraConfig,
    account: CameraAccount,
    workers: Mapping[str, Worker],
    *,
    is_live: bool,
    clock: Clock,
    kept: Mapping[str, Station] | None = None,
) -> CameraPlan:
    """The stations for one camera. Decisions of ``kept`` go on where the classifier and its model are the same.

    Gates form no cycle: the configuration has been checked.
    """
    by_key = {classifier.key: classifier for classifier in config.classify}
    stations: dict[str, Station] = {}

    def station_of(key: str) -> Station:
        if key not in stations:
            classifier = by_key[key]
            behind = [one for one in config.classify if one.when is not None and one.when.classifier == key]
            stations[key] = Station(
                camera=name,
                classifier=key,
                is_live=is_live,
                priority=config.priority,
                config=classifier,
                account=account,
                decision=_decision(name, classifier, (kept or {}).get(key), clock),
                dependents=tuple(
                    Dependent(station_of(one.key), workers[one.model].inbox, frozenset(one.when.labels))
                    for one in behind
                    if one.when is not None
                ),
            )
        return stations[key]

    routes = tuple(
        Route(station_of(classifier.key), workers[classifier.model].inbox)
        for classifier in config.classify
        if classifier.when is None
    )
    return CameraPlan(stations, routes)


def _decision(camera: str, classifier: ClassifierConfig, kept: Station | None, clock: Clock) -> Decision:
    if kept is not None and kept.config.model == classifier.model and kept.config.decide == classifier.decide:
        return kept.decision
    return Decision(
        camera,
        classifier.key,
        classifier.decide,
        now_ns=clock.monotonic_ns(),
        utc_ns=clock.utc_ns(),
        before=None if kept is None else kept.decision,
    )
