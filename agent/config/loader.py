"""From a YAML file to one frozen configuration, or to one error with every fault and its line.

Nothing else in the agent reads the configuration file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from agent.config.checks.crosschecks import broker_problems, cross_problems, section_of, warnings_of
from agent.config.checks.files import file_problems, package_dir
from agent.config.device import MACHINE_ID_FILE, device_id_of_machine
from agent.config.model import AgentConfig, MqttConfig
from agent.config.problems import (
    Problem,
    at,
    error_of,
    problems_of_conversion,
    problems_of_validation,
    problems_of_values,
)
from agent.config.sections.base import Section
from agent.config.shape import KeyPath
from agent.config.source_address import known_addresses
from agent.config.state_dir import default_state_dir, resolved_path
from agent.runtime.errors import ConfigError
from agent.runtime.secrets import MIN_CHARS, Secret, SecretKind, read_secret
from engines import MAX_YAML_BYTES as MAX_BYTES
from engines import StrictDocument, StrictYamlError, load_strict

if TYPE_CHECKING:
    from engines import ModelPackage

MQTT_PASSWORD = "mqtt-password"  # noqa: S105 - the name of a file
"""The file beside the configuration, and the systemd credential, used if ``mqtt.password_file`` names none."""
_MQTT_PASSWORD: KeyPath = ("mqtt", "password_file")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that passed every check, and what this machine adds to it.

    Relative paths start at ``base_dir``. ``sha256`` is of the configuration with its defaults, so comments and the
    order of keys do not change it. ``warnings`` are lines for people. ``mqtt_password_file`` may be the one beside the
    configuration, or a systemd credential. Passwords are None or absent if the configuration names none, and if files
    were not checked.
    """

    config: AgentConfig
    path: Path
    base_dir: Path
    sha256: str
    device_id: str
    device_name: str
    state_dir: Path
    warnings: tuple[str, ...]
    mqtt_password: Secret | None
    mqtt_password_file: Path | None
    camera_passwords: Mapping[str, Secret]
    document: StrictDocument = field(repr=False)
    addresses: tuple[Secret, ...] = field(repr=False)
    """Addresses of sources as they stand in the file; no output repeats them while this lives."""

    def resolve(self, path: str) -> Path:
        """The absolute path of a path in the file."""
        return resolved_path(path, self.base_dir)

    def package_dir(self, model: str) -> Path:
        """The package directory of one model, by its key under ``models``."""
        return package_dir(self.config.models[model].package, self.base_dir)

    def read_package(self, model: str, cache_dir: Path | None) -> ModelPackage:
        """The package of one model, by its key under ``models``; see ``load_unknown_package``.

        Raises:
            ConfigError: the file asks for ``features``, and the package names no embedding.
        """
        from engines import load_unknown_package  # reading a configuration needs no library for models

        config = self.config.models[model]
        package = load_unknown_package(self.package_dir(model), cache_dir, max_bytes=config.max_file_bytes)
        if not config.features:
            return package
        if package.output.features is None:
            text = (
                f"features is true, but the package of model {model} names no embedding; import it with --features "
                "NAME (output.features of its manifest), or remove features"
            )
            raise error_of([at(self.document, ("models", model, "features"), text)], self.document.name)
        return package.with_features()

    def resolved_mqtt(self) -> MqttConfig:
        """The section ``mqtt`` with absolute paths."""
        mqtt = self.config.mqtt
        headers = {name: str(self.resolve(file)) for name, file in mqtt.websocket.header_files.items()}
        return mqtt.model_copy(
            update={
                **self._resolved_files(mqtt),
                "tls": mqtt.tls.model_copy(update=self._resolved_files(mqtt.tls)),
                "websocket": mqtt.websocket.model_copy(update={"header_files": headers}),
                "proxy": mqtt.proxy and mqtt.proxy.model_copy(update=self._resolved_files(mqtt.proxy)),
            }
        )

    def _resolved_files(self, section: Section) -> dict[str, str]:
        """The keys of ``section`` that name a file, with absolute paths."""
        return {key: str(self.resolve(value)) for key, value in _files_of(section)}


