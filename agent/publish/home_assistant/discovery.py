"""The discovery message for Home Assistant, a pure function of the ``runtime`` message.

Source: Home Assistant, MQTT integration, device discovery payload; its abbreviations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import orjson

from agent.config.sections.decide import STALE
from agent.mqtt.messages import CameraRuntime, ClassifierRuntime, Runtime
from agent.mqtt.topics import Topics

Component = dict[str, Any]

STATE_EXPIRES_S = 180
"""Three times the interval at which states are repeated."""
_HEALTH_EXPIRES_S = 60
MAX_LABELS = 64
"""Labels of one classifier with entities of their own: each adds about 700 bytes to the message. Our choice."""
MAX_OPTIONS_BYTES = 8192
"""Longest list of options, as JSON. Home Assistant's recorder stores no attributes of a state that has more than
16,384 bytes of them. Source: Home Assistant, recorder, MAX_STATE_ATTRS_BYTES."""
_ID = '"id":"ha-{{ now().timestamp() }}"'
"""Without ``expires_at``: Home Assistant's clock and the device's need not agree, and the broker queues no command."""


def discovery_message(
    runtime: Runtime, topics: Topics, *, allowed: Collection[str], snapshots: bool
) -> dict[str, Any]:
    """The message for ``<prefix>/device/<object id>/config``.

    ``allowed`` are the commands that the agent accepts; they become numbers, switches and buttons. ``snapshots`` adds
    an image to each camera.
    """
    board = runtime.board
    name = board.get("name") or runtime.device
    device: Component = {
        "ids": [object_id(runtime.device)],
        "name": str(name),
        "mdl": str(board.get("model") or board.get("architecture") or "Linux"),
        "sw": runtime.agent,
    }
    if board.get("l4t"):
        device |= {"mf": "NVIDIA", "hw": f"L4T {board['l4t']}"}
    parts = dict(_components(runtime, topics, allowed, snapshots=snapshots))
    for key, part in parts.items():
        part["uniq_id"] = _unique_id(runtime.device, key)
        part["def_ent_id"] = f"{part['p']}.{runtime.device}_{key}".replace("-", "_").lower()
    return {
        "dev": device,
        "o": {"name": "edge-inference-agent", "sw": runtime.agent},
        "avty": [
            {"t": topics.status, "val_tpl": "{{ 'online' if value_json.state == 'online' else 'offline' }}"},
        ],
        "qos": 1,
        "cmps": parts,
    }


def without_long_options(message: dict[str, Any]) -> tuple[str, ...]:
    """Remove lists of options that are too long, with the device class that needs them; the keys of those entities."""
    long = tuple(
        key for key, part in message["cmps"].items() if len(orjson.dumps(part.get("ops", ()))) > MAX_OPTIONS_BYTES
    )
    for key in long:
        del message["cmps"][key]["ops"], message["cmps"][key]["dev_cla"]
    return long


def without_entities(runtime: Runtime) -> tuple[str, ...]:
    """The classifiers that find more labels than get an entity of their own, as ``camera/classifier``."""
    return tuple(
        f"{name}/{classifier}"
        for name, camera in runtime.cameras.items()
        for classifier, use in camera.classifiers.items()
        if len(use.labels) > MAX_LABELS
    )


def discovery_topic(prefix: str, device: str) -> str:
    """The topic of the discovery message; ``prefix`` is Home Assistant's."""
    return f"{prefix}/device/{object_id(device)}/config"


def object_id(device: str) -> str:
    """The agent's id in Home Assistant: ``[a-zA-Z0-9_-]`` only."""
    return f"edge_inference_agent_{device}"


def _components(
    runtime: Runtime, topics: Topics, allowed: Collection[str], *, snapshots: bool
) -> Iterator[tuple[str, Component]]:
    for name, camera in runtime.cameras.items():
        yield from _of_camera(name, camera, runtime, topics, allowed, snapshots=snapshots)
    for key in runtime.models:
        yield (
            _key(key, "p99"),
            _sensor(
                f"{key} latency p99",
                topics.latency,
                f"{{{{ value_json.models['{key}'].total.p99 if value_json.models['{key}'].total else None }}}}",
                dev_cla="duration",
                unit_of_meas="ms",
            ),
        )
    yield from _of_board(topics)


