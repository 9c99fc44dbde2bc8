"""What the tables of a lake hold, in words: for people who ask them in SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from mixlake.catalog import schema
from mixlake.catalog.catalog import Catalog
from mixlake.catalog.errors import QueryError, listed, nearest

VIEWS = (schema.SAMPLES, schema.FILES, schema.SKIPPED)
"""Tables that SQL shows with the name of the dataset in front."""
DATASET_COLUMN = schema.Column("dataset", pa.string(), "name of the dataset; in SQL only")


class ColumnRow(NamedTuple):
    """A column as a person reads it."""

    column: str
    """A field of the structs that a column lists is ``weights[].component``."""
    type: str
    meaning: str


def describe_tables(catalog: Catalog) -> list[dict[str, object]]:
    """Return name, number of rows at the catalog's version, and what a row is, of every table."""
    return [
        {
            "table": name,
            "rows": catalog.sql(f"SELECT count(*) AS n FROM {name}").to_pylist()[0]["n"],
            "a row is": table.row,
        }
        for name, table in schema.TABLES.items()
    ]


def describe_columns(catalog: Catalog, name: str) -> list[ColumnRow]:
    """Return the columns of a table as SQL shows it at the catalog's version: in `samples`, properties too.

    Raises:
        QueryError: there is no such table.
    """
    if name not in schema.TABLES:
        raise QueryError(f"unknown table {name!r}; there are: {listed(schema.TABLES)}.{nearest(name, schema.TABLES)}")
    rows = described_columns(name)
    if name == schema.SAMPLES:
        rows += _property_rows(catalog)
    return rows


def described_columns(name: str) -> list[ColumnRow]:
    """Return the columns that a table has in SQL in every lake."""
    described = schema.TABLES[name].described
    return list(_rows([DATASET_COLUMN, *described] if name in VIEWS else described))


def _rows(columns: Sequence[schema.Column], within: str = "") -> Iterator[ColumnRow]:
    for column in columns:
        yield ColumnRow(within + column.name, _type_name(column), column.meaning)
        yield from _rows(column.inner, f"{within}{column.name}[].")


def _type_name(column: schema.Column) -> str:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return "timestamp"  # all are in microseconds, UTC
    if pa.types.is_list(kind):
        return f"list of {'structs' if column.inner else kind.value_type}"
    return str(kind)


def _property_rows(catalog: Catalog) -> list[ColumnRow]:
    """Return the properties, with the datasets that have them."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for dataset in catalog.list_datasets():
        for prop in dataset.properties:
            found.setdefault((prop.name, prop.type, prop.expression), []).append(dataset.name)
    return [
        ColumnRow(name, kind, f"property of {', '.join(datasets)}: {expression}")
        for (name, kind, expression), datasets in sorted(found.items())
    ]
