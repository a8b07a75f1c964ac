"""Label files: every accepted format gives the same labels, every other is refused with a reason."""

from __future__ import annotations

import re

import pytest

from engines.errors import ModelRejected
from engines.package.labels import fit_labels, parse_labels, repeated_labels

WANTED = ("tench, Tinca tinca", "goldfish", "great white shark")


@pytest.mark.parametrize(
    "text",
    [
        "tench, Tinca tinca\ngoldfish\ngreat white shark\n",
        "\ufefftench, Tinca tinca\r\ngoldfish\r\ngreat white shark\r\n\r\n\r\n",
        "0,tench, Tinca tinca\n1,goldfish\n2,great white shark\n",
        '0,"tench, Tinca tinca"\n1,goldfish\n2,"great white shark"\n',
        "0: tench, Tinca tinca\n1: goldfish\n2: great white shark",
        "0 tench, Tinca tinca\n1 goldfish\n2 great white shark",
        "2;great white shark\n0;tench, Tinca tinca\n1;goldfish",
        "index,label\n0,tench, Tinca tinca\n1,goldfish\n2,great white shark",
        'label,id\n"great white shark",2\n"tench, Tinca tinca",0\ngoldfish,1\n',
        "Display Name;MID;Class ID\ngoldfish;/m/1;1\ntench, Tinca tinca;/m/0;0\ngreat white shark;/m/2;2\n",
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\nn01484850 great white shark\n",
        '["tench, Tinca tinca", "goldfish", "great white shark"]',
        '\n {"0": "tench, Tinca tinca", "2": "great white shark", "1": "goldfish"}',
        '{"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "goldfish"], "2": ["n0", "great white shark"]}',
        '{"goldfish": 1, "tench, Tinca tinca": 0, "great white shark": 2}',
    ],
)
def test_every_shape_gives_the_same_labels(text: str) -> None:
    assert parse_labels(text.encode(), name="labels") == WANTED


def test_labels_that_are_numbers_stay_labels() -> None:
    assert parse_labels(b"0\n1\n2\n", name="labels") == ("0", "1", "2")
    assert parse_labels(b"1 euro\n2 euro\n5 euro\n", name="labels") == ("1 euro", "2 euro", "5 euro")


def test_a_number_that_alone_tells_two_classes_apart_is_part_of_the_name() -> None:
    assert parse_labels(b"0 people\n1 people\n2 people\n", name="labels") == ("0 people", "1 people", "2 people")


def test_labels_of_several_classes_are_found() -> None:
    assert repeated_labels(("ok", "dent", "ok", "scratch", "dent")) == ["ok", "dent"]
    assert repeated_labels(("ok", "dent")) == []


def test_numbers_may_start_at_the_offset() -> None:
    assert parse_labels(b"1: cat\n2: dog\n", name="labels", offset=1) == ("cat", "dog")
    assert parse_labels(b"dog,2\ncat,1\n", name="labels", offset=1) == ("cat", "dog")


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (b"", ["no labels", "0 bytes"]),
        (b" \r\n\r\n", ["no labels", "5 bytes"]),
        (b"cat\n\ndog\n", ["labels:2", "blank line"]),
        (b"caf\xe9\n", ["labels:1", "UTF-8"]),
        ("cat\ndog".encode("utf-16"), ["UTF-16", "UTF-8"]),
        (b"1: cat\n2: dog\n", ["begin at 1", "offset: 1"]),
        (b"cat,1\ndog,2\n", ["begin at 1", "offset: 1"]),
        (b"dog,6\ncat,5\n", ["begin at 5"]),
        (b"0: cat\n2: dog\n", ["0 to 1", "1 is missing"]),
        (b"0: cat\n0: dog\n", ["0 to 1", "0 is there twice"]),
        (b"my trees\n0,cat\n1,dog\n", ["'my trees'", "0,name", "header"]),
        (b"0,cat\n1,dog\nbird\n", ["'bird'", "0,name"]),
        (b"name,index\ncat,0\ndog,one\n", ["labels:3", "'dog,one'", "'name,index'", "under 'index'"]),
        (b"name,index\nca\rt,0\ndog,1\n", ["label 1", "control"]),
        (b"name,index\ncat,0\ndog,2\n", ["0 to 1", "1 is missing"]),
        (b"n01440764 tench\ngoldfish\n", ["'goldfish'", "n01440764 name"]),
        (b'["cat", 3]', ["item 1", "3"]),
        (b'["cat", ""]', ["label 1", "empty"]),
        (b'["cat\\u0007"]', ["label 0", "control"]),
        (b'["cat\\ud800"]', ["label 0", "control"]),
        (b'["cat"', ["labels:1", "JSON"]),
        (b'{"0": "cat", "0": "dog"}', ["0 is there twice"]),
        (b'{"0": "cat", "x": "dog"}', ["'x'", "'dog'"]),
        (b"[" * 100_000, ["JSON"]),
        (b"x" * 600, ["label 0", "512"]),
        (b"x\n" * (9 << 20), [str(18 << 20), str(16 << 20)]),
    ],
)
def test_other_files_are_refused_with_the_reason(data: bytes, facts: list[str]) -> None:
    with pytest.raises(ModelRejected) as caught:
        parse_labels(data, name="labels")
    for fact in facts:
        assert fact in caught.value.message


@pytest.mark.parametrize(
    ("labels", "classes", "offset", "hint"),
    [
        (("a", "b"), 3, 0, "labels.offset: 1"),
        (("a", "b", "c"), 3, 1, "labels.offset: 0"),
        (("labels", "a", "b"), 2, 0, "header"),
        (("background", "a", "b"), 2, 0, "does not have"),
        (("a", "b"), 9, 0, "one label per class"),
        (("ok", "a dent"), 1, 0, "--task binary --positive 'a dent'"),
    ],
)
def test_a_wrong_count_is_refused_with_both_numbers_and_a_hint(
    labels: tuple[str, ...], classes: int, offset: int, hint: str
) -> None:
    with pytest.raises(ModelRejected) as caught:
        fit_labels(labels, classes=classes, offset=offset, name="labels.txt")
    assert f"{len(labels)} labels" in caught.value.message
    assert f"{classes} classes" in caught.value.message
    assert hint in caught.value.message


def test_offset_one_puts_the_background_class_first() -> None:
    assert fit_labels(("a", "b"), classes=3, offset=1, name="labels.txt") == ("background", "a", "b")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"0": ' + b"9" * 5000 + b"}", "has 5000 digits"),
        (b"[" + b"9" * 5000 + b"]", "has 5000 digits"),
        (b'{"' + b"1" * 5000 + b'": "x"}', "is neither"),
        (b'{"a": ' + b"[" * 400 + b"]" * 400 + b"}", "a list is neither"),
        (b"[" * 400 + b"]" * 400, "item 0 of the JSON list is not text: a list"),
        (b"[" * 100_000, "begins like JSON but is not"),
        (b"a\n" * 2_000_002, "more than 1000000 labels"),
        (b'["a"' + b',"a"' * 2_000_001 + b"]", "more than 1000000 labels"),
    ],
    ids=["number", "item", "key", "deep-value", "deep-item", "deeper", "lines", "items"],
)
def test_what_is_far_beyond_any_list_of_labels_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ModelRejected, match=re.escape(words)):
        parse_labels(data, name="labels.txt")
