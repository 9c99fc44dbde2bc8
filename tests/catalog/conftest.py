"""What the catalog's tests share: an empty lake, files to register, samples read back, and properties computed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import BatchFunction, Catalog, DataFile, Span
from mixlake.catalog.declaring import declare
from mixlake.catalog.formats import Format, get_format
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import Problems
from mixlake.catalog.properties import FieldWidenedError, PropertyColumns, PropertyTypes
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import FieldPath
from mixlake.catalog.scanning import Scan, ScannedBlock, probe_types, scan_files


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """The catalog of a new lake."""
    return Catalog.create(str(tmp_path / "lake"))


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., str]:
    """Writes records (or lines as they are) as a file below ``data/`` and returns its path."""

    def write(name: str, *lines: Mapping[str, Any] | str) -> str:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        path.write_bytes("".join(f"{text}\n" for text in texts).encode())
        return str(path)

    return write


@pytest.fixture
def read_back(catalog: Catalog) -> Callable[[str], list[dict[str, Any]]]:
    """Reads every sample of a dataset out of its file, one by one, by nothing but its row in `samples`."""

    def read(name: str) -> list[dict[str, Any]]:
        dataset = catalog.dataset(name)
        files = catalog.sql(f"SELECT * FROM files WHERE dataset = '{name}'").to_pylist()
        rows = catalog.sql(f"SELECT * FROM samples WHERE dataset = '{name}' ORDER BY file_id, row").to_pylist()
        by_id = {file["file_id"]: as_data_file(file) for file in files}
        data_format, cache = get_format(dataset.format), ReadCache()
        return [
            record
            for row in rows
            for record in data_format.read(by_id[row["file_id"]], [as_span(row)], None, dataset.options, cache)
        ]

    return read


def as_data_file(row: Mapping[str, Any]) -> DataFile:
    modified_us = os.stat(row["uri"]).st_mtime_ns // 1000
    return DataFile(uri=row["uri"], path=row["path"], num_bytes=row["num_bytes"], modified_us=modified_us)


def as_span(row: Mapping[str, Any]) -> Span:
    start, stop = row["byte_start"], row["byte_stop"]
    return Span(
        row_start=row["row"],
        row_stop=row["row"] + 1,
        byte_start=-1 if start is None else start,
        byte_stop=-1 if stop is None else stop,
    )


def _refuse(block: ScannedBlock, index: int, reason: str) -> None:
    Problems().report(block.problem(index, reason))


def compute_all(
    data_format: Format, files: list[DataFile], properties: Mapping[str, str | BatchFunction]
) -> dict[str, list[Any]]:
    """Compute properties of files as registration does; return each property's values."""
    scan = Scan(
        dataset="docs",
        format=data_format,
        options={},
        declared=tuple(declare(properties)),
        files=tuple(files),
    )
    known_types = probe_types(scan)
    while True:
        computed: dict[str, list[Any]] = {name: [] for name in properties}
        types = PropertyTypes("docs", list(properties))
        met: dict[FieldPath, pa.DataType] = {}
        try:
            for block in scan_files(scan, known_types):
                assert isinstance(block, ScannedBlock)
                rows = types.widen(block.rows, block.place, partial(_refuse, block))
                for name in properties:
                    computed[name] += rows[name].to_pylist()
                met.update(block.field_types)
        except FieldWidenedError as widened:
            known_types[widened.path] = widened.kind
        else:
            break
    first = Span(row_start=0, row_stop=1, byte_start=0, byte_stop=Path(files[0].uri).read_bytes().find(b"\n"))
    example = data_format.read(files[0], [first], None, {}, ReadCache())[0]
    PropertyColumns("docs", scan.declared).check_fields(met, example)
    return computed


@pytest.fixture
def compute(tmp_path: Path) -> Callable[..., dict[str, list[Any]]]:
    """Computes properties of JSONL files, one for each list of records."""

    def compute(*files: list[Mapping[str, Any]], **properties: str | BatchFunction) -> dict[str, list[Any]]:
        for index, records in enumerate(files):
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (tmp_path / f"{index}.jsonl").write_text(lines)
        return compute_all(*find_files([str(tmp_path)], format_name="jsonl"), properties)

    return compute


@pytest.fixture
def compute_parquet(tmp_path: Path) -> Callable[..., dict[str, list[Any]]]:
    """Computes properties of one Parquet file with these columns."""

    def compute(columns: Mapping[str, Any], **properties: str | BatchFunction) -> dict[str, list[Any]]:
        pq.write_table(pa.table(dict(columns)), tmp_path / "a.parquet")
        return compute_all(*find_files([str(tmp_path)], format_name="parquet"), properties)

    return compute
