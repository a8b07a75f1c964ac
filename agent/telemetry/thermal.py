"""The `thermal` message, made from a snapshot of the thermal monitor."""

from __future__ import annotations

from agent.mqtt.identity import Identity
from agent.mqtt.messages import utc_text
from agent.mqtt.messages.thermal import Fan, GovernorReport, Gpu, Memory, OverCurrent, Power, Thermal, ThermalZone
from agent.thermal.decision import GovernorDecision
from agent.thermal.limits import Limits
from agent.thermal.monitor import ThermalSnapshot
from agent.thermal.sensors.base import ThermalSample


def thermal_message(snapshot: ThermalSnapshot, identity: Identity) -> Thermal:
    """The message for one snapshot."""
    sample, limits, now_ns = snapshot.sample, snapshot.limits, snapshot.at_ns
    seen = sample if sample is not None else ThermalSample(source=snapshot.sensor.source, taken_at_ns=now_ns)
    return Thermal(
        device=identity.device,
        session=identity.session,
        at=utc_text(snapshot.at_utc_ns),
        source=seen.source,
        source_detail=snapshot.sensor.detail,
        age_s=None if sample is None else round(max(0.0, sample.age_s(now_ns)), 3),
        zones={zone: _zone(seen, zone, limits.get(zone)) for zone in sorted(seen.temperatures)},
        hottest=None if seen.hottest is None else seen.hottest[0],
        unusable_sensors=dict(seen.absent),
        power=Power(
            rails={name: round(watts, 3) for name, watts in seen.power.rails.items()},
            total_watts=None if seen.power.total_watts is None else round(seen.power.total_watts, 3),
            total_meaning=seen.power.total_meaning,
        ),
        gpu=Gpu(
            load_ratio=None if seen.gpu.load_ratio is None else round(seen.gpu.load_ratio, 3),
            clock_hz=seen.gpu.clock_hz,
            max_clock_hz=seen.gpu.max_clock_hz,
        ),
        memory=None
        if seen.memory is None
        else Memory(total_bytes=seen.memory.total_bytes, used_bytes=seen.memory.used_bytes),
        fans={name: Fan(speed_ratio=fan.speed_ratio, rpm=fan.rpm) for name, fan in seen.fans.items()},
        power_mode=seen.power_mode,
        throttled=seen.is_throttling,
        throttle_causes=dict(seen.throttle_causes),
        throttle_states=dict(seen.throttle_states),
        over_current=_over_current(seen),
        hints=dict(seen.hints),
        governor=_governor(snapshot.decision, utc_text(snapshot.since_utc_ns)),
    )


def _zone(sample: ThermalSample, zone: str, limits: Limits | None) -> ThermalZone:
    trips = sample.trip_points.get(zone)
    return ThermalZone(
        celsius=round(sample.temperatures[zone], 2),
        passive_celsius=None if trips is None else trips.passive,
        critical_celsius=None if trips is None else trips.critical,
        soft_celsius=None if limits is None else round(limits.soft_celsius, 2),
        hard_celsius=None if limits is None else limits.hard_celsius,
        throttle_celsius=None if limits is None else limits.throttle_celsius,
        limit_source=None if limits is None else limits.source,
        hints={} if trips is None else dict(trips.hints),
    )


def _over_current(sample: ThermalSample) -> dict[str, OverCurrent]:
    return {
        name: OverCurrent(events=events, rate_hz=round(sample.over_current_hz.get(name, 0.0), 3))
        for name, events in sample.over_current_events.items()
    }


def _governor(decision: GovernorDecision, since: str) -> GovernorReport:
    predicted = decision.predicted_celsius
    return GovernorReport(
        state=decision.state,
        rate_ratio=round(decision.ratio, 3),
        clock_ratio=round(decision.levels.clock_ratio, 3),
        levers=list(decision.levels.engaged),
        cause=decision.cause,
        reason=decision.reason,
        since=since,
        zone=decision.zone,
        predicted_celsius=None if predicted is None else round(predicted, 1),
        margin_kelvin=None if decision.margin_kelvin is None else round(decision.margin_kelvin, 2),
    )
