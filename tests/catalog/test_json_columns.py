"""Columns by Arrow's parser and by simdjson: the same as line by line, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import json_views
from mixlake.catalog.fields import column_of
from mixlake.catalog.json_columns import fast_columns
from mixlake.catalog.records import FieldPath, IntArray
from mixlake.catalog.text_regions import Region

STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | STRINGS
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(STRINGS, SCALARS, max_size=2)
FIELDS: dict[FieldPath, pa.DataType] = {
    ("s",): pa.string(),
    ("i",): pa.int64(),
    ("f",): pa.float64(),
    ("b",): pa.bool_(),
    ("l",): pa.list_(pa.string()),
    ("m", "s"): pa.string(),
    ("m", "odd key", "i"): pa.int64(),
}
FITTING = {
    "s": st.none() | STRINGS,
    "i": st.none() | st.integers(-(2**63), 2**63 - 1),
    "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "b": st.none() | st.booleans(),
    "l": st.none() | st.lists(st.none() | STRINGS, max_size=3),
    "m": st.none()
    | st.fixed_dictionaries(
        {}, optional={"s": STRINGS, "other": VALUES, "odd key": st.fixed_dictionaries({"i": st.integers(0, 9)})}
    ),
    "ignored": VALUES,
}


@pytest.fixture(scope="module", autouse=True, params=["arrow", "simdjson"])
def parser(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has all lines parsed by one of the two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_views, "_MAX_CORES", 0 if request.param == "arrow" else 1_000_000)
        patch.setattr(json_views, "_MIN_RECORD_BYTES", 0)
        patch.setattr(json_views, "_MIN_RATIO", 0)
        yield


def region_of(lines: list[bytes]) -> tuple[Region, IntArray, IntArray]:
    content = bytearray(b"\n".join(lines) + b"\n")
    newlines = np.flatnonzero(np.frombuffer(content, np.uint8) == 10).astype(np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), newlines[:-1] + 1])
    region = Region(offset=0, buffer=content, begin=0, end=len(content), newlines=newlines, first_line=lambda: 1)
    return region, starts, newlines


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=FITTING), min_size=1, max_size=6), st.booleans())
def test_columns_are_those_that_line_by_line_gives(records: list[dict[str, Any]], is_ascii: bool) -> None:
    lines = [json.dumps(record, ensure_ascii=is_ascii).encode() for record in records]
    columns = fast_columns(*region_of(lines), FIELDS)
    assert columns is not None
    assert columns.keys() == FIELDS.keys()
    for path, column in columns.items():
        assert column.type == FIELDS[path]
        assert column.equals(column_of(records, path).cast(FIELDS[path]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["s", "i", "f", "l", "m"]), VALUES), min_size=1, max_size=4))
def test_whatever_the_values_columns_are_right_or_not_given(records: list[dict[str, Any]]) -> None:
    columns = fast_columns(*region_of([json.dumps(record).encode() for record in records]), FIELDS)
    for path, column in (columns or {}).items():
        assert column.equals(column_of(records, path).cast(FIELDS[path]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line and line.strip()), min_size=1, max_size=3))
def test_arbitrary_bytes_are_taken_only_where_each_line_is_an_object(lines: list[bytes]) -> None:
    if fast_columns(*region_of([b'{"s": "a"}', *lines]), FIELDS) is not None:
        assert all(isinstance(orjson.loads(line), dict) for line in lines)


@pytest.mark.parametrize(
    "lines",
    [
        [b"null"],
        [b'{"i": 1}null{"i": 2}', b'{"i": 3}'],
        [b'{"i": 1}{"i": 2}', b'{"i": 3}'],
        [b'{"m":', b'{"s": "a"}}{"i": 1}'],
        [b'{"s": "\xff"}'],
        [b'{"ignored": "\xff"}'],
        [b'{"ignored": "\\ud800"}'],
        [b'{"ignored": [1, }'],
        [b'{"i": 1.0}'],
        [b'{"i": 9223372036854775808}'],
        [b'{"i": "1"}'],
        [b'{"s": 1}'],
        [b'{"m": "flat"}'],
        [b'{"i": 1, "i": 2}'],
        [b'{"i": 1, "\\u0069": 2}'],
        [b'{"s": "a"} '],
        [b' {"s": "a"}'],
        [b'{"ignored": 1e999}'],
    ],
)
def test_lines_that_need_a_closer_look_are_not_taken(lines: list[bytes]) -> None:
    assert fast_columns(*region_of([b'{"s": "a"}', *lines]), FIELDS) is None


def test_a_field_of_which_nothing_is_known_is_taken_only_where_it_does_not_occur() -> None:
    fields: dict[FieldPath, pa.DataType] = {("s",): pa.string(), ("größe",): pa.null()}
    columns = fast_columns(*region_of([b'{"s": "a"}']), fields)
    assert columns is not None
    assert columns.keys() == {("s",)}
    assert fast_columns(*region_of([b'{"s": "a"}', '{"größe": null}'.encode()]), fields) is None


def test_a_field_within_another_that_is_asked_for_as_a_whole_is_not_taken() -> None:
    fields: dict[FieldPath, pa.DataType] = {("m",): pa.string(), ("m", "s"): pa.string()}
    assert fast_columns(*region_of([b'{"s": "a"}']), fields) is None


def test_windows_line_ends_are_taken() -> None:
    columns = fast_columns(*region_of([b'{"s": "a"}\r', b'{"s": "b"}\r']), {("s",): pa.string()})
    assert columns is not None
    assert columns[("s",)].to_pylist() == ["a", "b"]
