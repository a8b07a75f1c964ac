"""Mistakes in the manifest are refused with file, line and the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import ModelRejected
from engines.package.manifest import parse_manifest, read_manifest

GOOD = """name: trees
version: 1.0.0
file: model.onnx
sha256: {digest}
input:
  width: 8
  height: 6
  color: rgb
  resize: stretch
  scale: 1
output: {{activation: softmax}}
labels: {{file: labels.txt}}
golden:
  - {{image: a.png, label: ash}}
""".format(digest="6f0c" * 16)


def refusal(text: str) -> str:
    with pytest.raises(ModelRejected) as caught:
        parse_manifest(text, name="model.yaml")
    return caught.value.message


def test_a_valid_manifest_is_accepted() -> None:
    manifest = parse_manifest(GOOD, name="model.yaml")
    assert (manifest.input.scale, manifest.labels.offset, manifest.golden[0].min_confidence) == (1.0, 0, 0.0)


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("  scale: 1", "  skale: 1", ["model.yaml:10", "input.skale", "did you mean scale?"]),
        ("labels: {", "labells: {", ["model.yaml:12", "did you mean labels?", "labels: missing"]),
        ("label: ash", "lable: ash", ["model.yaml:14", "golden[0].lable", "did you mean label?"]),
        ("  scale: 1", "  width: 9", ["model.yaml:10", "'width' is there twice", "line 6"]),
        ("width: 8", "width: '8'", ["model.yaml:6", "input.width", "'8'", "integer"]),
        ("width: 8", "width: 0", ["model.yaml:6", "is 0", "greater than or equal to 1"]),
        ("width: 8", "width: 010", ["model.yaml:6", "010"]),
        ("width: 8", "width: 9000", ["model.yaml:6", "9000", "8192"]),
        ("color: rgb", "color: cmyk", ["model.yaml:8", "'cmyk'", "'rgb', 'bgr' or 'gray'"]),
        ("color: rgb", "color: no", ["model.yaml:8", "no", "quote"]),
        ("version: 1.0.0", "version: 1.0", ["model.yaml:2", "1.0", "Quote it"]),
        ("name: trees", "name: Trees", ["model.yaml:1", "'Trees'", "pattern"]),
        ("name: trees", "name: ../trees", ["model.yaml:1", "'../trees'", "pattern"]),
        ("name: trees", "name: " + "x" * 65, ["model.yaml:1", "pattern"]),
        ("sha256: 6f", "sha256: ZZ", ["model.yaml:4", "pattern"]),
        ("  scale: 1", "  scale: 0", ["model.yaml:5", "scale is 0"]),
        ("  scale: 1", "  mean: [1, 2]", ["model.yaml:5", "mean has 2 values", "3 channels"]),
        ("  scale: 1", "  std: [1, 0, 1]", ["model.yaml:5", "std must be above 0"]),
        ("  scale: 1", "  resize_to: 9", ["model.yaml:5", "resize_to", "resize is stretch"]),
        ("resize: stretch", "resize: shorter_side", ["model.yaml:5", "needs resize_to"]),
        ("  scale: 1", "  scale: &a 1", ["model.yaml:10", "anchor"]),
        ("labels.txt}", "labels.txt, offset: 2}", ["model.yaml:12", "offset", "0 or 1"]),
        ("label: ash}", "label: ash, min_confidence: 1.5}", ["model.yaml:14", "1.5"]),
        ("label: ash}", "label: 3}", ["model.yaml:14", "is 3", "Quote it"]),
        ("output: {activation: softmax}", "output: {}", ["model.yaml:11", "output.activation: missing"]),
        ("output: {activation: softmax}", "output: softmax", ["model.yaml:11", "'softmax'"]),
    ],
)
def test_a_mistake_is_refused_with_line_and_fact(old: str, new: str, facts: list[str]) -> None:
    assert old in GOOD
    message = refusal(GOOD.replace(old, new))
    for fact in facts:
        assert fact in message


def test_a_crop_larger_than_the_shorter_side_is_refused_with_both() -> None:
    message = refusal(GOOD.replace("resize: stretch", "resize: shorter_side\n  resize_to: 7"))
    assert "resize_to is 7" in message
    assert "8x6" in message


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "3\n"])
def test_a_manifest_that_is_no_mapping_is_refused(text: str) -> None:
    assert "keys and values" in refusal(text)


def test_several_mistakes_are_reported_together() -> None:
    message = refusal("name: trees\n")
    assert message.count("missing") == 5
    assert "and 1 more" in message


def test_the_manifest_in_the_documentation_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert parse_manifest(block, name="docs/models.md").name == "conveyor"


def test_an_unreadable_path_is_refused_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="cannot be reached: File name too long"):
        read_manifest(tmp_path / ("x" * 300))
