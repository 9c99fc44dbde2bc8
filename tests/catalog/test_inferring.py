"""Which properties are proposed for records, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, ConfigError, DataError, Proposal, propose_properties

WriteLines = Callable[..., str]


def record(number: int) -> dict[str, Any]:
    return {
        "text": f"text {number} " * (1 + number % 7),
        "id": f"{number:032x}",
        "number": number,
        "url": f"https://example.org/{number}",
        "title": f"A title of its own, the {number}th",
        "summary": f"{number} " + "something longer than a category " * 5,
        "language": ["en", "de", "fr"][number % 3],
        "source": "web",
        "score": number % 13 / 7,
        "is_clean": number % 2 == 0,
        "created": f"2024-01-{1 + number % 28:02}T00:00:00Z",
        "tags": ["a", "b"][: number % 3],
        "links": [f"link {number}"],
        "author": None,
        "turns": [{"from": "human"}],
        "mixed": number if number % 2 else "text",
        "meta": {"language": "x" if number % 5 else None, "odd key": number % 4, "length": number % 100},
    }


def proposals(path: str, **options: Any) -> dict[str, Proposal]:
    return {row.name: row for row in propose_properties(path, **options).rows}


@pytest.fixture
def path(write_lines: WriteLines) -> str:
    paths = [write_lines(f"{part}.jsonl", *(record(100 * part + n) for n in range(100))) for part in range(3)]
    return str(Path(paths[0]).parent)


@pytest.mark.parametrize(
    ("name", "expression", "kind", "reason"),
    [
        ("num_bytes", "octet_length(text)", "int64", "the length of the text, which unit: bytes counts"),
        ("source", "source", "string", "the same in every record"),
        ("score", "score", "double", "a number"),
        ("is_clean", "is_clean", "bool", "yes or no"),
        ("created", "CAST(created AS TIMESTAMP)", "timestamp", "times in ISO 8601"),
        ("tags", "tags", "list<item: string>", "tags: 2 different ones"),
        ("language", "language", "string", "a category: 3 values"),
        ("meta_language", "meta.language", "string", "the same in every record"),
        ("odd_key", "meta['odd key']", "int64", "a number"),
        ("length", "meta.length", "int64", "a number"),
    ],
)
def test_what_mixtures_can_use_is_proposed(path: str, name: str, expression: str, kind: str, reason: str) -> None:
    names = {"language": "language"} if name != "meta_language" else {}
    row = proposals(path)[names.get(name, name)]
    assert (row.expression, row.type, row.is_chosen, row.reason) == (expression, kind, True, reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("id", "an id: every record has another one"),
        ("number", "an id: every record has another one, in order"),
        ("url", "URLs"),
        ("title", "free text: 300 values in 300 records"),
        ("summary", r"free text: \d+ characters on average"),
        ("author", "never has a value"),
        ("turns", "objects or bytes"),
        ("links", "lists of ever other values"),
        ("mixed", r"values of several types; CAST\(… AS STRING\) makes them one"),
    ],
)
def test_what_tells_samples_apart_is_left_out(path: str, name: str, reason: str) -> None:
    row = proposals(path)[name]
    assert not row.is_chosen
    assert re.fullmatch(reason, row.reason)


def test_counts_are_of_the_sample(path: str) -> None:
    found = propose_properties(path, num_records=30)
    assert (found.num_records, found.num_files) == (30, 3)
    row = proposals(path)["meta_language"]
    assert (row.null_share, row.num_values) == (0.2, 1)


def test_the_proposals_are_a_table(path: str) -> None:
    text = str(propose_properties(path))
    assert text.startswith("300 records of 3 files:\n")
    assert re.search(r"^\+ +created +CAST\(created AS TIMESTAMP\) +timestamp +28 +times in ISO 8601$", text, re.M)
    assert re.search(r"^\- +author +author +null +100% +0 +never has a value$", text, re.M)


def test_they_are_taken_on_demand(catalog: Catalog, path: str) -> None:
    catalog.register("docs", path, properties="infer")
    expected = propose_properties(path).properties
    assert {prop.name: prop.expression for prop in catalog.dataset("docs").properties} == expected
    assert catalog.sql("SELECT count(*) AS n FROM samples WHERE array_has(tags, 'b')").to_pylist() == [{"n": 100}]
    assert catalog.sql("SELECT max(odd_key) AS n, max(date_part('year', created)) AS y FROM samples").to_pylist()[
        0
    ] == {
        "n": 3,
        "y": 2024,
    }


def test_parquet_columns_are_proposed_too(tmp_path: Path, catalog: Catalog) -> None:
    columns = {"body": [f"text {n}" for n in range(50)], "kind": ["a", "b"] * 25, "image": [b"\xff"] * 50}
    pq.write_table(pa.table({**columns, "2nd Größe": range(0, 100, 2)}), tmp_path / "a.parquet")
    found = propose_properties(str(tmp_path / "a.parquet"), text="body")
    assert found.properties == {"num_bytes": "octet_length(body)", "kind": "kind"}
    assert {row.name: row.expression for row in found.rows if not row.is_chosen} == {
        "image": "image",
        "field_2nd_gr_e": '"2nd Größe"',
    }
    catalog.register("docs", str(tmp_path / "a.parquet"), text="body", properties="infer")


def test_records_that_cannot_be_read_are_passed_over(write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", {"text": "x", "kind": "a"}, "{broken", {"text": "y", "kind": "b"})
    assert propose_properties(path).num_records == 2
    with pytest.raises(DataError, match=r"^not one record can be read in 1 of 1 files, such as .*b\.jsonl$"):
        propose_properties(write_lines("b.jsonl", "{broken"))


def test_another_word_than_infer_is_refused(catalog: Catalog, path: str) -> None:
    with pytest.raises(ConfigError, match=r"^properties='guess': expected names and expressions, or 'infer'$"):
        catalog.register("docs", path, properties="guess")  # type: ignore[arg-type]
