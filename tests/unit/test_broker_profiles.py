"""The limits of services: a configuration is compared with them, with both facts and the line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from agent.cli.config import config as config_command
from agent.config.loader import load_config
from agent.config.profiles import PROFILES, BrokerProfile, profile_of_host
from agent.config.sections.broker import ProfileName
from agent.runtime.errors import ConfigError
from agent.tools.doctor.broker import profile_findings
from agent.tools.profile_checks import ProfileReport, compare_with_profile
from engines import OutputSpec

GOOD = """\
version: 1
device: {id: line-3}
models:
  inspect: {package: demo}
cameras:
  front:
    source: {type: pattern}
    rate_hz: 15
    classify: [{model: inspect}]
mqtt:
  broker: mqtts://a.iot.eu-central-1.amazonaws.com
  profile: aws-iot
"""
_DOC = Path(__file__).parents[2] / "docs" / "brokers.md"


def _file(folder: Path, *changes: tuple[str, str]) -> Path:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


def _report(folder: Path, *changes: tuple[str, str]) -> ProfileReport:
    report = compare_with_profile(load_config(_file(folder, *changes), check_files=False))
    assert report is not None
    return report


def test_every_name_has_a_profile_with_figures_and_sources() -> None:
    assert tuple(PROFILES) == get_args(ProfileName)
    names = {field.name for field in fields(BrokerProfile)}
    for profile in PROFILES.values():
        assert profile.sources
        assert profile.max_payload_bytes is not None
        assert set(profile.unverified) <= names
        assert all(getattr(profile, name) is not None for name in profile.unverified)


def test_a_configuration_within_the_limits_has_no_error(tmp_path: Path) -> None:
    report = _report(tmp_path)
    assert report.errors == ()
    assert report.warnings == ()


def test_without_a_profile_nothing_is_compared(tmp_path: Path) -> None:
    assert compare_with_profile(load_config(_file(tmp_path, ("  profile: aws-iot\n", "")), check_files=False)) is None


_TWELVE = "".join(
    f"  c{n}: {{source: {{type: pattern}}, rate_hz: 10, classify: [{{model: inspect}}]}}\n" for n in range(12)
)


_ADDRESS = "mqtts://a.iot.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("  profile", "  prefix: a/b/c/d\n  profile"), 12, "has 9 levels, but AWS IoT Core accepts 8; shorten"),
        (("  profile", f"  prefix: {'p' * 122}\n  profile"), 12, "has 129 bytes, but AWS IoT Core accepts 128"),
        ((_ADDRESS, "mqtt://a"), 11, "mqtt://a:1883 has no TLS, but AWS IoT Core needs it; write mqtts://"),
        (
            (_ADDRESS, "[mqtts://a, 'ws://b']"),
            11,
            "ws://b:80/mqtt has no TLS, but AWS IoT Core needs it; write wss://",
        ),
        ((_ADDRESS, "embedded"), 12, "the broker is embedded"),
        (("  profile", "  home_assistant: {enabled: true, prefix: a/b/c/d/e/f}\n  profile"), 12, "has 9 levels"),
    ],
    ids=["levels", "client id", "clear text", "clear text in a list", "embedded", "Home Assistant"],
)
def test_what_the_service_refuses_is_an_error_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, words: str
) -> None:
    (error,) = _report(tmp_path, change).errors
    assert error.line == line
    assert words in error.message


@pytest.mark.parametrize("prefix", ["a/b/c", "p" * 121])
def test_a_prefix_up_to_the_limits_is_no_error(tmp_path: Path, prefix: str) -> None:
    assert _report(tmp_path, ("  profile", f"  prefix: {prefix}\n  profile")).errors == ()


def test_a_long_topic_is_an_error_at_what_makes_it_long(tmp_path: Path) -> None:
    names = "n" * 64
    changed = (("  front:", f"  {names}:"), ("[{model: inspect}]", f"[{{model: inspect, name: {names}}}]"))
    report = _report(tmp_path, *changed, ("  profile", f"  prefix: {'p' * 107}\n  client_id: a\n  profile"))
    (error,) = report.errors
    assert (error.line, error.key) == (9, f"cameras.{names}.classify[0]")
    assert "has 257 bytes, but AWS IoT Core accepts 256; shorten names or prefix" in error.message


@dataclass(frozen=True)
class Package:
    """A package with many classes, of which only the labels count here."""

    labels: tuple[str, ...]
    output: OutputSpec = field(default_factory=OutputSpec)
    name: str = "many"
    version: str = "1.0.0"
    sha256: str = "f" * 64


@pytest.mark.parametrize(("count", "is_large"), [(5000, False), (40_000, True)])
def test_messages_with_many_labels_are_compared_with_the_size_limit(
    tmp_path: Path, count: int, *, is_large: bool
) -> None:
    package = Package(tuple(f"label {number:05d}" for number in range(count)))
    loaded = load_config(_file(tmp_path), check_files=False)
    report = compare_with_profile(loaded, load=lambda _model: package)  # type: ignore[arg-type, return-value]  # see Package
    assert report is not None
    assert [error.key for error in report.errors] == ["models"] * is_large
    for error in report.errors:
        size = int(error.message.split("about ")[1].split(" ")[0].replace(",", ""))
        assert size > count * len('"label 00000",')
        assert "(40000 labels), but AWS IoT Core accepts 131,072 in a retained message" in error.message


def test_a_package_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    report = _report(tmp_path, ("package: demo", "package: none"))
    assert report.errors == ()
    assert "size was not compared with AWS IoT Core" in report.warnings[0].message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("rate_hz: 15", "rate_hz: 120")], ("front (1 x 120) make up to 120 results a second, but", "at most 90,")),
        ([("cameras:\n", f"cameras:\n{_TWELVE}")], ("make up to 135 results", "and 9 more cameras", "at most 6.9")),
        ([("    rate_hz: 15\n", "")], ("no rate_hz and no mqtt.results.max_hz", "100 messages a second")),
        ([("profile: aws-iot", "profile: emqx-serverless")], ("15 results a second, but", "accepts 10", "at most 9,")),
    ],
    ids=["one camera", "many cameras", "unknown rate", "10 a second"],
)  # fmt: skip
def test_more_results_than_the_service_takes_are_a_warning(
    tmp_path: Path, changes: Sequence[tuple[str, str]], words: Sequence[str]
) -> None:
    report = _report(tmp_path, *changes)
    assert report.errors == ()
    messages = " | ".join(problem.message for problem in report.warnings)
    for word in words:
        assert word in messages


def test_a_limit_on_results_or_a_disabled_camera_ends_the_warning(tmp_path: Path) -> None:
    fast = ("rate_hz: 15", "rate_hz: 120")
    for change in [
        ("  profile", "  results: {max_hz: 90}\n  profile"),
        ("    source", "    enabled: false\n    source"),
    ]:
        assert "results a second" not in str(_report(tmp_path, fast, change).warnings)


def test_config_check_prints_warnings_and_refuses_with_lines(tmp_path: Path) -> None:
    good = CliRunner().invoke(config_command, ["check", str(_file(tmp_path, ("rate_hz: 15", "rate_hz: 99")))])
    assert good.exit_code == 0
    assert f"{tmp_path}/agent.yaml:10: mqtt.results: front (1 x 99)" in good.output
    bad = CliRunner().invoke(config_command, ["check", str(_file(tmp_path, ("mqtts://", "mqtt://")))])
    assert isinstance(bad.exception, ConfigError)
    assert bad.exception.message.startswith(f"{tmp_path}/agent.yaml:11: mqtt.broker: mqtt://")


def test_profiles_are_printed_for_machines_and_people() -> None:
    printed = json.loads(CliRunner().invoke(config_command, ["profiles", "--json"]).output)
    assert printed["aws-iot"]["max_topic_levels"] == 8
    assert "max_publish_hz         100" in CliRunner().invoke(config_command, ["profiles", "aws-iot"]).output
    assert "there is no profile 'ibm'" in str(CliRunner().invoke(config_command, ["profiles", "ibm"]).exception)


def test_doctor_suggests_the_profile_of_a_known_address_and_applies_a_configured_one(tmp_path: Path) -> None:
    (finding,) = profile_findings(load_config(_file(tmp_path, ("  profile: aws-iot\n", "")), check_files=False))
    assert "set mqtt.profile: aws-iot" in finding.remedy
    found = list(profile_findings(load_config(_file(tmp_path, ("mqtts://", "mqtt://")), check_files=False)))
    assert [one.state for one in found] == ["failed"]
    found = list(profile_findings(load_config(_file(tmp_path), check_files=False)))
    assert [one.state for one in found] == ["ok"]
    found = list(profile_findings(load_config(_file(tmp_path, ("rate_hz: 15", "rate_hz: 99")), check_files=False)))
    assert [one.state for one in found] == ["warning"]
    hivemq = _file(tmp_path, ("profile: aws-iot", "profile: hivemq-cloud"))
    (finding,) = profile_findings(load_config(hivemq, check_files=False))
    assert "whose max_payload_bytes, max_client_id_bytes were found on none of its pages" in finding.detail


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a1b2-ats.iot.eu-central-1.amazonaws.com", "aws-iot"),
        ("ec2-1-2-3-4.compute.amazonaws.com", None),
        ("plant.westeurope-1.ts.eventgrid.azure.net", "azure-event-grid"),
        ("abc.s1.eu.hivemq.cloud", "hivemq-cloud"),
        ("x1.ala.eu-central-1.emqxsl.com", "emqx-serverless"),
        ("x1.emqx.cloud", "emqx-dedicated"),
        ("hivemq.cloud.example", None),
        ("", None),
    ],
)
def test_a_service_is_recognised_by_its_own_host_names_only(host: str, name: str | None) -> None:
    assert profile_of_host(host) == name


def test_the_documented_table_has_the_figures() -> None:
    rows = {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
        for line in _DOC.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `") and "mqtt.profile" not in line and len(cells := line.split("|")) == 9
    }
    assert set(rows) == set(PROFILES)
    for name, profile in PROFILES.items():
        shown = (
            profile.max_payload_bytes, profile.max_retained_bytes, profile.max_topic_levels, profile.max_publish_hz,
            profile.max_client_id_bytes, profile.max_filters,
        )  # fmt: skip
        assert rows[name] == ["" if figure is None else f"{figure:,}" for figure in shown], name


def test_every_documented_preset_is_valid_and_within_its_profile(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(mqtt:\n.*?)```", _DOC.read_text(encoding="utf-8"), re.DOTALL)
    presets = [block for block in blocks if "  profile:" in block]
    named = {re.search(r"  profile: ([\w-]+)", block)[1] for block in presets}  # type: ignore[index]  # checked above
    assert named == set(PROFILES)
    for block in presets:
        path = tmp_path / "agent.yaml"
        path.write_text(GOOD[: GOOD.index("mqtt:")].replace("rate_hz: 15", "rate_hz: 5") + block)
        report = compare_with_profile(load_config(path, check_files=False))
        assert report is not None
        assert report.errors == (), block