def _of_camera(
    name: str,
    camera: CameraRuntime,
    runtime: Runtime,
    topics: Topics,
    allowed: Collection[str],
    *,
    snapshots: bool,
) -> Iterator[tuple[str, Component]]:
    health = topics.camera_health(name)
    yield (
        _key(name, "connected"),
        {
            "p": "binary_sensor",
            "name": f"{name} connected",
            "dev_cla": "connectivity",
            "ent_cat": "diagnostic",
            "stat_t": health,
            "val_tpl": "{{ 'ON' if value_json.state == 'connected' else 'OFF' }}",
            "json_attr_t": health,
        },
    )
    fps = _sensor(f"{name} frame rate", health, "{{ value_json.fps }}", unit_of_meas="fps", sug_dsp_prc=1)
    yield _key(name, "fps"), {**fps, "exp_aft": _HEALTH_EXPIRES_S}
    for classifier, use in camera.classifiers.items():
        yield from _of_classifier(name, classifier, use, runtime, topics, may_set="set" in allowed)
    if "set" in allowed and not camera.triggered:
        yield _key(name, "rate"), _rate(name, topics)
    if "capture" in allowed:
        yield _key(name, "capture"), _button(name, "classify a frame", "capture", topics)
    if "set" in allowed:
        yield _key(name, "enabled"), _switch(name, topics)
    if "snapshot" in allowed and snapshots:
        yield _key(name, "image"), _image(name, topics)
        yield _key(name, "take"), _button(name, "take snapshot", "snapshot", topics)


def _of_classifier(
    camera: str, classifier: str, use: ClassifierRuntime, runtime: Runtime, topics: Topics, *, may_set: bool
) -> Iterator[tuple[str, Component]]:
    model = runtime.models.get(use.model)
    if model is not None and model.task == "multi_label":
        yield _classifier_key(camera, classifier, "label"), _labels(camera, classifier, topics)
        for label in [*use.labels][:MAX_LABELS]:
            key = _of_label(label)
            yield _classifier_key(camera, classifier, f"HAS_{key}"), _has_label(camera, classifier, label, topics)
            if may_set:
                part = _label_threshold(camera, classifier, label, topics)
                yield _classifier_key(camera, classifier, f"ENTER_{key}"), part
        return
    labels = (*(() if model is None else model.labels), use.unknown, STALE)
    yield _classifier_key(camera, classifier, "label"), _label(camera, classifier, labels, topics)
    if may_set:
        yield _classifier_key(camera, classifier, "enter"), _threshold(camera, classifier, topics)


def _of_board(topics: Topics) -> Iterator[tuple[str, Component]]:
    thermal = topics.thermal
    yield (
        "temperature",
        {
            **_sensor(
                "Temperature",
                thermal,
                "{{ value_json.zones[value_json.hottest].celsius if value_json.hottest else None }}",
                dev_cla="temperature",
                unit_of_meas="°C",
                sug_dsp_prc=1,
            ),
            "json_attr_t": thermal,
            "json_attr_tpl": "{{ value_json.zones | tojson }}",
        },
    )
    yield (
        "power",
        _sensor(
            "Power", thermal, "{{ value_json.power.total_watts }}", dev_cla="power", unit_of_meas="W", sug_dsp_prc=1
        ),
    )
    yield (
        "throttling",
        {
            "p": "binary_sensor",
            "name": "Throttling",
            "dev_cla": "problem",
            "ent_cat": "diagnostic",
            "stat_t": thermal,
            "val_tpl": "{{ 'ON' if value_json.throttled or value_json.governor.state in ['reduced', 'paused'] "
            "else 'OFF' }}",
            "json_attr_t": thermal,
            "json_attr_tpl": "{{ value_json.governor | tojson }}",
        },
    )


def _sensor(name: str, topic: str, template: str, **more: object) -> Component:
    return {
        "p": "sensor",
        "name": name,
        "stat_t": topic,
        "val_tpl": template,
        "stat_cla": "measurement",
        "ent_cat": "diagnostic",
        **more,
    }


def _label(camera: str, classifier: str, labels: tuple[str, ...], topics: Topics) -> Component:
    state = topics.state(camera, classifier)
    return {
        "p": "sensor",
        "name": f"{camera} {classifier}",
        "dev_cla": "enum",
        "ops": list(dict.fromkeys(labels)),
        "stat_t": state,
        "val_tpl": "{{ value_json.label }}",
        "json_attr_t": state,
        "exp_aft": STATE_EXPIRES_S,
    }


def _labels(camera: str, classifier: str, topics: Topics) -> Component:
    """All labels of a classifier as one text; a state of Home Assistant has at most 255 characters."""
    state = topics.state(camera, classifier)
    return {
        "p": "sensor",
        "name": f"{camera} {classifier}",
        "stat_t": state,
        "val_tpl": "{{ (value_json.label or value_json.labels | join(', ') or 'none')[:255] }}",
        "json_attr_t": state,
        "exp_aft": STATE_EXPIRES_S,
    }


def _has_label(camera: str, classifier: str, label: str, topics: Topics) -> Component:
    """Whether one label is decided; Home Assistant reads ``None`` as unknown."""
    state = topics.state(camera, classifier)
    return {
        "p": "binary_sensor",
        "name": f"{camera} {classifier} {label}",
        "stat_t": state,
        "val_tpl": f"{{{{ None if value_json.label else 'ON' if {_quoted(label)} in value_json.labels else 'OFF' }}}}",
        "exp_aft": STATE_EXPIRES_S,
    }


