"""What is refused as a property: names, expressions, functions of more than a sample, and values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixlake.catalog import ConfigError, DataError, QueryError
from mixlake.catalog.declaring import declare

Compute = Callable[..., dict[str, list[Any]]]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("name", ["Lang", "1st", "a-b", "a b", "", "_x", "größe"])
def test_a_name_that_is_not_lower_snake_case_is_refused(name: str) -> None:
    message = f"property name {name!r}: expected lower_snake_case, such as num_chars"
    with pytest.raises(ConfigError, match=exactly(message)):
        declare({name: "text"})


@pytest.mark.parametrize("name", ["dataset", "registration", "file_id", "block", "row", "byte_start", "byte_stop"])
def test_a_name_that_samples_has_already_is_refused(name: str) -> None:
    taken = "block, byte_start, byte_stop, dataset, file_id, registration, row"
    with pytest.raises(ConfigError, match=exactly(f"property name {name!r} is taken; samples already has: {taken}")):
        declare({name: "text"})


@pytest.mark.parametrize("source", ["", "  ", None, 3, ["text"]])
def test_what_is_neither_sql_nor_a_function_is_refused(source: Any) -> None:
    message = f"property 'x': expected an SQL expression or a batch function, got {source!r}"
    with pytest.raises(ConfigError, match=exactly(message)):
        declare({"x": source})


def test_an_expression_that_could_not_be_computed_again_is_refused() -> None:
    message = "property 'x': random gives another answer at each call, so a run could not be repeated"
    with pytest.raises(QueryError, match=exactly(message)):
        declare({"x": "random() < score"})


@pytest.mark.parametrize(
    ("expression", "missing", "hint"),
    [
        ("langauge", "langauge", " Did you mean 'language'?"),
        ("upper(langauge)", "langauge", " Did you mean 'language'?"),
        ("Language = 'en'", "Language", " Did you mean 'language'?"),
        ("meta.kin", "meta.kin", " Did you mean 'meta.kind'?"),
        ("meta['kin'] = 'a'", "meta.kin", " Did you mean 'meta.kind'?"),
        ("_nun_bytes + 1", "_nun_bytes", " Did you mean '_num_bytes'?"),
        ("language = en", "en", ""),
        ("CAST(zzz AS BIGINT)", "zzz", ""),
    ],
)
def test_a_field_that_no_record_has_is_refused_with_the_nearest(
    compute: Compute, expression: str, missing: str, hint: str
) -> None:
    records = [{"language": "en", "meta": {"kind": "a"}}, {}]
    fields = "language, meta, meta.kind, _num_bytes, _path, _row, _text"
    message = f"property 'x' of 'docs': no record has a field {missing!r}; fields: {fields}.{hint}"
    with pytest.raises(ConfigError, match=exactly(message)):
        compute(records, x=expression)


def test_a_length_in_bytes_is_refused_where_the_format_knows_none(compute_parquet: Compute) -> None:
    message = "property 'size' of 'docs': no record has a field '_num_bytes'; fields: text, _path, _row, _text."
    with pytest.raises(ConfigError, match=exactly(message)):
        compute_parquet({"text": ["a"]}, size="_num_bytes")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("text = = 'a'", "ParserError(.+)"),
        ("text, text", "ParserError(.+)"),
        ("lengthh(text)", r"Invalid function 'lengthh'\. Did you mean 'length'\?"),
        ("(SELECT max(text) FROM record)", "table '.+record' not found"),
    ],
)
def test_what_is_no_expression_over_a_record_is_refused(compute: Compute, expression: str, reason: str) -> None:
    message = f"property 'x' of 'docs': {expression!r} is not an expression over the record: "
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}{reason}$"):
        compute([{"text": "a"}], x=expression)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("CAST(text AS BIGINT)", "Cast error: Cannot cast string 'a' to value of Int64 type"),
        ("num / 0", "Divide by zero error"),
        ("num = 'a'", "Cast error: Cannot cast string 'a' to value of Int64 type"),
        ("upper(num)", "Function 'upper' requires String, but received Int64.+"),
        ("count(*)", "This feature is not implemented: .+"),
        ("max(text)", "This feature is not implemented: .+"),
        ("unnest(list)", "This feature is not implemented: .+"),
    ],
)
def test_an_expression_that_cannot_take_a_value_is_refused_with_its_place(
    compute: Compute, tmp_path: Path, expression: str, reason: str
) -> None:
    message = f"{tmp_path}/0.jsonl, line 1: property 'x' of 'docs' cannot be computed: "
    with pytest.raises(DataError, match=f"^{re.escape(message)}{reason}$") as caught:
        compute([{"text": "a", "num": 1, "list": ["x"]}], x=expression)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([{"a": 1}]), "struct<a: int64>"),
        (pa.array([b"a"]), "binary"),
        (pa.array([1], pa.decimal128(10, 2)), "decimal128(10, 2)"),
        (pa.array([[["a"]]]), "list<element: list<element: string>>"),
        (pa.array([1], pa.time64("us")), "time64[us]"),
    ],
)
def test_a_kind_of_value_that_no_property_has_is_refused(
    compute_parquet: Compute, tmp_path: Path, column: pa.Array, kind: str
) -> None:
    message = (
        f"{tmp_path}/a.parquet, row 0: property 'x' of 'docs' is {kind}; "
        "a property is a string, number, boolean, date, timestamp, or a list of these"
    )
    with pytest.raises(DataError, match=exactly(message)):
        compute_parquet({"x": column}, x="x")


def test_a_value_that_no_stored_type_holds_is_refused(compute_parquet: Compute, tmp_path: Path) -> None:
    message = f"{tmp_path}/a.parquet, row 0: field 'x' does not fit int64: "
    with pytest.raises(DataError, match=f"^{re.escape(message)}.*9223372036854775808.*$"):
        compute_parquet({"x": pa.array([2**63], pa.uint64())}, x="x")
    message = f"{tmp_path}/a.parquet, row 0: field 'x' does not fit timestamp[us, tz=UTC]: "
    with pytest.raises(DataError, match=f"^{re.escape(message)}.*would lose data.*$"):
        compute_parquet({"x": pa.array([1], pa.timestamp("ns"))}, x="x")


@pytest.mark.parametrize(
    ("one", "other", "types"),
    [("a", 1, ("int64", "string")), (1, "a", ("string", "int64")), (True, 1, ("int64", "bool"))],
)
def test_types_that_do_not_go_together_are_refused_with_both_files(
    compute: Compute, tmp_path: Path, one: Any, other: Any, types: tuple[str, str]
) -> None:
    message = (
        f"{tmp_path}/2.jsonl, line 1: property 'x' of 'docs' is {types[0]} here but {types[1]} in {tmp_path}/1.jsonl; "
        "make it one type, for example with CAST(… AS STRING)"
    )
    with pytest.raises(DataError, match=exactly(message)):
        compute([{"x": None}], [{"x": one}], [{"x": other}], x="x")
    assert compute([{"x": None}], [{"x": one}], [{"x": other}], x="CAST(x AS STRING) IS NULL") == {
        "x": [True, False, False]
    }
