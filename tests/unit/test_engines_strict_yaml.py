"""The strict YAML reader: what it accepts, which positions it reports, and what it refuses."""

from __future__ import annotations

import pytest

from engines.package.strict_yaml import MAX_BYTES, StrictYamlError, load_strict, nearest_key, parse_options


def refused(text: str) -> StrictYamlError:
    with pytest.raises(StrictYamlError) as caught:
        load_strict(text, name="site.yaml")
    assert str(caught.value).startswith(f"site.yaml:{caught.value.line}:{caught.value.column}: ")
    return caught.value


def test_values_have_the_types_that_both_yaml_versions_agree_on() -> None:
    text = "a: 1\nb: -2.5\nc: true\nd: ~\ne: 'no'\nf: [x, 0x1F, 1e-3]\n"
    text += "g: {h: 1.0.0, 1: '010'}\ni: 127.0.0.1:1883\nj: _1\n"
    assert load_strict(text, name="n").data == {
        "a": 1,
        "b": -2.5,
        "c": True,
        "d": None,
        "e": "no",
        "f": ["x", 31, 0.001],
        "g": {"h": "1.0.0", 1: "010"},
        "i": "127.0.0.1:1883",
        "j": "_1",
    }


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_document_has_no_data(text: str) -> None:
    assert load_strict(text, name="n").data is None


def test_a_byte_order_mark_is_skipped() -> None:
    assert load_strict("\ufeffa: 1\n", name="n").data == {"a": 1}


def test_every_key_and_item_has_its_line() -> None:
    document = load_strict("a: 1\nb:\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n", name="n")
    assert document.line_of(("a",)) == 1
    assert document.line_of(("b", "c", 1)) == 5
    assert document.line_of(("b", "c", 1, "e")) == 6
    assert document.line_of(("b", "missing", "deeper")) == 2
    assert document.line_of(("nothing",)) == 1


@pytest.mark.parametrize("word", ["yes", "No", "on", "OFF"])
def test_a_spoken_boolean_is_refused_as_key_and_value(word: str) -> None:
    assert f'quote it: "{word}"' in refused(f"a: {word}\n").message
    assert word in refused(f"{word}: 1\n").message


@pytest.mark.parametrize(
    "scalar",
    [
        *("010", "-07", "08", "08.5", "0o17", "0b11", "12:30", "-1:02:03", "1_000", "0x_F", "2024-01-01"),
        *(".inf", "-.INF", ".nan", "="),
    ],
)
def test_a_scalar_that_yaml_reads_surprisingly_is_refused_with_how_to_quote_it(scalar: str) -> None:
    assert f'"{scalar}"' in refused(f"a: {scalar}\n").message
    assert load_strict(f'a: "{scalar}"\n', name="n").data == {"a": scalar}


@pytest.mark.parametrize("number", ["1e999", "9" * 65])
def test_a_number_out_of_range_is_refused(number: str) -> None:
    assert "number" in refused(f"a: {number}\n").message


def test_a_repeated_key_is_refused_with_both_lines() -> None:
    error = refused("a: 1\nb: 2\na: 3\n")
    assert (error.line, error.column) == (3, 1)
    assert "'a'" in error.message
    assert "line 1" in error.message


def test_a_repeated_key_in_a_flow_mapping_is_refused() -> None:
    assert "'b'" in refused("a: {b: 1, b: 2}\n").message


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("a: &x 1\n", "&x"),
        ("a: *x\n", "*x"),
        ("a: !!python/object:os.system 1\n", "python/object"),
        ("a: !mine 1\n", "!mine"),
        ("<<: {a: 1}\n", "<<"),
        ("a: 1\n---\nb: 2\n", "second document"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", "%TAG"),
        ("? [a]\n: 1\n", "a list"),
        ("~: 1\n", "empty"),
        ("1.5: 1\n", "a number"),
        ("true: 1\n", "true or false"),
        ("a: [1\n", "not valid YAML"),
        ("\ta: 1\n", "not valid YAML"),
        ("a: \x00\n", "does not allow"),
    ],
)
def test_unsupported_yaml_is_refused_by_name(text: str, fact: str) -> None:
    assert fact in refused(text).message


def test_a_quoted_merge_key_is_a_name_like_any_other() -> None:
    assert load_strict('"<<": 1\n', name="n").data == {"<<": 1}


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused_without_recursion(opening: str) -> None:
    error = refused(opening * 20_000)
    assert "50 levels" in error.message


