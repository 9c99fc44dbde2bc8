"""A lake that was made before some columns and tables: it is read as it is, and completed when it is written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from mixlake.catalog import Catalog, schema

WriteLines = Callable[..., str]

LATER_COLUMNS = {schema.DATASETS: ["part", "exclude", "removals", "fields"]}
LATER_TABLES = [schema.SKIPPED, schema.DECISIONS, schema.POLICIES, schema.REPLACED, schema.EVALUATIONS]


@pytest.fixture
def older(catalog: Catalog, tmp_path: Path, write_lines: WriteLines) -> Catalog:
    """The catalog of a lake of the first schema, with a dataset of two samples."""
    catalog.register("old", write_lines("a.jsonl", {"text": "x", "n": 1}, {"text": "y", "n": 2}), properties={"n": "n"})
    for name in schema.TABLES:
        if name not in LATER_TABLES:
            table = catalog.lake.table(name)
            rows = table.to_pyarrow_table().drop_columns(LATER_COLUMNS.get(name, []))
            partitions = list(schema.TABLES[name].partition_by)
            write_deltalake(str(tmp_path / "older" / name), rows, partition_by=partitions, mode="overwrite")
    return Catalog.open(str(tmp_path / "older"))


def counts_of(catalog: Catalog) -> list[tuple[str, int]]:
    rows = catalog.sql("SELECT dataset, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1").to_pylist()
    return [(row["dataset"], row["n"]) for row in rows]


def test_an_older_lake_is_read_without_a_change_to_it(older: Catalog) -> None:
    (dataset,) = older.list_datasets()
    assert (dataset.num_samples, dataset.exclude, dataset.removals, len(dataset.parts)) == (2, None, (), 1)
    assert counts_of(older) == [("old", 2)]
    assert [row["num_parts"] for row in older.datasets().to_pylist()] == [1]
    assert older.sql("SELECT part, removals FROM datasets").to_pylist() == [{"part": None, "removals": None}]
    assert older.sql("SELECT * FROM skipped").to_pylist() == []
    assert older.version == 0
    assert not Path(older.lake.path(schema.SKIPPED)).exists()


def test_the_first_write_adds_the_columns_that_are_missing(older: Catalog, write_lines: WriteLines) -> None:
    version = older.register("new", write_lines("b.jsonl", {"text": "z"}))
    assert version == older.version == 2
    assert [row["action"] for row in older.history().to_pylist()] == ["register", "add columns", "create"]
    assert counts_of(older) == [("new", 1), ("old", 2)]
    assert older.sql("SELECT dataset, part FROM datasets ORDER BY 1").to_pylist() == [
        {"dataset": "new", "part": 0},
        {"dataset": "old", "part": None},
    ]
    stored = pa.schema(DeltaTable(older.lake.path(schema.DATASETS)).schema().to_arrow())
    assert stored.names == schema.TABLES[schema.DATASETS].columns.names
    assert counts_of(older.at(version=0)) == [("old", 2)]


def test_a_table_that_is_missing_is_made_at_its_first_row(older: Catalog) -> None:
    (registration,) = older.dataset("old").registrations
    row = {"registration": registration, "file_id": 0, "uri": "a.jsonl", "place": "line 3", "reason": "not JSON"}
    rows = pa.Table.from_pylist([row], schema=schema.TABLES[schema.SKIPPED].columns)
    assert older.lake.append(schema.SKIPPED, rows, action="register") == 1
    (shown,) = older.sql("SELECT * FROM skipped").to_pylist()
    assert shown == {"dataset": "old", **row, "byte_start": None, "byte_stop": None}


def test_rows_of_registrations_that_nobody_sees_are_not_shown_as_skipped(older: Catalog) -> None:
    rows = pa.Table.from_pylist([{"registration": "never-published"}], schema=schema.TABLES[schema.SKIPPED].columns)
    older.lake.append(schema.SKIPPED, rows, action="register")
    assert older.sql("SELECT * FROM skipped").to_pylist() == []
