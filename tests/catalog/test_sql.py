"""SQL that can only read: queries, predicates, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datafusion import DataFrame, SessionContext

from mixlake.catalog import Catalog, QueryError
from mixlake.catalog.sql import check_predicate, first_line, refuse_impure

TABLES = (
    "chunks, datasets, decisions, evaluations, feedback, files, policies, replaced, runs, samples, skipped, weights"
)
COLUMNS = "dataset, registration, file_id, block, row, byte_start, byte_stop, language"


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sql")


@pytest.fixture(scope="module")
def greetings(folder: Path) -> Catalog:
    """A catalog with two samples in the dataset ``greetings``, with a property ``language``."""
    path = folder / "greetings.jsonl"
    path.write_text('{"text": "Hallo", "language": "de"}\n{"text": "Hello", "language": "en"}\n')
    catalog = Catalog.create(str(folder / "lake"))
    catalog.register("greetings", str(path), properties={"language": "language"})
    return catalog


@pytest.fixture
def frame() -> DataFrame:
    """A frame with the columns that predicates of these tests are about, and rows that nobody may read."""
    rows = pa.table({"language": ["de", None], "score": [0.5, None], "num": [1, 0], "is_good": [True, None]})
    return SessionContext().from_arrow(rows)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT language, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1", [("de", 1), ("en", 1)]),
        ("WITH x AS (SELECT 1 AS a) SELECT * FROM x;", [(1,)]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        (
            "SELECT d.format, f.path FROM datasets d JOIN files f ON d.dataset = f.dataset",
            [("jsonl", "greetings.jsonl")],
        ),
        ("SELECT row FROM samples WHERE language = 'en' UNION ALL SELECT 7 ORDER BY 1", [(1,), (7,)]),
        (
            "SELECT rank() OVER (PARTITION BY dataset ORDER BY row DESC), row FROM samples ORDER BY 1",
            [(1, 1), (2, 0)],
        ),
        ("SELECT count(*) FROM runs, weights, chunks, feedback", [(0,)]),
    ],
)
def test_a_query_reads_the_tables_of_the_lake(greetings: Catalog, query: str, rows: list[tuple[Any, ...]]) -> None:
    assert [tuple(row.values()) for row in greetings.sql(query).to_pylist()] == rows


def test_what_explains_or_describes_may_be_asked(greetings: Catalog) -> None:
    assert len(greetings.sql("EXPLAIN SELECT * FROM samples").to_pylist()) == 2
    described = greetings.sql("DESCRIBE samples").to_pylist()
    assert [row["column_name"] for row in described] == COLUMNS.split(", ")


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{folder}'",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "DROP TABLE samples",
        "INSERT INTO datasets SELECT * FROM datasets",
        "INSERT INTO samples SELECT * FROM samples",
        "UPDATE samples SET row = 1",
        "DELETE FROM samples",
        "TRUNCATE TABLE samples",
        "COPY (SELECT 1) TO '{folder}/copied.parquet'",
        "COPY samples TO '{folder}/copied.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/copied.parquet'",
        "EXPLAIN ANALYZE INSERT INTO samples SELECT * FROM samples",
        "SET datafusion.catalog.information_schema = true",
        "PREPARE p AS SELECT 1",
        "BEGIN",
        "SELECT 1; DROP TABLE samples",
    ],
)
def test_what_would_write_or_change_the_session_is_refused(greetings: Catalog, folder: Path, query: str) -> None:
    asked = query.format(folder=folder)
    before = snapshot(folder)
    with pytest.raises(QueryError, match=f" in: {re.escape(asked)}$"):
        greetings.sql(asked)
    assert snapshot(folder) == before
    assert greetings.sql("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 2}]


@pytest.mark.parametrize("place", ["{folder}/greetings.jsonl", "{folder}/lake/samples", "/etc/passwd"])
def test_a_file_is_not_a_table(greetings: Catalog, folder: Path, place: str) -> None:
    path = place.format(folder=folder)
    query = f"SELECT * FROM '{path}'"
    with pytest.raises(QueryError, match=exactly(f"unknown table {path!r}; there are: {TABLES}. in: {query}")):
        greetings.sql(query)


def test_an_unknown_table_is_refused_with_the_nearest(greetings: Catalog) -> None:
    query = "SELECT * FROM sample"
    message = f"unknown table 'sample'; there are: {TABLES}. Did you mean 'samples'? in: {query}"
    with pytest.raises(QueryError, match=exactly(message)):
        greetings.sql(query)


@pytest.mark.parametrize("column", ["langauge", "samples.langauge", "s.langauge", '"langauge"'])
def test_an_unknown_column_is_refused_with_the_nearest(greetings: Catalog, column: str) -> None:
    alias = "s" if column.startswith("s.") else ""
    query = f"SELECT {column} FROM samples {alias}".strip()
    message = f"unknown column 'langauge'; catalog@1 has: {COLUMNS}. Did you mean 'language'? in: {query}"
    with pytest.raises(QueryError, match=exactly(message)):
        greetings.sql(query)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "No SQL statements were provided.+"),
        ("SELEC 1", r"ParserError\(.+SELEC.+\)"),
        ("SELECT nosuch(1)", r"Invalid function 'nosuch'\..+"),
        ("DROP TABLE samples", "DropTable is refused: queries only read"),
        (
            "SELECT i['componnt'] FROM (SELECT unnest(intervals) AS i FROM chunks)",
            r"unknown field 'componnt' of a struct; fields: .+, component, .+\. Did you mean 'component'\?",
        ),
        ("SELECT upper(row) FROM samples", "Function 'upper' requires String.+"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_with_the_reason(greetings: Catalog, query: str, reason: str) -> None:
    with pytest.raises(QueryError, match=f"^{reason} in: {re.escape(query)}$"):
        greetings.sql(query)


# Predicates


@pytest.mark.parametrize(
    "predicate",
    [
        "language = 'de'",
        "score > 0.5 AND num BETWEEN 1 AND 3",
        "is_good",
        "language IS NULL OR language IN ('de', 'en')",
        "1 / num > 2",
        "CAST(language AS BIGINT) = 1",
        "true",
    ],
)
def test_a_predicate_is_checked_without_reading_a_row(frame: DataFrame, predicate: str) -> None:
    check_predicate(frame, predicate, "filter", "samples@3")


@pytest.mark.parametrize(
    ("predicate", "reason"),
    [
        (
            "langauge = 'de'",
            r"unknown property 'langauge'; samples@3 has: .+\. Did you mean 'language'\? in: .+",
        ),
        ("language = = 'de'", r"ParserError\(.+\) in: .+"),
        ("lengthh(language) > 1", r"Invalid function 'lengthh'\. Did you mean 'length'\? in: .+"),
        ("num = 'de'", r"Cast error: Cannot cast string 'de' to value of Int64 type in: .+"),
        ("num LIKE 'd%'", r"There isn't a common type .+ in: .+"),
        ("count(*) > 1", r"This feature is not implemented: .+ in: .+"),
        ("row_number() OVER () < 10", r"OVER looks at other samples; expected an expression over one sample"),
        ("EXISTS (SELECT 1 FROM samples)", r".+ in: .+"),
        ("uuid() > 'a'", r"uuid gives another answer at each call, so a run could not be repeated"),
        ("num + 1", r"'num \+ 1' is int64, expected true or false for each sample"),
        ("language", r"'language' is string, expected true or false for each sample"),
        ("  ", r"expected an SQL predicate, got '  '"),
        (None, r"expected an SQL predicate, got None"),
    ],
)
def test_a_predicate_that_is_no_answer_about_one_sample_is_refused(
    frame: DataFrame, predicate: Any, reason: str
) -> None:
    with pytest.raises(QueryError, match=f"^component 'german': {reason}$"):
        check_predicate(frame, predicate, "component 'german'", "samples@3")


@pytest.mark.parametrize(
    ("expression", "function"),
    [
        ("random() < 0.1", "random"),
        ("RANDOM () < 0.1", "RANDOM"),
        ("now > 5 AND random() < 0.5", "random"),
        ('"random"() < 0.1', "random"),
        ("random/* not */() < 0.1", "random"),
        ("random -- not\n () < 0.1", "random"),
        ("created < now()", "now"),
        ("created < CURRENT_DATE", "CURRENT_DATE"),
        ("created < current_timestamp", "current_timestamp"),
        ("\"it's\" = 'x' OR random() > 0 OR a = 'it'", "random"),
    ],
)
def test_a_function_of_the_call_is_refused_however_it_is_written(expression: str, function: str) -> None:
    message = f"filter: {function} gives another answer at each call, so a run could not be repeated"
    with pytest.raises(QueryError, match=exactly(message)):
        refuse_impure(expression, "filter")


@pytest.mark.parametrize(
    "expression",
    [
        "kind = 'random()'",
        "kind = 'it''s now()'",
        "meta.current_date = '2024-01-01'",
        '"current_date" IS NULL',
        '"now (UTC)" > 5',
        "now > 5 AND uuid = 'a'",
        "my_random(x)",
        "x > 1 -- random()",
        "lower(over) = 'x'",
    ],
)
def test_names_and_strings_that_only_look_like_such_a_function_are_allowed(expression: str) -> None:
    refuse_impure(expression, "filter")


# Messages of the engine


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("DataFusion error: Error during planning: Too odd.\nDid you mean 'add'?", "Too odd. Did you mean 'add'?"),
        ("Optimizer rule 'x' failed\ncaused by\nArrow error: Cast error: no", "Cast error: no"),
        ("Schema error: one\ntwo\nthree", "one"),
        ("", "ValueError"),
        ("\n\nlate", "late"),
        ("x" * 400, "x" * 300 + "…"),
    ],
)
def test_the_telling_part_of_a_message_is_its_innermost_cause(message: str, told: str) -> None:
    assert first_line(ValueError(message)) == told
