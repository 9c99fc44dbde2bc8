"""Any Delta reader can read a lake: DuckDB and Polars count what the catalog counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest
from duckdb_extensions import import_extension

from mixlake.catalog import Catalog, schema
from mixlake.mixing import Mixture, Run

Counts = dict[str, int]


@pytest.fixture
def lake(tmp_path: Path) -> Catalog:
    """A catalog after registering, refreshing, removing and replacing, with a run of three chunks."""
    (tmp_path / "data").mkdir()
    catalog = Catalog.create(str(tmp_path / "lake"))

    def write(name: str, *languages: str) -> None:
        lines = [
            json.dumps({"text": f"{i}", "language": each, "tags": ["t", each]}) for i, each in enumerate(languages)
        ]
        (tmp_path / "data" / name).write_text("\n".join(lines))

    write("a.jsonl", *["de"] * 20, *["en"] * 30)
    catalog.register("replaced", str(tmp_path / "data"), properties={"language": "language"})
    catalog.register("docs", str(tmp_path / "data"), properties={"language": "language", "tags": "tags"})
    write("b.jsonl", *["fr"] * 7, *["de"] * 5)
    catalog.refresh("docs")
    catalog.register("replaced", str(tmp_path / "data"), properties={"language": "language"}, replace=True)
    catalog.remove("dataset = 'docs' AND language = 'en' AND row % 2 = 0", reason="test")
    mixture = Mixture.from_dict({"components": {"german": {"where": "language = 'de'", "weight": 1}}})
    Run.start(catalog, "exp1", mixture, chunk_size=8).schedule(3)
    return catalog


def wanted(catalog: Catalog) -> Counts:
    rows = catalog.sql("SELECT dataset, language, count(*) AS n FROM samples GROUP BY 1, 2").to_pylist()
    return {f"{row['dataset']} {row['language']}": row["n"] for row in rows}


def by_polars(catalog: Catalog) -> Counts:
    samples = polars.scan_delta(catalog.lake.path(schema.SAMPLES))
    datasets = polars.scan_delta(catalog.lake.path(schema.DATASETS))
    joined = samples.join(datasets.select("dataset", "registration"), on="registration")
    counts = joined.group_by("dataset", "language").len().collect()
    return {f"{row['dataset']} {row['language']}": row["len"] for row in counts.to_dicts()}


@pytest.fixture
def by_duckdb(tmp_path: Path) -> Callable[[Catalog], Counts]:
    """Counts with DuckDB and its Delta extension, which comes as a package."""
    connection = duckdb.connect(config={"extension_directory": str(tmp_path / "extensions")})
    import_extension("delta", con=connection)
    connection.load_extension("delta")

    def count(catalog: Catalog) -> Counts:
        tables: dict[str, Any] = {name: catalog.lake.path(name) for name in (schema.SAMPLES, schema.DATASETS)}
        rows = connection.execute(
            f"SELECT d.dataset, s.language, count(*) FROM delta_scan('{tables['samples']}') s "
            f"JOIN delta_scan('{tables['datasets']}') d ON s.registration = d.registration GROUP BY 1, 2"
        ).fetchall()
        return {f"{dataset} {language}": number for dataset, language, number in rows}

    return count


def test_duckdb_and_polars_count_the_samples_that_the_catalog_counts(
    lake: Catalog, by_duckdb: Callable[[Catalog], Counts]
) -> None:
    assert wanted(lake)["docs de"] == 25
    assert by_polars(lake) == wanted(lake)
    assert by_duckdb(lake) == wanted(lake)


@pytest.mark.parametrize("name", schema.TABLES)
def test_polars_reads_every_table_of_the_lake(lake: Catalog, name: str) -> None:
    frame = polars.read_delta(lake.lake.path(name))
    assert set(schema.TABLES[name].columns.names) <= set(frame.columns)
    if name in (schema.RUNS, schema.CHUNKS, schema.WEIGHTS):
        assert len(frame) == lake.sql(f"SELECT * FROM {name}").count()
