"""Fields of records: paths, which of them an expression mentions, columns of them, and record batches."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import ConfigError
from mixlake.catalog.fields import (
    MisfitError,
    column_of,
    has_field,
    is_path,
    mentioned_fields,
    nest,
    parse_path,
    value_at,
)
from mixlake.catalog.records import FieldPath

NAMES = st.text(min_size=1, max_size=8)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)
PLAIN_PATHS = st.lists(st.from_regex(r"[a-z]{2}_[a-z0-9]{0,4}", fullmatch=True), min_size=1, max_size=3).map(tuple)
MODEST = settings(max_examples=60, deadline=None)


def quoted(path: FieldPath) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in path)


def bracketed(path: FieldPath) -> str:
    return quoted(path[:1]) + "".join("['" + name.replace("'", "''") + "']" for name in path[1:])


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def without_prefixes(paths: set[FieldPath]) -> list[FieldPath]:
    """Those paths in which no other one ends on the way."""
    return sorted(path for path in paths if not any(path[:n] in paths for n in range(1, len(path))))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("text", ("text",)),
        ("meta.language", ("meta", "language")),
        (" meta . language ", ("meta", "language")),
        ("meta['language']", ("meta", "language")),
        ("meta[ 'a.b' ][ 'it''s' ].c", ("meta", "a.b", "it's", "c")),
        ('"odd name"."say ""hi"""', ("odd name", 'say "hi"')),
        ("größe.值", ("größe", "值")),
        ("_row", ("_row",)),
    ],
)
def test_a_path_is_split_into_the_names_of_its_fields(text: str, path: FieldPath) -> None:
    assert parse_path(text) == path


@MODEST
@given(PATHS)
def test_quoted_and_bracketed_paths_of_any_names_are_split_into_these_names(path: FieldPath) -> None:
    assert parse_path(quoted(path)) == path
    assert parse_path(bracketed(path)) == path
    assert is_path(quoted(path))


@pytest.mark.parametrize("text", ["", "a b", "a.", "a..b", "upper(a)", "a[1]", "'a'", "1a", "a + b", '""'])
def test_what_is_no_path_is_refused_with_an_example(text: str) -> None:
    assert not is_path(text)
    message = f"{text!r} is not a field: expected names joined by dots, such as meta.language"
    with pytest.raises(ConfigError, match=exactly(message)):
        parse_path(text)


@pytest.mark.parametrize("text", ["true", "FALSE", "null"])
def test_a_literal_is_not_a_path(text: str) -> None:
    assert not is_path(text)
    assert mentioned_fields(text) == []


@pytest.mark.parametrize(
    ("expression", "fields"),
    [
        ("text", [("text",)]),
        ("meta['language'] = 'en' AND meta.kind <> 'text'", [("meta", "language"), ("meta", "kind")]),
        ("CASE WHEN length(text) > 10 THEN score ELSE 0.5 END", [("text",), ("score",)]),
        ("upper(lower(a)) || a || b", [("a",), ("b",)]),
        ("1e5 + 0x1f + 2.5 > x", [("x",)]),
        ("a -- b\n + c", [("a",), ("c",)]),
        ("'it''s b' = a", [("a",)]),
        ('"Odd Name" + "order"', [("Odd Name",), ("order",)]),
        ("tags[1]", [("tags",)]),
        ("x IS NOT NULL AND y BETWEEN 1 AND 2 OR z NOT IN (1)", [("x",), ("y",), ("z",)]),
    ],
)
def test_the_fields_an_expression_mentions_are_found_in_order(expression: str, fields: list[FieldPath]) -> None:
    assert mentioned_fields(expression) == fields


@pytest.mark.parametrize("word", ["first", "last", "row", "position", "values", "order", "to", "from", "end", "case"])
def test_a_keyword_that_stands_alone_is_the_field_of_that_name(word: str) -> None:
    assert is_path(word)
    assert mentioned_fields(word) == [(word,)]


@pytest.mark.parametrize("word", ["first", "last", "row", "position", "values", "partition", "filter"])
def test_words_that_are_common_field_names_are_fields_within_expressions_too(word: str) -> None:
    assert mentioned_fields(f"{word} + 1") == [(word,)]


