"""Text to raw documents."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.manifests import text
from planner.manifests.text import Unreadable, documents, oversized, scalar

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def json_values(text: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | FINITE | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=20,
    )


def yaml_documents(source: str) -> list[object]:
    return list(documents(source.encode(), ".yaml"))


@given(json_values(st.text()))
@settings(max_examples=100)
def test_json_reads_as_json_does(value: object) -> None:
    assert list(documents(json.dumps(value).encode(), ".json")) == [value]


@given(json_values(st.text(st.characters(max_codepoint=126), max_size=20)))
@settings(max_examples=100)
def test_json_means_the_same_as_yaml(value: object) -> None:
    assert yaml_documents(json.dumps({"value": value})) == [{"value": value}]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("NO", "NO"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("", None),
        ("~", None),
        ("null", None),
        ("nUll", "nUll"),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("8080", 8080),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("1e21", 1e21),
        ("1.0e+21", 1e21),
        ("1E-3", 0.001),
        (".5", 0.5),
        ("5.", 5.0),
        ("1.5", 1.5),
        ("-.inf", -math.inf),
        ("1e", "1e"),
        (".", "."),
        ("-", "-"),
        ("1.2.3", "1.2.3"),
        ("2026-12-01", "2026-12-01"),
        ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("9" * 401, "9" * 401),
    ],
)
def test_a_plain_scalar_means(written: str, meant: object) -> None:
    assert scalar(written) == meant
    assert type(scalar(written)) is type(meant)


def test_a_quoted_or_tagged_scalar_is_text() -> None:
    assert yaml_documents("['1', \"~\", !!str 2]") == [["1", "~", "2"]]
    assert yaml_documents("|\n  true\n") == ["true\n"]


def test_an_anchor_is_repeated_where_it_is_named() -> None:
    assert yaml_documents("a: &x {b: [1, 2]}\nc: *x\n") == [
        {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    ]


def test_an_anchor_ends_with_its_document() -> None:
    first, second = yaml_documents("a: &x 1\n---\na: *x\n")
    assert first == {"a": 1}
    assert isinstance(second, Unreadable)
    assert (second.line, second.column) == (3, 4)


def test_what_an_alias_repeats_counts_as_often_as_it_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The document: a mapping, a list of 3 (4 values), and per alias itself and the 4 it repeats.
    source = "a: &x [1, 2, 3]\nb: *x\nc: *x\n"
    monkeypatch.setattr(text, "MOST_VALUES", 1 + 4 + 5 + 5)
    assert isinstance(yaml_documents(source)[0], dict)
    monkeypatch.setattr(text, "MOST_VALUES", 1 + 4 + 5 + 4)
    assert yaml_documents(source) == [Unreadable("a document of more than 14 values", 3, 4)]


def test_the_documents_before_a_broken_one_are_read() -> None:
    first, second, broken = yaml_documents("a: 1\n---\nb: 2\n---\nc: [\n")
    assert (first, second) == ({"a": 1}, {"b": 2})
    assert isinstance(broken, Unreadable)
    assert broken.message.startswith("not YAML: ")


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert list(documents(b"\xef\xbb\xbf{}", ".json")) == [{}]


def test_the_reading_is_the_same_without_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "a: [NO, 1e21, 'x', {b: ~}]\n"
    fast = yaml_documents(source)
    monkeypatch.setattr(text, "_LOADER", yaml.SafeLoader)
    assert yaml_documents(source) == fast == [{"a": ["NO", 1e21, "x", {"b": None}]}]


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_document_of_a_hundred_levels_is_the_deepest() -> None:
    assert oversized(nested(99)) == ""
    assert oversized(nested(100)) == "nested deeper than 100"


def test_a_list_or_mapping_of_ten_thousand_entries_is_the_longest() -> None:
    assert oversized({"a": [0] * 10_000}) == ""
    assert oversized({"a": [0] * 10_001}) == "a list or mapping of more than 10000 entries"
    assert oversized([dict.fromkeys(range(10_001))]) != ""


def test_lines_that_are_no_json_are_told_up_to_the_twentieth() -> None:
    lines = list(documents(b"{}\n" + b"{\n" * 100, ".jsonl"))
    assert lines[0] == {}
    assert len(lines) == 21
    assert [line.line for line in lines if isinstance(line, Unreadable)] == list(range(2, 22))


def test_values_of_json_may_follow_each_other() -> None:
    assert list(documents(b'{"a": 1}\n{\n"b": 2}\n', ".json")) == [{"a": 1}, {"b": 2}]