def load_config(
    path: Path,
    *,
    check_files: bool = True,
    environ: Mapping[str, str] | None = None,
    machine_id_file: Path = MACHINE_ID_FILE,
) -> LoadedConfig:
    """Read, check and resolve one configuration file.

    ``check_files=False`` skips what depends on the rest of the machine: whether the named files exist, and the
    passwords. ``environ`` is the process's environment if it is None.

    Raises:
        ConfigError: the message has one line for each fault, ``file:line: key.path: what is wrong; what to do``.
    """
    environ = os.environ if environ is None else environ
    document = _parsed(_text_of(path), str(path))
    base_dir = path.absolute().parent
    config, problems = _validated(document)
    secrets: dict[KeyPath, Secret] = {}
    if check_files:
        problems += file_problems(document, base_dir)
        secrets.update(_secrets(document, base_dir, problems))
    if config is None:
        raise error_of(problems, document.name)
    password_file = _mqtt_password_file(config, base_dir, environ)
    if check_files and password_file is not None and config.mqtt.password_file is None:
        secrets.update(_secret(password_file, _MQTT_PASSWORD, document, problems, SecretKind.MQTT_PASSWORD))
    if problems:
        raise error_of(problems, document.name)
    device_id = device_id_of_machine(machine_id_file) if config.device.id == "auto" else config.device.id
    return LoadedConfig(
        config=config,
        path=path,
        base_dir=base_dir,
        sha256=_digest(config),
        device_id=device_id,
        device_name=config.device.name or device_id,
        state_dir=_state_dir(config, base_dir, environ),
        warnings=(
            *_warnings(config, document),
            *_short_secrets(secrets, document),
            *_unreadable_password(config, base_dir, password_file),
        ),
        mqtt_password=secrets.get(_MQTT_PASSWORD),
        mqtt_password_file=password_file,
        camera_passwords=MappingProxyType(_camera_passwords(secrets)),
        document=document,
        addresses=known_addresses([camera.source for camera in config.cameras.values()]),
    )


def _state_dir(config: AgentConfig, base_dir: Path, environ: Mapping[str, str]) -> Path:
    given = config.state_dir
    return default_state_dir(environ) if given == "auto" else resolved_path(given, base_dir)


def _warnings(config: AgentConfig, document: StrictDocument) -> Iterator[str]:
    return (problem.text(document.name) for problem in sorted(warnings_of(config, document), key=_line))


def _short_secrets(secrets: Mapping[KeyPath, Secret], document: StrictDocument) -> Iterator[str]:
    """A warning for each short secret: it looks like an ordinary word."""
    for path, secret in secrets.items():
        count = len(secret.reveal())
        if count < MIN_CHARS:
            text = (
                f"the secret in this file has {count} characters, but fewer than {MIN_CHARS} are part of ordinary "
                "words: the log masks it only where it stands alone, and such a word elsewhere too; use a longer "
                "one"
            )
            yield at(document, path, text).text(document.name)


def _line(problem: Problem) -> int:
    return problem.line


def _text_of(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a file; give the path of a configuration file", file=str(path))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        remedy = "give the path of a readable file"
        if isinstance(exc, PermissionError):
            remedy = f"give user number {os.geteuid()}, who runs the agent, the right to read it"
        raise ConfigError(
            f"the configuration {path} cannot be read: {exc.strerror}; {remedy}",
            file=str(path),
        ) from exc
    except ValueError as exc:
        raise ConfigError(f"{str(path)!r} is not a possible path: {exc}") from exc
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError(
            f"{path}:{line}: the file is not UTF-8 text (byte 0x{content[exc.start]:02x}); save it as UTF-8",
            file=str(path),
            line=line,
        ) from exc


def _parsed(text: str, name: str) -> StrictDocument:
    try:
        document = load_strict(text, name=name)
    except StrictYamlError as exc:
        raise ConfigError(str(exc), file=name, line=exc.line) from exc
    if document.data is None:
        raise ConfigError(f"{name}:1: the file is empty; start from one of the files in configs/", file=name, line=1)
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{name}:{document.line_of(())}: the file must be lines of `key: value`; it starts with a list or text",
            file=name,
            line=document.line_of(()),
        )
    problems = [*problems_of_values(document)]
    if problems:  # nothing can be asked about a path with a null byte
        raise error_of(problems, document.name)
    return document