@MODEST
@given(st.lists(PLAIN_PATHS, max_size=5))
def test_every_path_put_into_an_expression_is_mentioned_once(paths: list[FieldPath]) -> None:
    expression = " + ".join(["1", *(f"length({'.'.join(path)})" for path in paths)])
    assert mentioned_fields(expression) == list(dict.fromkeys(paths))


@MODEST
@given(st.dictionaries(PATHS, st.integers(0, 9), max_size=5))
def test_a_nested_batch_has_every_column_at_its_path(numbers: dict[FieldPath, int]) -> None:
    paths = without_prefixes(set(numbers))
    batch = nest({path: pa.array([numbers[path], None]) for path in paths}, 2)
    records = batch.to_pylist()
    assert batch.num_rows == 2
    assert [value_at(records[0], path) for path in paths] == [numbers[path] for path in paths]
    assert [value_at(records[1], path) for path in paths] == [None] * len(paths)
    assert all(has_field(record, path) for record in records for path in paths)


def test_a_batch_without_columns_keeps_its_number_of_rows() -> None:
    assert nest({}, 3).num_rows == 3


def test_a_struct_that_is_given_whole_gets_only_the_fields_that_it_lacks() -> None:
    whole = pa.array([{"a": 1, "b": {"c": 2}}, None])
    columns = {("m",): whole, ("m", "b", "d"): pa.array([7, None]), ("m", "a"): pa.array([1, None])}
    assert nest(columns, 2).to_pylist() == [{"m": {"b": {"d": 7, "c": 2}, "a": 1}}, {"m": None}]


def test_a_field_below_one_without_any_value_does_not_make_that_one_a_value() -> None:
    columns = {("m",): pa.nulls(2), ("m", "a"): pa.nulls(2, pa.string())}
    batch = nest(columns, 2)
    assert batch.to_pylist() == [{"m": None}, {"m": None}]
    assert batch.schema.field("m").type == pa.struct([("a", pa.string())])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None], pa.string()),
        ([1, None, 2], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([True, None], pa.bool_()),
        ([[1], [], None], pa.list_(pa.int64())),
        ([None, None], pa.null()),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ],
)
def test_a_column_has_the_narrowest_type_of_its_values(values: list[Any], kind: pa.DataType) -> None:
    records = [{"x": value} for value in values]
    assert column_of(records, ("x",)).type == kind


def test_a_column_has_nulls_where_a_record_lacks_the_field_or_one_above_it() -> None:
    records: list[dict[str, Any]] = [{}, {"m": None}, {"m": {}}, {"m": {"x": 1}}]
    assert column_of(records, ("m", "x")).to_pylist() == [None, None, None, 1]


@pytest.mark.parametrize(
    ("values", "index", "kind"),
    [
        ([1, None, "two", 3], 2, "a string ('two')"),
        (["a", 2], 1, "an integer ('2')"),
        ([True, 1], 1, "an integer ('1')"),
        ([2.5, 1, [1]], 2, "a list ('[1]')"),
        (["a", {"b": 1}], 1, "an object (\"{'b': 1}\")"),
        ([1, 2**63], 1, "an integer ('9223372036854775808')"),
    ],
)
def test_the_first_value_that_does_not_fit_is_found(values: list[Any], index: int, kind: str) -> None:
    records = [{"m": {"x": value}} for value in values]
    message = f"field 'm.x' is {kind}, which does not fit the values before it ("
    with pytest.raises(MisfitError, match=f"^{re.escape(message)}.+\\)$") as caught:
        column_of(records, ("m", "x"))
    assert caught.value.index == index


def test_a_path_through_something_else_than_an_object_is_refused() -> None:
    message = "field 'm' is a string ('flat'), so it has no 'x'"
    with pytest.raises(MisfitError, match=exactly(message)) as caught:
        column_of([{"m": {"x": 1}}, {"m": "flat"}], ("m", "x"))
    assert caught.value.index == 1


def test_a_field_that_holds_null_is_there_and_one_below_it_is_not() -> None:
    record = {"m": {"x": None}}
    assert has_field(record, ("m", "x"))
    assert not has_field(record, ("m", "y"))
    assert not has_field(record, ("m", "x", "y"))
