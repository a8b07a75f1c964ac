"""The container's files agree with each other and keep what docs/containers.md promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scripts.dockerfile import DockerfileError, Image, instructions, is_ignored, read_image

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "scripts" / "container"


@pytest.fixture
def image() -> Image:
    return read_image((_FOLDER / "Dockerfile").read_text())


@pytest.fixture
def services() -> dict[str, dict[str, object]]:
    loaded = yaml.safe_load((_FOLDER / "compose.yaml").read_text())
    services: dict[str, dict[str, object]] = loaded["services"]
    return services


def test_lines_are_joined_and_comments_left_out() -> None:
    read = list(instructions("# one\nFROM a\nRUN x \\\n# between\n && y\n\nUSER 1:1\n"))
    assert [(one.keyword, one.text) for one in read] == [("FROM", "a"), ("RUN", "x  && y"), ("USER", "1:1")]


@pytest.mark.parametrize(
    ("text", "words"), [("ADD a b", "ADD is not supported"), ("CMD agent run", "CMD is no JSON list")]
)
def test_what_is_not_understood_is_refused(text: str, words: str) -> None:
    with pytest.raises(DockerfileError, match=words):
        read_image(text)


def test_the_base_is_pinned_and_can_be_named(image: Image) -> None:
    assert re.fullmatch(r"debian:\d+\.\d+-slim", image.base), image.base
    assert image.arguments["BASE"] == image.base
    assert image.labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_agent_is_process_1_and_not_root(image: Image) -> None:
    assert image.entrypoint == ["agent"]
    assert image.command[:2] == ["run", "--config"]
    user, _, group = image.user.partition(":")
    assert int(user) > 0
    assert int(group) > 0, "the agent could write to files of root's group"
    assert image.stop_signal == "SIGTERM"


def test_the_health_check_reads_the_file_that_the_agent_writes(image: Image) -> None:
    assert image.health == ["agent", "health"]
    assert image.variables["AGENT_ALIVE_FILE"].startswith("/run/agent/")
    assert image.volumes == [image.variables["STATE_DIRECTORY"]]


def test_the_build_context_holds_what_is_copied_and_no_secret(image: Image) -> None:
    ignore = (_ROOT / ".dockerignore").read_text().splitlines()
    sources = [name for step, _ in image.steps if step.keyword == "COPY" for name in step.text.split()[:-1]]
    assert {"agent", "engines", "pyproject.toml", "scripts/build_commands.py"} <= set(sources)
    for name in sources:
        assert (_ROOT / name).exists(), name
        assert not is_ignored(name, ignore), f"{name} is copied and left out of the build context"
    for name in (".git", "scripts/container/mqtt-password", "configs/other.yaml", "agent/cli/__pycache__"):
        assert is_ignored(name, ignore), f"{name} would be sent to the builder"


def test_the_password_is_in_no_image_and_in_no_checkout(image: Image) -> None:
    assert "/scripts/container/mqtt-password" in (_ROOT / ".gitignore").read_text().splitlines()
    assert not any("password" in step.text.lower() for step, _ in image.steps)


def test_every_service_is_pinned_read_only_and_without_rights(
    services: dict[str, dict[str, object]], image: Image
) -> None:
    assert set(services) == {"broker", "agent"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert re.fullmatch(r"eclipse-mosquitto:\d+\.\d+\.\d+", str(services["broker"]["image"]))
    assert services["broker"]["user"] == image.user, "one password file serves both"


def test_what_the_agent_writes_to_is_writable_and_nothing_else(
    services: dict[str, dict[str, object]], image: Image
) -> None:
    agent = services["agent"]
    volumes = agent["volumes"]
    assert isinstance(volumes, list)
    assert f"state:{image.variables['STATE_DIRECTORY']}" in volumes
    assert [one for one in volumes if not one.startswith("state:")] == ["./agent.yaml:/etc/agent/agent.yaml:ro"]
    tmpfs = agent["tmpfs"]
    assert isinstance(tmpfs, list)
    assert any(one.startswith(str(Path(image.variables["AGENT_ALIVE_FILE"]).parent)) for one in tmpfs)


def test_the_configurations_of_both_sides_fit(services: dict[str, dict[str, object]]) -> None:
    agent = yaml.safe_load((_FOLDER / "agent.yaml").read_text())
    broker = (_FOLDER / "mosquitto.conf").read_text()
    port = re.search(r"^listener (\d+)$", broker, re.MULTILINE)
    assert port is not None
    assert agent["mqtt"]["broker"] == f"mqtt://broker:{port[1]}"
    assert "allow_anonymous false" in broker
    assert services["agent"]["secrets"] == services["broker"]["secrets"] == ["mqtt-password"]
    assert agent["mqtt"]["password_file"] == "/run/secrets/mqtt-password"
