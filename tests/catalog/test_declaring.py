"""Declared types, and what is refused of a declaration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixlake.catalog import Catalog, ConfigError, DataError, ExactDuplicates, Quality
from mixlake.catalog.declaring import declare, parse_type
from mixlake.catalog.schema import TIMESTAMP

WriteLines = Callable[..., str]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.bool_(),
        pa.date32(),
        TIMESTAMP,
        pa.list_(pa.string()),
        pa.list_(TIMESTAMP),
    ],
)
def test_a_type_is_read_as_it_is_written(kind: pa.DataType) -> None:
    assert parse_type(str(kind), "x") == kind


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "string"}, "property 'x': expected the keys expression, type, nullable; it has no expression"),
        ({"expression": "a", "typ": 1}, "property 'x': expected the keys expression, type, nullable; got 'typ'"),
        ({"expression": "a", "nullable": "no"}, "property 'x': nullable is 'no'; expected true or false"),
        (
            {"expression": "a", "type": "strin"},
            "property 'x': type 'strin' is unknown; there are string, int64, double, bool, date, timestamp, "
            "and list<…> of these. Did you mean 'string'?",
        ),
        (ExactDuplicates(), "property 'x': groups of duplicates are found with add_property, among what is registered"),
    ],
)
def test_a_wrong_declaration_is_refused(source: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=exactly(message)):
        declare({"x": source})


def test_a_function_with_several_outputs_is_several_properties() -> None:
    declared = declare({"quality": Quality(signals=("num_words", "has_javascript"))})
    assert [(prop.name, prop.output) for prop in declared] == [
        ("quality_num_words", "num_words"),
        ("quality_has_javascript", "has_javascript"),
    ]
    with pytest.raises(ConfigError, match=exactly("property 'quality_num_words' is declared twice")):
        declare({"quality": Quality(signals=("num_words",)), "quality_num_words": "1"})


STRICT = {"expression": "lang", "type": "string", "nullable": False}


@pytest.mark.parametrize(
    ("record", "source", "reason"),
    [
        ({"lang": None}, STRICT, "is null here, but declared to have a value always"),
        ({}, STRICT, "is null here, but declared to have a value always"),
        ({"lang": ["de"]}, STRICT, "is declared string, but is list<item: string> here: \"['de']\""),
        ({"lang": 3}, {"expression": "lang", "type": "string"}, "is declared string, but is int64 here: '3'"),
        ({"n": 0.5}, {"expression": "n", "type": "int64"}, "is declared int64, but is double here: '0.5'"),
        (
            {"lang": "de"},
            {"expression": "lang = 'en'", "type": "string"},
            "is declared string, but is bool here: 'False'",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_by_file_and_line(
    catalog: Catalog, write_lines: WriteLines, record: Mapping[str, Any], source: Any, reason: str
) -> None:
    write_lines("a.jsonl", {"text": "x", "lang": "en", "n": 1})
    path = write_lines("b.jsonl", {"text": "y", **record})
    with pytest.raises(DataError, match=exactly(f"{path}, line 1: property 'x' of 'docs' {reason}")):
        catalog.register("docs", str(Path(path).parent / "b.jsonl"), properties={"x": source})
    assert catalog.version == 0


def test_what_cannot_be_as_declared_is_left_out_on_demand(catalog: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", {"text": "x", "lang": "en"}, {"text": "y"}, {"text": "z", "lang": "de"})
    catalog.register("docs", path, properties={"lang": STRICT}, on_error="skip")
    assert [row["lang"] for row in catalog.sql("SELECT lang FROM samples ORDER BY row").to_pylist()] == ["en", "de"]
    (skipped,) = catalog.sql("SELECT place, reason FROM skipped").to_pylist()
    assert skipped["place"] == "line 2"
    assert skipped["reason"] == "property 'lang' of 'docs' is null here, but declared to have a value always"
    assert catalog.properties().to_pylist()[0]["type"] == "string not null"


def test_a_declared_type_holds_for_files_that_come_later(catalog: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", {"text": "x", "lang": "en"})
    catalog.register("docs", str(Path(path).parent), properties={"lang": STRICT})
    path = write_lines("b.jsonl", {"text": "y"})
    with pytest.raises(DataError, match=f"{re.escape(path)}, line 1: property 'lang' of 'docs' is null here"):
        catalog.refresh("docs")


def test_a_declared_type_is_taken_where_no_record_has_a_value(catalog: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", {"text": "x", "n": None})
    catalog.register("docs", path, properties={"n": {"expression": "n", "type": "list<int64>"}})
    assert catalog.properties().to_pylist()[0]["type"] == "list<item: int64>"


def test_every_record_has_its_text_under_one_name(catalog: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", {"content": {"body": "four"}})
    catalog.register("docs", path, text="content.body", properties={"n": "CAST(character_length(_text) AS BIGINT)"})
    assert catalog.sql("SELECT n FROM samples").to_pylist() == [{"n": 4}]