def _label_threshold(camera: str, classifier: str, label: str, topics: Topics) -> Component:
    rules = f"value_json.cameras['{camera}'].classifiers['{classifier}'].labels"
    return {
        **_threshold(camera, classifier, topics),
        "name": f"{camera} {classifier} {label} threshold",
        "val_tpl": f"{{{{ {rules}[{_quoted(label)}].enter }}}}",
        "cmd_tpl": f'{{{_ID},"camera":"{camera}","classifier":"{classifier}",'
        f'"label":{{{{ {_quoted(label)} | tojson }}}},"enter":{{{{ value }}}},"keep":true}}',
    }


def _quoted(label: str) -> str:
    """A label as a text of a template. Jinja reads the escapes of Python, and knows no braces within them."""
    escaped = label.encode("unicode_escape").decode("ascii")
    return "'" + escaped.replace("'", "\\x27").replace("{", "\\x7b").replace("}", "\\x7d") + "'"


def _image(camera: str, topics: Topics) -> Component:
    return {"p": "image", "name": f"{camera} snapshot", "img_t": topics.snapshot(camera), "cont_type": "image/jpeg"}


def _button(camera: str, action: str, verb: str, topics: Topics) -> Component:
    """A button that sends the command ``verb`` of a camera."""
    return {
        "p": "button",
        "name": f"{camera} {action}",
        "cmd_t": topics.command(verb),
        "cmd_tpl": f'{{{_ID},"camera":"{camera}"}}',
    }


def _threshold(camera: str, classifier: str, topics: Topics) -> Component:
    return {
        "p": "number",
        "name": f"{camera} {classifier} threshold",
        "ent_cat": "config",
        "stat_t": topics.runtime,
        "val_tpl": f"{{{{ value_json.cameras['{camera}'].classifiers['{classifier}'].enter }}}}",
        "cmd_t": topics.command("set"),
        "cmd_tpl": f'{{{_ID},"camera":"{camera}","classifier":"{classifier}","enter":{{{{ value }}}},"keep":true}}',
        "min": 0,
        "max": 1,
        "step": 0.01,
        "mode": "box",
    }


def _rate(camera: str, topics: Topics) -> Component:
    return {
        "p": "number",
        "name": f"{camera} rate",
        "ent_cat": "config",
        "unit_of_meas": "Hz",
        "stat_t": topics.runtime,
        "val_tpl": f"{{{{ value_json.cameras['{camera}'].rate_hz }}}}",
        "cmd_t": topics.command("set"),
        "cmd_tpl": f'{{{_ID},"camera":"{camera}","rate_hz":{{{{ value }}}},"keep":true}}',
        "min": 0.1,
        "max": 120,
        "step": 0.1,
        "mode": "box",
    }


def _switch(camera: str, topics: Topics) -> Component:
    return {
        "p": "switch",
        "name": f"{camera} enabled",
        "ent_cat": "config",
        "stat_t": topics.runtime,
        "val_tpl": f"{{{{ 'ON' if value_json.cameras['{camera}'].enabled else 'OFF' }}}}",
        "cmd_t": topics.command("set"),
        "cmd_tpl": f'{{{_ID},"camera":"{camera}",'
        "\"enabled\":{{ 'true' if value == 'ON' else 'false' }},\"keep\":true}",
        "pl_on": "ON",
        "pl_off": "OFF",
    }


def _key(name: str, kind: str) -> str:
    """The key of an entity of a camera or model."""
    return f"{_escaped(name)}_{kind}"


def _classifier_key(camera: str, classifier: str, kind: str) -> str:
    """The key of an entity of a classifier.

    Names consist of lower-case letters, digits, ``-``, ``_`` and ``.``, keys of letters, digits, ``-`` and ``_``.
    Words in upper case tell apart what would be equal otherwise: ``a.b`` and ``a_b``, or ``door`` with
    ``left_defect`` and ``door_left`` with ``defect``.
    """
    names = _escaped(camera), _escaped(classifier)
    return f"{('_CLASSIFIER_' if '_' in ''.join(names) else '_').join(names)}_{kind}"


def _escaped(name: str) -> str:
    return name.replace(".", "_DOT_")


def _of_label(label: str) -> str:
    """A label as a part of a key: small letters, digits and ``-`` stay, everything else becomes its number."""
    return "".join(
        char if char.isascii() and (char.islower() or char.isdigit() or char == "-") else f"_{ord(char):X}_"
        for char in label
    )


def _unique_id(device: str, key: str) -> str:
    """Unique among all devices: ``a`` with the camera ``b_c`` and ``a_b`` with the camera ``c`` differ."""
    return f"{object_id(device)}{'_DEVICE_' if '_' in device else '_'}{key}"
