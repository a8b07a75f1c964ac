"""The public schema: one frozen class for each message; the field ``schema`` holds its name and version.

Within a version no field is renamed or changes its meaning; optional fields may be added. Every constructor
validates; ``agent.mqtt.topics.encode`` makes the bytes that are sent.
"""

from __future__ import annotations

from agent.mqtt.messages.base import PUBLIC, AnyMessage, ClockState, Message, utc_text
from agent.mqtt.messages.compact import STAGES, CompactDecision, CompactResult, compact_from_classification
from agent.mqtt.messages.lifecycle import (
    CameraRuntime,
    ClassifierRuntime,
    LabelRuntime,
    ModelRuntime,
    RejectedEngine,
    Runtime,
    Status,
)
from agent.mqtt.messages.replies import Reply
from agent.mqtt.messages.results import (
    DecisionNow,
    Engine,
    Event,
    Evidence,
    Latencies,
    Model,
    Result,
    State,
    TopClass,
    event_from_move,
    result_from_classification,
    state_from_state_change,
)
from agent.mqtt.messages.vitals import (
    BriefHealth,
    CameraAccounting,
    CameraHealth,
    ClassifierAccounting,
    Connection,
    EngineBuild,
    Health,
    InboundHealth,
    Latency,
    Line,
    ModelHealth,
    ModelLatency,
    Percentiles,
    Process,
    PublisherHealth,
    ThermalHealth,
    WaitingTopic,
    brief_from_health,
)

__all__ = [
    "PUBLIC",
    "STAGES",
    "AnyMessage",
    "BriefHealth",
    "CameraAccounting",
    "CameraHealth",
    "CameraRuntime",
    "ClassifierAccounting",
    "ClassifierRuntime",
    "ClockState",
    "CompactDecision",
    "CompactResult",
    "Connection",
    "DecisionNow",
    "Engine",
    "EngineBuild",
    "Event",
    "Evidence",
    "Health",
    "InboundHealth",
    "LabelRuntime",
    "Latencies",
    "Latency",
    "Line",
    "Message",
    "Model",
    "ModelHealth",
    "ModelLatency",
    "ModelRuntime",
    "Percentiles",
    "Process",
    "PublisherHealth",
    "RejectedEngine",
    "Reply",
    "Result",
    "Runtime",
    "State",
    "Status",
    "ThermalHealth",
    "TopClass",
    "WaitingTopic",
    "brief_from_health",
    "compact_from_classification",
    "event_from_move",
    "result_from_classification",
    "state_from_state_change",
    "utc_text",
]
