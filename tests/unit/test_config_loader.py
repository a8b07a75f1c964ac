"""What a good configuration file becomes on this machine."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from agent.config.checks.crosschecks import ENGINE_ALIASES, ENGINES, REGULAR, REGULAR_PER_CAMERA
from agent.config.device import device_id_of_machine
from agent.config.labels import check_when_labels
from agent.config.loader import LoadedConfig, load_config
from agent.mqtt.topics import packet_from_message
from agent.publish.delivery.send_rate import PACKET_BYTES
from agent.runtime.errors import ConfigError
from agent.runtime.secrets import SecretKind, read_secret
from agent.telemetry.reporter import CAMERA_HEALTH_EVERY_NS, HEALTH_EVERY_NS
from engines.select.registry import AUTO_ORDER, CHOOSERS, REMOTE, canonical_name
from tests.fixtures import publish_samples

MACHINE_ID = "0123456789abcdef0123456789abcdef"

CASCADE = """\
version: 1
models:
  parts: {package: packages/parts-1}
cameras:
  front:
    source: {type: pattern}
    classify:
      - {model: parts, name: whole}
      - {model: parts, name: dents, when: {classifier: whole, labels: [dent, ok]}}
"""


def write(folder: Path, text: str = CASCADE) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    package = folder / "packages" / "parts-1"
    package.mkdir(parents=True, exist_ok=True)
    (package / "model.yaml").touch()
    return path


def load(folder: Path, text: str = CASCADE, *, environ: dict[str, str] | None = None) -> LoadedConfig:
    (folder / "machine-id").write_text(MACHINE_ID + "\n")
    environ = {"HOME": "/home/someone"} if environ is None else environ
    return load_config(write(folder, text), environ=environ, machine_id_file=folder / "machine-id")


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.base_dir == tmp_path
    assert loaded.package_dir("parts") == tmp_path / "packages" / "parts-1"
    assert loaded.resolve("/etc/x") == Path("/etc/x")


def test_state_lives_where_systemd_says_else_in_the_home(tmp_path: Path) -> None:
    assert load(tmp_path).state_dir == Path("/home/someone/.local/state/agent")
    assert load(tmp_path, environ={"STATE_DIRECTORY": "/var/lib/agent"}).state_dir == Path("/var/lib/agent")
    assert load(tmp_path, CASCADE + "state_dir: here\n").state_dir == tmp_path / "here"


def test_without_any_home_the_state_directory_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for text in (CASCADE, CASCADE + "state_dir: ~/state\n"):
        with pytest.raises(
            ConfigError,
            match=r"no home directory.*Set HOME or STATE_DIRECTORY, or give absolute paths",
        ):
            load(tmp_path, text, environ={})
    assert load(tmp_path, CASCADE + "state_dir: /here\n", environ={}).state_dir == Path("/here")


def test_the_hash_is_of_the_meaning_and_not_of_the_text(tmp_path: Path) -> None:
    first = load(tmp_path).sha256
    assert load(tmp_path, "# a comment\n" + CASCADE + "mqtt: {prefix: edge}\n").sha256 == first
    assert load(tmp_path, CASCADE + "mqtt: {prefix: hall}\n").sha256 != first


def test_auto_device_id_is_stable_and_does_not_show_the_machine_id(tmp_path: Path) -> None:
    first = load(tmp_path)
    assert first.device_id == load(tmp_path).device_id
    assert first.device_name == first.device_id
    assert MACHINE_ID[:8] not in first.device_id
    (tmp_path / "other").write_text("f" * 32)
    assert device_id_of_machine(tmp_path / "other") != first.device_id


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "0" * 32])
def test_without_a_machine_id_the_host_name_is_taken(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "machine-id"
    if content is not None:
        file.write_text(content)
    assert device_id_of_machine(file, hostname="Jetson_1.Hall A") == "jetson_1-hall-a"
    with pytest.raises(ConfigError, match=r"Set device\.id"):
        device_id_of_machine(file, hostname="localhost")


def test_missing_files_are_reported_with_line_and_resolved_path(tmp_path: Path) -> None:
    text = CASCADE.replace("packages/parts-1", "packages/parts-2").replace(
        "{type: pattern}", "{type: file, path: a.mp4}"
    )
    text += "mqtt:\n  broker: mqtts://host\n  tls: {ca_file: ca.pem}\n  password_file: /nowhere/password\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    lines = caught.value.message.splitlines()
    file = tmp_path / "agent.yaml"
    assert lines[1].startswith(f"  {file}:3: models.parts.package: there is no directory {tmp_path}/packages/parts-2")
    assert lines[2] == f"  {file}:6: cameras.front.source.path: there is no {tmp_path}/a.mp4"
    assert lines[3] == f"  {file}:12: mqtt.tls.ca_file: there is no file {tmp_path}/ca.pem"
    assert lines[4].startswith(
        f"  {file}:13: mqtt.password_file: the password file /nowhere/password cannot be opened"
    )
    assert load_config(tmp_path / "agent.yaml", check_files=False).mqtt_password is None


@pytest.mark.parametrize(
    ("source", "key", "text"),
    [
        ("{type: file, path: here}", "path", "is a folder, but `type: file`"),
        ("{type: image, path: here}", "path", "is a folder, but `type: image`"),
        ("{type: folder, path: agent.yaml}", "path", "is a file, but `type: folder`"),
        ("{type: folder, path: here, after: move, move_to: agent.yaml}", "move_to", "is a file, but images are moved"),
        ("{type: images, path: nowhere}", "path", "there is no"),
        ("{type: http, url: 'https://camera/1', ca_file: no.pem}", "ca_file", "there is no"),
        ("{type: stream, url: 'https://camera/1', ca_file: no.pem}", "ca_file", "there is no"),
        ("{type: file, path: ~/nowhere.mp4}", "path", "home/nowhere.mp4"),
        ("{type: file, path: ~/folder}", "path", "home/folder is a folder"),
    ],
)
def test_what_a_source_names_must_be_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, key: str, text: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    (tmp_path / "home/folder").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, CASCADE.replace("{type: pattern}", source))
    assert f":6: cameras.front.source.{key}: " in caught.value.message
    assert text in caught.value.message


def test_a_watched_folder_and_a_rewritten_file_may_come_later(tmp_path: Path) -> None:
    for source in ("{type: folder, path: later}", "{type: image, path: later.png}"):
        load(tmp_path, CASCADE.replace("{type: pattern}", source))


@pytest.mark.parametrize(
    ("url", "is_warned"), [("rtsp://camera/1", True), ("rtsp://camera/user={username}_x.sdp", False)]
)
def test_a_user_without_a_password_is_a_warning(tmp_path: Path, url: str, is_warned: bool) -> None:
    warnings = load(
        tmp_path, CASCADE.replace("{type: pattern}", f"{{type: rtsp, url: '{url}', username: u}}")
    ).warnings
    assert [("front.source.username" in one, "empty password" in one) for one in warnings] == [
        (True, True)
    ] * is_warned


@pytest.mark.parametrize("move_to", ["inbox", "inbox/../inbox", "link"])
def test_a_folder_that_is_moved_into_itself_is_refused_with_its_line(tmp_path: Path, move_to: str) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "link").symlink_to("inbox")
    source = "{type: folder, path: inbox, after: move, move_to: %s}"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, CASCADE.replace("{type: pattern}", source % move_to))
    expected = f":6: cameras.front.source.move_to: must be another folder, but it is {tmp_path}/inbox, which is the"
    assert expected in caught.value.message
    load(tmp_path, CASCADE.replace("{type: pattern}", source % "inbox/done"))


def test_missing_files_are_reported_together_with_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        "version: 1\n"
        "models:\n  inspect: {package: nowhere, precision: fp17}\n"
        "cameras:\n  front: {source: {type: file, path: missing.mp4}, classify: [{model: inspect}]}\n"
        "mqtt:\n  broker: mqtx://x\n  commands: {enabled: true, allow: [sett]}\n  tls: {ca_file: ca.pem}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for key in ("inspect.package", "inspect.precision", "source.path", "broker", "commands.allow[0]", "tls.ca_file"):
        assert f"{key}: " in caught.value.message, key
    with pytest.raises(ConfigError) as caught:
        load_config(path, check_files=False)
    assert "missing.mp4" not in caught.value.message


@pytest.mark.parametrize(
    "text", ["models: 3", "models: {a: 3}", "cameras: {a: {source: [1]}}", "mqtt: {tls: 1, broker: [1]}"]
)
def test_sections_of_the_wrong_kind_are_faults_and_no_crash(text: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"version: 1\n{text}\n")
    with pytest.raises(ConfigError, match=r"agent\.yaml:2: "):
        load_config(path)


def test_an_unreachable_path_is_reported_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.parts\.package: .*cannot be reached \(File name too long\)"):
        load(tmp_path, CASCADE.replace("packages/parts-1", "x" * 300))


def test_a_path_that_is_too_long_is_no_matter_of_permissions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(File name too long\); correct the path$"):
        load(tmp_path, CASCADE.replace("packages/parts-1", "x" * 300))


@pytest.mark.parametrize(
    "line",
    [
        r'models: {a: {package: "a\0b"}}',
        r'cameras: {a: {source: {type: images, path: "a\0b"}}}',
        r'cameras: {a: {source: {type: folder, path: in, after: move, move_to: "a\0b"}}}',
        r'cameras: {a: {source: {type: rtsp, password_file: "a\0b"}}}',
        r'mqtt: {tls: {ca_file: "a\0b"}}',
    ],
)
def test_a_null_byte_in_a_path_is_a_fault_and_no_crash(line: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"version: 1\n{line}\n")
    with pytest.raises(
        ConfigError, match=r"agent\.yaml:2: .* the text holds the control character U\+0000; remove it$"
    ):
        load_config(path)


@pytest.mark.parametrize("place", ["inbox", "inbox/", "./inbox", "link"])
def test_two_cameras_on_one_watched_folder_are_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("inbox")
    path = tmp_path / "agent.yaml"
    path.write_text(
        "version: 1\nmodels: {inspect: {package: demo}}\nmqtt: {broker: embedded}\ncameras:\n"
        "  a: {source: {type: folder, path: inbox}, classify: [{model: inspect}]}\n"
        f"  b: {{source: {{type: folder, path: {place}}}, classify: [{{model: inspect}}]}}\n"
        "  c: {source: {type: folder, path: other}, classify: [{model: inspect}]}\n"
    )
    with pytest.raises(
        ConfigError, match=r"agent.yaml:6: cameras\.b\.source\.path: is .*/inbox, but camera a"
    ) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 1
    path.write_text(path.read_text().replace("  b: {", "  b: {enabled: false, "))
    assert not load_config(path).config.cameras["b"].enabled, "a camera that is off takes no image"


def test_a_directory_without_a_manifest_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no model\.yaml"):
        load(tmp_path, CASCADE.replace("packages/parts-1", "empty"))


def test_passwords_are_read_once_and_shown_nowhere(tmp_path: Path) -> None:
    for name in ("broker", "camera"):
        (tmp_path / name).write_text(f"{name} secret\nsecond line\n")
        (tmp_path / name).chmod(0o600)
    camera = "{type: rtsp, url: rtsp://h/s, username: u, password_file: camera}"
    text = CASCADE.replace("{type: pattern}", camera) + "mqtt: {username: u, password_file: broker}\n"
    loaded = load(tmp_path, text)
    assert loaded.mqtt_password is not None
    assert loaded.mqtt_password.reveal() == "broker secret"
    assert loaded.camera_passwords["front"].reveal() == "camera secret"
    assert "secret" not in repr(loaded).replace("Secret(", "")


def _credential(directory: Path, text: str) -> dict[str, str]:
    """The environment of a service with this credential."""
    folder = directory / "credentials"
    folder.mkdir(exist_ok=True)
    (folder / "mqtt-password").write_text(text)
    (folder / "mqtt-password").chmod(0o600)
    return {"HOME": "/", "CREDENTIALS_DIRECTORY": str(folder)}


def _password(directory: Path, environ: dict[str, str]) -> str | None:
    password = load(directory, environ=environ).mqtt_password
    return None if password is None else password.reveal()


def test_the_systemd_credential_is_taken_where_no_file_is_named(tmp_path: Path) -> None:
    assert _password(tmp_path, _credential(tmp_path, "from systemd\n")) == "from systemd"
    assert _password(tmp_path, {"HOME": "/", "CREDENTIALS_DIRECTORY": "/nowhere"}) is None
    assert _password(tmp_path, _credential(tmp_path, "")) is None


def test_the_password_beside_the_configuration_goes_before_the_copy_that_systemd_made(tmp_path: Path) -> None:
    environ, beside = _credential(tmp_path, "at the start\n"), tmp_path / "mqtt-password"
    beside.write_text("newer\n")
    beside.chmod(0o640)
    assert _password(tmp_path, environ) == "newer"
    assert _password(tmp_path, {"HOME": "/"}) == "newer"
    beside.chmod(0o644)
    with pytest.raises(ConfigError, match=r"chmod o= "):
        load(tmp_path, environ=environ)
    beside.write_text("")
    assert _password(tmp_path, environ) == "at the start"
    assert _password(tmp_path, {"HOME": "/"}) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_password_beside_the_configuration_is_a_warning(tmp_path: Path) -> None:
    environ, beside = _credential(tmp_path, "at the start\n"), tmp_path / "mqtt-password"
    beside.write_text("newer\n")
    beside.chmod(0)
    loaded = load(tmp_path, environ=environ)
    assert (loaded.mqtt_password or pytest.fail()).reveal() == "at the start"
    assert any("needs a restart" in warning and "chmod 640" in warning for warning in loaded.warnings)
    with pytest.raises(ConfigError, match="Permission denied"):
        load(tmp_path, environ={"HOME": "/"})


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"secret\n", 0o604, "chmod o="),
        (b"secret\n", 0o602, "chmod o="),
        (b"\nsecret\n", 0o600, "first line"),
        (b"", 0o600, "first line"),
        (b"x" * (SecretKind.PASSWORD.max_bytes + 1), 0o600, "larger than 4096 bytes"),
        (b"secret\xff\n", 0o600, "not UTF-8"),
        (b"\xef\xbb\xbfsecret\n", 0o600, "starts with a byte order mark"),
    ],
)
def test_a_password_file_that_is_not_safe_or_not_usable_is_refused(
    tmp_path: Path, content: bytes, mode: int, words: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_secret(file)
    assert words in caught.value.message
    assert str(file) in caught.value.message
    assert "secret" not in caught.value.message


def test_a_password_file_that_is_a_pipe_or_a_directory_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for file in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match="but a regular file is needed"):
            read_secret(file)


def test_the_names_of_engines_are_those_that_the_engines_know(tmp_path: Path) -> None:
    assert (*CHOOSERS, *AUTO_ORDER, REMOTE) == ENGINES
    for name in (*ENGINES, *ENGINE_ALIASES, "TensorRT", "ort_cpu", "ort-xnnpack", "ort-brandnew"):
        assert load(tmp_path, CASCADE.replace("parts-1}", f"parts-1, engine: {name}}}")).config.models["parts"].engine
    for name in ENGINE_ALIASES:
        assert canonical_name(name) in AUTO_ORDER


def test_a_gate_on_a_label_that_the_model_lost_is_refused_with_the_nearest(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    check_when_labels(loaded, {"parts": ["ok", "dent"]})
    check_when_labels(loaded, {})
    with pytest.raises(ConfigError) as caught:
        check_when_labels(loaded, {"parts": ["ok", "dents"]})
    expected = f"{tmp_path}/agent.yaml:9: cameras.front.classify[1].when.labels[0]: model parts has no label `dent`"
    assert caught.value.message.startswith(expected)
    assert "did you mean `dents`?" in caught.value.message


def test_what_was_probably_not_meant_is_a_warning_with_its_line(tmp_path: Path) -> None:
    text = CASCADE.replace("cameras:", "  spare: {package: packages/parts-1}\ncameras:").replace(
        "{type: pattern}", "{type: pattern}\n    enabled: false"
    )
    text += "mqtt: {broker: mqtt://hall.example, username: u}\n"
    warnings = load(tmp_path, text).warnings
    file = tmp_path / "agent.yaml"
    assert [warning.removeprefix(f"{file}:").split(": ")[:2] for warning in warnings] == [
        ["3", "models.parts"],
        ["4", "models.spare"],
        ["5", "cameras"],
        ["12", "mqtt.broker"],
    ]
    assert load(tmp_path).warnings == ()


@pytest.mark.parametrize(
    ("mqtt", "says"),
    [
        ("commands: {allow: [set]}", "`enabled` is missing, which means false, so the agent ignores allow"),
        (
            "home_assistant: {snapshots: true, prefix: ha}",
            "so the agent ignores prefix, snapshots; write `enabled: true`",
        ),
        ("commands: {enabled: true}", "`allow` names none, so every command is ignored"),
        ("commands: {enabled: false, allow: [set]}", None),
        ("commands: {enabled: true, allow: [set]}", None),
        ("commands: {}", None),
    ],
)
def test_settings_of_what_is_switched_off_are_a_warning(tmp_path: Path, mqtt: str, says: str | None) -> None:
    warnings = load(tmp_path, f"{CASCADE}mqtt: {{{mqtt}}}\n").warnings
    assert [says in warning for warning in warnings if says] == ([] if says is None else [True])
    assert len(warnings) == (says is not None)


@pytest.mark.parametrize(
    ("key", "limit", "words"),
    [
        ("messages_hz", 0.1, "is 0.10, but states, health and thermal alone need about 0.27;"),
        ("messages_hz", 0.26, "need about 0.27;"),
        ("messages_hz", 0.27, None),
        ("bytes_per_s", 100, "is 100, but states, health and thermal alone need about 210;"),
        ("bytes_per_s", 209, "need about 210;"),
        ("bytes_per_s", 211, None),
    ],
)
def test_a_rate_below_what_the_regular_messages_need_is_a_warning(
    tmp_path: Path, key: str, limit: float, words: str | None
) -> None:
    warnings = load(tmp_path, f"{CASCADE}mqtt: {{max_rate: {{{key}: {limit}}}}}\n").warnings
    assert len(warnings) == (words is not None)
    for warning in warnings:
        assert f"mqtt.max_rate.{key}: the limit " in warning
        assert str(words) in warning


def test_the_regular_messages_have_the_interval_and_about_the_size_that_the_warning_counts_with() -> None:
    assert (REGULAR["health"][0], REGULAR_PER_CAMERA["health"][0]) == (HEALTH_EVERY_NS / 1e9, HEALTH_EVERY_NS / 1e9)
    assert REGULAR_PER_CAMERA["camera-health"][0] == CAMERA_HEALTH_EVERY_NS / 1e9
    assumed = (
        (publish_samples.health(), REGULAR["health"][1] + REGULAR_PER_CAMERA["health"][1]),
        (publish_samples.thermal(), REGULAR["thermal"][1]),
        (publish_samples.camera_health(), REGULAR_PER_CAMERA["camera-health"][1]),
    )
    for message, size in assumed:
        packet = packet_from_message(message, publish_samples.TOPICS)
        real = len(packet.topic) + len(packet.payload) + PACKET_BYTES
        assert size == pytest.approx(real, rel=0.15), packet.topic


@pytest.mark.parametrize(
    ("camera", "commands", "words"),
    [
        ("trigger: {}", "", "`mqtt.commands.enabled` is false"),
        ("trigger: {}", "{enabled: true, allow: [set]}", "`mqtt.commands.allow` lacks capture"),
        ("trigger: {}", "{enabled: false, allow: [capture]}", "`mqtt.commands.enabled` is false"),
        ("trigger: {}", "{enabled: true, allow: [capture]}", None),
        ("trigger: {gpio: {line: 5}}", "", None),
        ("trigger: {}\n    enabled: false", "", None),
    ],
)
def test_a_trigger_that_nothing_can_fire_is_a_warning(
    tmp_path: Path, camera: str, commands: str, words: str | None
) -> None:
    text = CASCADE + f"  back:\n    source: {{type: pattern}}\n    {camera}\n    classify: [{{model: parts}}]\n"
    text += f"mqtt: {{commands: {commands}}}\n" if commands else ""
    warnings = load(tmp_path, text).warnings
    assert len(warnings) == (words is not None)
    for warning in warnings:
        assert ": cameras.back.trigger: only the command `capture` can ask for a frame, but" in warning
        assert str(words) in warning


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("type: images, path: 'photos/*.jpg'", "and a pattern is not expanded; name one file, or a folder"),
        ("type: folder, path: 'in[bo]x'", "and a pattern is not expanded; name one file, or a folder"),
        ("type: file, path: 'rtsp://10.0.0.1/1'", "is an address, but `type: file` reads files; for an address write"),
        ("type: image, path: 'https://10.0.0.1/a.jpg'", "is an address, but `type: image` reads files"),
        ("type: v4l2, device: 0", "give the path of one device file, such as /dev/video0"),
        ("type: stream, url: 'rtsp://10.0.0.1/1'", "in small letters; for rtsp:// write `type: rtsp`"),
    ],
)
def test_what_is_no_path_or_another_types_address_has_its_remedy(tmp_path: Path, source: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, CASCADE.replace("{type: pattern}", f"{{{source}}}"))
    assert text in str(caught.value)


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1]*.mp4").write_bytes(b"no video, which is seen later")
    load(tmp_path, CASCADE.replace("{type: pattern}", "{type: file, path: 'a[1]*.mp4'}"))


@pytest.mark.parametrize(
    ("front", "back", "device"),
    [
        ("{type: v4l2}", "{type: v4l2, device: /dev/video0, fps: 5}", "/dev/video0"),
        ("{type: v4l2, serial: A1}", "{type: v4l2, device: /dev/video2, serial: A1}", "serial A1"),
        ("{type: csi}", "{type: csi, sensor_id: 0}", "sensor 0"),
        ("{type: v4l2, serial: A1}", "{type: v4l2, serial: B2}", None),
        ("{type: csi}", "{type: csi, sensor_id: 1}", None),
        ("{type: csi}", "{type: csi}\n    enabled: false", None),
        ("{type: pattern}", "{type: pattern}", None),
    ],
)
def test_two_cameras_with_one_device_are_a_warning(tmp_path: Path, front: str, back: str, device: str | None) -> None:
    text = CASCADE.replace("{type: pattern}", front)
    text += f"  back:\n    source: {back}\n    classify: [{{model: parts}}]\n"
    warnings = load(tmp_path, text).warnings
    if device is None:
        assert warnings == ()
    else:
        (warning,) = warnings
        assert warning.startswith(f"{tmp_path}/agent.yaml:11: cameras.back.source: camera front also reads {device}")
