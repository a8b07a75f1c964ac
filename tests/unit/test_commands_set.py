"""`set` changes what it names and nothing else, whatever lies on the disk meanwhile."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest

from agent.cameras.sources.choose import make_source
from agent.commands.contract import CommandRefused
from agent.commands.handlers import CommandHandlers, HandlerParts
from agent.commands.requests import Set
from agent.config.loader import LoadedConfig, load_config
from agent.config.model import AgentConfig
from agent.demo import demo_package
from agent.inference.pipeline import Parts, Pipeline
from agent.mqtt.topics import Topics
from agent.reload import Reloader, load_packages
from agent.runtime.clock import SystemClock
from engines import ModelRejected
from tests.fixtures.agent_process import write_config
from tests.fixtures.packages import PackageFiles, TinyModel
from tests.fixtures.parts import BrightnessEngine


class _Agent:
    """Cameras `front` and `back` on one model, `spare` (disabled) on another; every package is a copy on the disk."""

    def __init__(self, folder: Path, package_of: Path | None = None) -> None:
        self.packages = {key: folder / key for key in ("inspect", "other")}
        for package in self.packages.values():
            shutil.copytree(package_of or demo_package(), package)
        cameras = {
            name: {"source": {"type": "pattern"}, "classify": [{"model": model}], "enabled": name != "spare"}
            for name, model in (("front", "inspect"), ("back", "inspect"), ("spare", "other"))
        }
        models = {key: {"package": str(package)} for key, package in self.packages.items()}
        self.path = write_config(folder, {"models": models, "cameras": cameras})
        loaded = load_config(self.path)
        packages = load_packages(loaded)
        self.prepared: list[LoadedConfig] = []
        self.expected: list[LoadedConfig] = []
        self.in_force = loaded
        make = partial(make_source, base_dir=folder, clock=SystemClock())
        parts = Parts(lambda key, config, package, building: BrightnessEngine(len(package.labels)), make)
        self.pipeline = Pipeline(loaded.config, packages, parts, clock=SystemClock(), emit=lambda record: None)
        self.reloader = Reloader(
            loaded,
            packages,
            self.pipeline,
            others=[self.prepared.append],
            expect_cameras=self.expected.append,
            on_applied=lambda loaded, _: setattr(self, "in_force", loaded),
        )
        self.handlers = CommandHandlers(
            HandlerParts(
                pipeline=self.pipeline,
                topics=Topics("edge", "device"),
                state_dir=folder,
                base=lambda: replace(self.in_force, config=AgentConfig.model_validate(self.in_force.document.data)),
                publish=lambda packet: None,
                adjust=self.reloader.adjust,
                reload=self.reloader.reload_now,
                rebirth=lambda: None,
            )
        )

    def set(self, camera: str, **changes: object) -> None:
        expires_at = datetime.now(timezone.utc) + timedelta(minutes=1)
        self.handlers.set(Set.model_validate({"id": "1", "expires_at": expires_at, "camera": camera, **changes}))

    def version(self, model: str) -> str:
        return self.pipeline.workers[model].package.version

    def publish_version(self, model: str, version: str) -> None:
        manifest = self.packages[model] / "model.yaml"
        lines = manifest.read_text(encoding="utf-8").splitlines()
        changed = [f"version: {version}" if line.startswith("version:") else line for line in lines]
        assert changed != lines
        manifest.write_text("\n".join(changed), encoding="utf-8")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[_Agent]:
    agent = _Agent(tmp_path)
    with agent.pipeline:
        agent.pipeline.start_workers()
        for worker in agent.pipeline.workers.values():
            assert worker.wait_ready(5)
        agent.pipeline.start_cameras()
        yield agent


def test_set_changes_the_rate_and_leaves_worker_and_package_as_they_are(agent: _Agent) -> None:
    worker, before = agent.pipeline.workers["inspect"], agent.version("inspect")
    agent.publish_version("inspect", "9.0.0")
    agent.set("front", rate_hz=5.0)
    assert agent.pipeline.cameras["front"].config.rate_hz == 5.0
    assert agent.pipeline.workers["inspect"] is worker
    assert agent.version("inspect") == before
    assert agent.prepared == [], "connection, thermal monitor and their files are not looked at"


def test_set_works_while_a_package_is_half_copied(agent: _Agent) -> None:
    shutil.rmtree(agent.packages["inspect"])
    agent.packages["inspect"].mkdir()
    agent.set("front", rate_hz=5.0)
    assert agent.pipeline.cameras["front"].config.rate_hz == 5.0


def test_set_works_while_the_file_is_broken_and_takes_nothing_from_it(agent: _Agent) -> None:
    text = agent.path.read_text(encoding="utf-8")
    agent.path.write_text("cameras: [", encoding="utf-8")
    agent.set("front", rate_hz=5.0)
    assert text.count("pattern") == 3
    agent.path.write_text(text.replace("pattern", "nonsense"), encoding="utf-8")
    agent.set("back", rate_hz=7.0)
    rates = {name: camera.config.rate_hz for name, camera in agent.pipeline.cameras.items()}
    assert rates == {"front": 5.0, "back": 7.0}


def test_a_model_whose_cameras_were_disabled_comes_back_as_it_was(agent: _Agent) -> None:
    agent.set("spare", enabled=True)
    assert agent.expected[0].config.cameras["spare"].enabled, "its retained topics are known before they are sent"
    before = agent.version("other")
    agent.set("spare", enabled=False)
    assert "other" not in agent.pipeline.workers
    agent.publish_version("other", "9.0.0")
    agent.set("spare", enabled=True)
    assert agent.version("other") == before
    assert agent.handlers.reload() == {"outcome": "applied"}
    assert "other" not in agent.pipeline.workers, "the file disables the camera"
    agent.set("spare", enabled=True)
    assert agent.version("other") == "9.0.0", "the file was read again"


def test_a_camera_whose_model_cannot_be_read_is_refused_and_nothing_changes(agent: _Agent) -> None:
    (agent.packages["other"] / "model.yaml").unlink()
    with pytest.raises(ModelRejected):
        agent.set("spare", enabled=True)
    assert set(agent.pipeline.cameras) == {"front", "back"}
    agent.set("front", rate_hz=5.0)
    assert set(agent.pipeline.cameras) == {"front", "back"}, "the refused change does not come with the next one"


def test_set_changes_one_label_of_several_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    files = PackageFiles.of(TinyModel(ending="sigmoid"))
    files.manifest["output"]["thresholds"] = {"birch": 0.4}
    agent = _Agent(tmp_path, files.write(tmp_path))
    ask = partial(agent.set, "front", classifier="inspect")
    ask(label="ash", enter=0.9, exit=0.6)
    (use,) = agent.in_force.config.cameras["front"].classify
    assert (use.decide.rule("ash").enter, use.decide.rule("ash").exit, use.decide.enter) == (0.9, 0.6, 0.7)
    ask(label="ash", enter=0.8)
    (use,) = agent.in_force.config.cameras["front"].classify
    assert (use.decide.rule("ash").enter, use.decide.rule("ash").exit) == (0.8, 0.6)
    for changes, words in (
        ({"label": "asch", "enter": 0.5}, "there is no label 'asch'; the configuration has ash, birch"),
        ({"label": "birch", "exit": 0.5}, "exit 0.5 is above the enter of `birch`, 0.4"),
        ({"label": "elm", "exit": 0.9}, "exit 0.9 is above the enter of `elm`, 0.7"),
    ):
        with pytest.raises(CommandRefused, match=re.escape(words)):
            ask(**changes)
    ask(label="elm", exit=0.65)
    with pytest.raises(CommandRefused, match=re.escape("exit 0.65 is above the enter of `elm`, 0.6")):
        ask(enter=0.6, exit=0.5)
    with pytest.raises(CommandRefused, match="model other is not loaded"):
        agent.set("spare", classifier="other", label="ash", enter=0.5)


def test_set_of_a_label_is_refused_for_a_model_that_chooses_one(agent: _Agent) -> None:
    with pytest.raises(CommandRefused, match="model inspect chooses one label; leave label out"):
        agent.set("front", classifier="inspect", label="dent", enter=0.5)


@pytest.mark.parametrize("changes", [{"label": "ash", "enter": 0.5}, {"classifier": "inspect", "label": "ash"}])
def test_a_label_without_its_classifier_or_a_threshold_is_no_request(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"classifier|nothing to change"):
        Set.model_validate({"id": "1", "camera": "front", **changes})