def _validated(document: StrictDocument) -> tuple[AgentConfig | None, list[Problem]]:
    """The configuration, and every fault that does not depend on the machine; None if there is no reading it."""
    try:
        # Through JSON, because strict validation of Python data refuses lists where the model has tuples.
        config = AgentConfig.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as exc:
        problems = [*problems_of_validation(exc, document), *cross_problems(document)]
        # A section with a wrong value is not looked at as a whole, and so neither are its addresses.
        if not any(problem.key.startswith("mqtt.broker") for problem in problems):
            problems += broker_problems(document)
        return None, problems
    found = problems_of_conversion(document, config.model_dump(mode="json"))
    return config, [*found, *cross_problems(document)]


def _digest(config: AgentConfig) -> str:
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _files_of(section: Section) -> Iterator[tuple[str, str]]:
    """The keys of a section that name a file, with their values."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        if key.endswith("_file") and isinstance(value, str):
            yield key, value


def _mqtt_password_file(config: AgentConfig, base_dir: Path, environ: Mapping[str, str]) -> Path | None:
    """The configured file; else ``mqtt-password`` beside the configuration; else a systemd credential of that name.

    The credential comes last, because systemd copies it at the start: a new password would need a restart. An empty
    file counts as absent.
    """
    if config.mqtt.password_file is not None:
        return resolved_path(config.mqtt.password_file, base_dir)
    beside = base_dir / MQTT_PASSWORD
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(credentials) / MQTT_PASSWORD if credentials else None
    if _has_content(beside) and (os.access(beside, os.R_OK) or not _has_content(credential)):
        return beside
    return credential if _has_content(credential) else None


def _unreadable_password(config: AgentConfig, base_dir: Path, taken: Path | None) -> Iterator[str]:
    beside = base_dir / MQTT_PASSWORD
    if config.mqtt.password_file is None and taken is not None and taken != beside and _has_content(beside):
        yield (
            f"{beside} cannot be read by user number {os.geteuid()}, who runs the agent, so the password is the one "
            "that systemd read at the start, and a new one needs a restart. Run: "
            f"chown root:agent {beside} && chmod 640 {beside}"
        )


def _has_content(file: Path | None) -> bool:
    try:
        return file is not None and file.is_file() and file.stat().st_size > 0
    except OSError:  # in a folder that this user cannot enter
        return False


def _camera_passwords(secrets: Mapping[KeyPath, Secret]) -> dict[str, Secret]:
    return {str(path[1]): secret for path, secret in secrets.items() if path[0] == "cameras"}


def _secrets(document: StrictDocument, base_dir: Path, problems: list[Problem]) -> Iterator[tuple[KeyPath, Secret]]:
    """Every secret whose file is named. From the file's plain data, as ``file_problems``.

    Those of the connection are read again at each connection; here their files are tried.
    """
    for path, file, kind in _secret_files(document.data):
        if isinstance(file, str):
            yield from _secret(resolved_path(file, base_dir), path, document, problems, kind)


def _secret_files(data: object) -> Iterator[tuple[KeyPath, object, SecretKind]]:
    """The places that name a file with a secret, and what stands there."""
    mqtt = section_of(data, "mqtt")
    yield _MQTT_PASSWORD, mqtt.get("password_file"), SecretKind.MQTT_PASSWORD
    for name, file in section_of(mqtt, "websocket", "header_files").items():
        yield ("mqtt", "websocket", "header_files", name), file, SecretKind.HEADER
    key_password = section_of(mqtt, "tls").get("key_password_file")
    yield ("mqtt", "tls", "key_password_file"), key_password, SecretKind.KEY_PASSWORD
    proxy_password = section_of(mqtt, "proxy").get("password_file")
    yield ("mqtt", "proxy", "password_file"), proxy_password, SecretKind.PROXY_PASSWORD
    for name, camera in section_of(data, "cameras").items():
        file = section_of(camera, "source").get("password_file")
        yield ("cameras", name, "source", "password_file"), file, SecretKind.PASSWORD


def _secret(
    file: Path, path: KeyPath, document: StrictDocument, problems: list[Problem], kind: SecretKind
) -> Iterator[tuple[KeyPath, Secret]]:
    try:
        yield path, read_secret(file, kind)
    except ConfigError as exc:
        problems.append(at(document, path, exc.message))
