"""Properties: SQL expressions and functions over records, their types, and what is refused."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import BatchFunction, ConfigError
from mixlake.catalog.declaring import declare
from mixlake.catalog.properties import common_type, storable
from mixlake.catalog.schema import TIMESTAMP

Compute = Callable[..., dict[str, list[Any]]]

SCALARS = st.sampled_from([pa.null(), pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.date32(), TIMESTAMP])
TYPES = SCALARS | SCALARS.map(pa.list_)
MODEST = settings(max_examples=60, deadline=None)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def lengths(batch: pa.RecordBatch) -> pa.Array:
    return pc.utf8_length(batch["text"])


# SQL over records

MIXED = [
    {
        "text": "äbc",
        "meta": {"language": "de", "deep": {"er": {"a key": 1}}},
        "score": 1,
        "is_good": True,
        "tags": ["x", "y"],
        "created": "2024-01-02T03:04:05Z",
        "Case": "MiXED",
        "case": "other",
        "first": 1,
        "last": 2,
        "position": 3,
        "größe": 7,
    },
    {"text": "", "meta": None, "score": 2.5, "tags": []},
    {"text": None, "is_good": False},
]


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("meta.language", ["de", None, None]),
        ("meta['language']", ["de", None, None]),
        ("meta.deep.er['a key']", [1, None, None]),
        ("upper(meta.language)", ["DE", None, None]),
        ("UPPER(meta['language'])", ["DE", None, None]),
        ("coalesce(meta.language, 'none')", ["de", "none", "none"]),
        ("character_length(text)", [3, 0, None]),
        ("score", [1.0, 2.5, None]),
        ("score * 2 > 3", [False, True, None]),
        ("is_good", [True, None, False]),
        ("tags", [["x", "y"], [], None]),
        ("array_length(tags)", [2, 0, None]),
        ("tags[1]", ["x", None, None]),
        ("CAST(created AS TIMESTAMP)", [datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), None, None]),
        ("CAST(created AS DATE)", [date(2024, 1, 2), None, None]),
        ("CASE WHEN text = '' THEN 'empty' ELSE 'full' END", ["full", "empty", "full"]),
        ("text IS NULL", [False, False, True]),
        ("meta IS NULL", [False, True, True]),
        ("'constant'", ["constant"] * 3),
        ("1 + 1", [2, 2, 2]),
        ("Case", ["MiXED", None, None]),
        ('"case"', ["other", None, None]),
        ('"Case" || "case"', ["MiXEDother", None, None]),
        ("first", [1, None, None]),
        ("last + position", [5, None, None]),
        ("größe + 1", [8, None, None]),
    ],
)
def test_a_property_is_an_expression_over_the_record(compute: Compute, expression: str, values: list[Any]) -> None:
    assert compute(MIXED, value=expression) == {"value": values}


def test_several_properties_may_use_a_field_whole_and_in_part(compute: Compute) -> None:
    computed = compute(
        [{"meta": {"a": 1}}, {"meta": None}],
        [{"meta": {"b": 2}}, {}],
        a="meta.a",
        b="meta.b + 1",
        is_bare="meta IS NULL",
        both="meta IS NOT NULL AND meta.b IS NULL",
        count=BatchFunction(function=lambda batch: pc.cast(pc.is_valid(batch["meta"]), pa.int8()), fields=("meta",)),
    )
    assert computed == {
        "a": [1, None, None, None],
        "b": [None, None, 3, None],
        "is_bare": [False, True, False, True],
        "both": [True, False, False, False],
        "count": [1, 0, 1, 0],
    }


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("upper(x)", [None, "A"]),
        ("x || '!'", [None, "a!"]),
        ("x = 'a'", [None, True]),
        ("length(x) + 1", [None, 2]),
        ("coalesce(x, 'none')", ["none", "a"]),
        ("x IN ('a', 'b')", [None, True]),
        ("nullif(x, '')", [None, "a"]),
    ],
)
def test_a_field_without_values_in_one_file_is_null_there(compute: Compute, expression: str, values: list[Any]) -> None:
    assert compute([{"y": 1}], [{"x": "a"}], value=expression)["value"] == values
    assert compute([{"x": None}], [{"x": "a"}], value=expression)["value"] == values
    assert compute([{"x": "a"}], [{"x": None}], value=expression)["value"] == values[::-1]


@pytest.mark.parametrize(
    ("expression", "value", "results"),
    [
        ("x * 2", 1.5, [None, 3.0]),
        ("round(x)", 1.5, [None, 2.0]),
        ("NOT x", True, [None, False]),
        ("array_length(x)", ["a", "b"], [None, 2]),
        ("array_has(x, 'b')", ["a", "b"], [None, True]),
        ("x[2]", ["a", "b"], [None, "b"]),
        ("date_trunc('year', x)", "2024-01-02T03:04:05", [None, datetime(2024, 1, 1, tzinfo=UTC)]),
        ("date_part('year', x)", "2024-01-02T03:04:05", [None, 2024]),
    ],
)
def test_functions_that_take_no_untyped_nulls_get_typed_ones(
    compute: Compute, expression: str, value: Any, results: list[Any]
) -> None:
    assert compute([{"y": 1}], [{"x": value}], value=expression)["value"] == results


def test_a_property_without_any_value_is_null(compute: Compute) -> None:
    records = [{"top": None, "meta": {"nested": None}}, {}]
    assert compute(records, top="top", nested="meta.nested", made="upper(meta.nested)") == {
        "top": [None, None],
        "nested": [None, None],
        "made": [None, None],
    }


def test_integers_become_numbers_where_another_file_has_fractions(compute: Compute) -> None:
    computed = compute([{"x": 1}], [{"x": 0.5}], [{}], [{"x": 2}], value="x", list_of="make_array(x)")
    assert computed == {"value": [1.0, 0.5, None, 2.0], "list_of": [[1.0], [0.5], [None], [2.0]]}


def test_system_fields_tell_the_path_row_and_length_of_a_sample(compute: Compute, tmp_path: Path) -> None:
    (tmp_path / "sub dir").mkdir()
    (tmp_path / "sub dir" / "ä.jsonl").write_text('{"x":1}\n\n{"x": 12}\r\n')
    computed = compute(
        [{"x": 1}], path="_path", folder="split_part(_path, '/', 1)", number="_row + 1", size="_num_bytes"
    )
    assert computed == {
        "path": ["0.jsonl", "sub dir/ä.jsonl", "sub dir/ä.jsonl"],
        "folder": ["0.jsonl", "sub dir", "sub dir"],
        "number": [1, 1, 2],
        "size": [8, 7, 10],
    }


def test_parquet_columns_of_many_types_are_stored_as_one_type_of_each_kind(compute_parquet: Compute) -> None:
    columns = {
        "i8": pa.array([1, None], pa.int8()),
        "u32": pa.array([1, 2**32 - 1], pa.uint32()),
        "f32": pa.array([0.5, None], pa.float32()),
        "large": pa.array(["a", "b"], pa.large_string()),
        "coded": pa.array(["a", None]).dictionary_encode(),
        "naive": pa.array([0, 1_000], pa.timestamp("ns")),
        "zoned": pa.array([0, None], pa.timestamp("ms", tz="Europe/Berlin")),
        "day": pa.array([0, 1], pa.date32()),
        "lists": pa.array([["a"], None], pa.large_list(pa.large_string())),
        "deep": [{"er": {"x": 1}}, None],
        "a.b": [1, 2],
        "Upper": ["U", "V"],
        "nothing": pa.nulls(2),
    }
    expressions = {name.lower().replace(".", "_"): f'"{name}"' for name in columns if name != "deep"}
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert compute_parquet(columns, **expressions, x="deep.er.x", y="deep['er']['x'] + 1") == {
        "i8": [1, None],
        "u32": [1, 2**32 - 1],
        "f32": [0.5, None],
        "large": ["a", "b"],
        "coded": ["a", None],
        "naive": [epoch, epoch.replace(microsecond=1)],
        "zoned": [epoch, None],
        "day": [date(1970, 1, 1), date(1970, 1, 2)],
        "lists": [["a"], None],
        "a_b": [1, 2],
        "upper": ["U", "V"],
        "nothing": [None, None],
        "x": [1, None],
        "y": [2, None],
    }


# Batch functions


def test_a_function_gets_the_fields_it_names_in_that_order(compute: Compute) -> None:
    names: list[list[str]] = []

    def both(batch: pa.RecordBatch) -> pa.Array:
        names.append(batch.schema.names)
        return pc.binary_join_element_wise(batch.column(0), pc.struct_field(batch.column(1), "a"), "-")

    function = BatchFunction(function=both, fields=("text", "meta.a", "_row"))
    computed = compute([{"meta": {"a": "x"}, "text": "t", "other": 1}], joined=function, other="other")
    assert computed == {"joined": ["t-x"], "other": [1]}
    assert names == [["text", "meta", "_row"]]


def test_a_function_is_recorded_by_its_qualified_name() -> None:
    partly = BatchFunction(function=functools.partial(lengths), fields=("text",))
    declared = declare({"plain": BatchFunction(function=lengths, fields=("text",)), "partly": partly})
    assert [(prop.expression, prop.origin) for prop in declared] == [
        (f'{__name__}:lengths {{"fields": ["text"]}}', "function"),
        ('functools:partial {"fields": ["text"]}', "local function"),
    ]


@pytest.mark.parametrize(
    ("returned", "got"),
    [(pa.array([1]), "1 values"), (pa.array([1, 2, 3]), "3 values"), ([1, 2], "list"), (None, "NoneType")],
)
def test_a_function_that_returns_another_number_of_values_is_refused(
    compute: Compute, tmp_path: Path, returned: Any, got: str
) -> None:
    def wrong(_: pa.RecordBatch) -> pa.Array:
        return returned

    message = (
        f"property 'size' of 'docs': {wrong.__module__}:{wrong.__qualname__} must return an Arrow array of 2 values, "
        f"got {got} at {tmp_path}/0.jsonl"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        compute([{"text": "a"}, {"text": "b"}], size=BatchFunction(function=wrong, fields=("text",)))


def test_an_error_in_a_function_says_which_property_and_file_it_was_about(compute: Compute, tmp_path: Path) -> None:
    def broken(_: pa.RecordBatch) -> pa.Array:
        raise KeyError("txt")

    with pytest.raises(KeyError) as caught:
        compute([{"text": "a"}], size=BatchFunction(function=broken, fields=("text",)))
    name = f"{broken.__module__}:{broken.__qualname__}"
    assert caught.value.__notes__ == [f"while {name} computed property 'size' of 'docs' at {tmp_path}/0.jsonl"]


def test_a_field_that_a_function_names_and_no_record_has_is_refused(compute: Compute) -> None:
    message = "property 'size' of 'docs': no record has a field 'txt'; fields: text, _num_bytes, _path, _row, _text. "
    with pytest.raises(ConfigError, match=exactly(message + "Did you mean 'text'?")):
        compute([{"text": "a"}], size=BatchFunction(function=lambda batch: batch["txt"], fields=("txt",)))


# Types


@MODEST
@given(TYPES, TYPES, TYPES)
def test_a_common_type_does_not_depend_on_order_or_grouping(
    one: pa.DataType, other: pa.DataType, third: pa.DataType
) -> None:
    assert common_type(one, one) == one
    assert common_type(one, pa.null()) == one
    assert common_type(one, other) == common_type(other, one)
    left, right = common_type(one, other), common_type(other, third)
    if left is not None and right is not None:
        assert common_type(left, third) == common_type(one, right)


@MODEST
@given(TYPES, TYPES)
def test_a_common_type_holds_both_and_is_stored_as_it_is(one: pa.DataType, other: pa.DataType) -> None:
    wider = common_type(one, other)
    if wider is not None:
        assert pa.nulls(1, one).cast(wider).type == wider
        assert pa.nulls(1, other).cast(wider).type == wider
        assert storable(pa.nulls(1, wider), "x").type == wider


@MODEST
@given(
    st.lists(st.none() | st.integers(-128, 127)),
    st.sampled_from([pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()]),
)
def test_what_is_stored_has_the_same_values_and_is_stored_so_again(values: list[int | None], kind: pa.DataType) -> None:
    stored = storable(pa.array(values, kind), "x")
    assert stored.to_pylist() == values
    assert stored.type in (pa.int64(), pa.float64())
    assert storable(stored, "x") is stored