def test_a_large_text_is_refused_with_both_sizes() -> None:
    error = refused("a: " + "x" * MAX_BYTES)
    assert str(MAX_BYTES) in error.message
    assert str(MAX_BYTES + 3) in error.message


def test_the_position_of_a_forbidden_character_is_its_own() -> None:
    error = refused("a: 1\nb: \x07\n")
    assert (error.line, error.column) == (2, 4)


def test_the_position_of_a_forbidden_character_is_its_own_after_a_byte_order_mark() -> None:
    assert refused("\ufeffa: 1\n\x07").line == 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_text_is_refused_with_a_remedy(encoding: str) -> None:
    assert "save it as UTF-8" in refused("version: 1\n".encode(encoding).decode()).message


@pytest.mark.parametrize(
    ("text", "place", "fact"),
    [
        ("a: 1\nrate_hz:10\nb: 2\n", (2, 1), "needs a colon, a blank and a value"),
        ("a: 1\nrate_hz = 10\n\n# note\nb: 2\n", (2, 1), "needs a colon, a blank and a value"),
        ("a:\n  rate_hz:10\n\n  # note\n  b: 2\n", (2, 3), "needs a colon, a blank and a value"),
        ("a: 1\nrate_hz:10", (2, 1), "needs a colon, a blank and a value"),
        ("a: [1, 2\nb: 3\n", (1, 4), "`]` or a comma before line 2, column 2"),
        ("a: {b: 1\nc: 3\n", (1, 4), "`}` or a comma before line 2, column 2"),
        ("a:\n  - [1, 2\n\n", (2, 5), "add `]`"),
        ('a: "one\nb: 3\n', (1, 4), "not closed"),
        ("a: 'one\nb: 'two'\n", (1, 4), "closes on line 2"),
        ("a: one: two\n", (1, 7), "second `: `"),
        ("a: 1\n  b: 2\n", (2, 4), "indented deeper"),
        ("  a: 1\nb: 2\n", (2, 1), "indentation"),
        ("a: 1\n- b\n", (2, 1), "side by side"),
        ("a: @b\n", (1, 4), "character '@' that cannot start a value; quote it"),
        ("a:\n\tb: 1\n", (2, 1), "a tab"),
    ],
)
def test_a_mistake_is_reported_where_it_was_made(text: str, place: tuple[int, int], fact: str) -> None:
    error = refused(text)
    assert (error.line, error.column) == place
    assert error.message.startswith("not valid YAML: ")
    assert fact in error.message
    assert "while " not in error.message


def test_the_nearest_key_is_offered_only_when_it_is_near() -> None:
    assert nearest_key("intrepolation", ["interpolation", "scale"]) == "interpolation"
    assert nearest_key("zzz", ["interpolation", "scale"]) is None


def test_options_of_a_command_line_mean_what_they_mean_in_a_file() -> None:
    given = [
        "threads=2",
        "allow_spinning=true",
        "ratio=1e-3",
        "mask=0x1F",
        "mode=EXHAUSTIVE",
        "path=a=b",
        "text='010'",
    ]
    assert parse_options([*given, 'note="a # b"', "empty=''", "tag=a#b"]) == {
        "threads": 2,
        "allow_spinning": True,
        "ratio": 0.001,
        "mask": 31,
        "mode": "EXHAUSTIVE",
        "path": "a=b",
        "text": "010",
        "note": "a # b",
        "empty": "",
        "tag": "a#b",
    }


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["threads"], "'threads' is not NAME=VALUE"),
        (["=1"], "'=1' is not NAME=VALUE"),
        (["workspace_mib=010"], "octal"),
        (["tf32=no"], "'tf32=no': unquoted no"),
        (["at=12:30"], "base-60"),
        (["x=[1,2"], "the `[` here is not closed"),
        (["x=[1,2]"], "the value is a list"),
        (["x={a: 1}"], "the value is a mapping"),
        (["x="], "the value is empty"),
        (["x=~"], "the value is empty"),
        (["x=*a"], "aliases are not taken"),
        (["x=!!int 1"], "tag"),
        (["x=a: b"], "the value is a mapping"),
        (["x='a"], "not closed"),
        (["x=1 # one"], "quote a value with #"),
        (["x=#"], "quote a value with #"),
        (["x=a\nb"], "one line"),
        (["x=1e999"], "too large"),
        (["threads=1", "threads=2"], "threads is given twice, as 1 and '2'"),
    ],
)
def test_an_option_that_could_be_misread_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(StrictYamlError) as caught:
        parse_options(texts)
    assert words in caught.value.message
