"""The index of a registration, copied without some of its rows.

Registrations never change, so a part that loses samples is replaced by a copy of its index. The files themselves are
not read: rows stream from Parquet to Parquet, in storage order, and keep their addresses and their blocks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from datafusion import DataFrame, SessionConfig, SessionContext

from mixlake.catalog import schema
from mixlake.catalog.errors import QueryError
from mixlake.catalog.frames import files_by_registration, index_file_frame, stored_properties
from mixlake.catalog.lake import Lake, arrow_dataset
from mixlake.catalog.publishing import new_registration
from mixlake.catalog.records import Dataset, Part, Property
from mixlake.catalog.sample_writer import SampleWriter
from mixlake.catalog.sql import first_line


def without(predicates: Iterable[str]) -> str | None:
    """Return the predicate of rows that match none of some predicates, or None where there is none.

    A row that a predicate is null for does not match it. Line ends let a predicate end in a comment.
    """
    return " AND ".join(f"((\n{predicate}\n) IS NOT TRUE)" for predicate in predicates) or None


def copy_part(
    lake: Lake,
    dataset: Dataset,
    part: Part,
    *,
    keep: str | None = None,
    drop_files: Collection[int] = (),
    progress: Callable[[int], None] | None = None,
) -> Part | None:
    """Write the rows of a part under a new registration, which nobody sees yet, and return the part that it makes.

    Args:
        lake: where to.
        dataset: the part's dataset.
        part: what to copy.
        keep: the predicate of the rows to keep; None keeps all.
        drop_files: ids of files that leave, with their rows.
        progress: called with the number of rows that were looked at, now and then.

    Returns:
        The part, or None where no file is left.
    """
    if not len(_rows_of(lake, schema.FILES, part.registration, drop_files)):
        return None
    registration = new_registration(dataset.name)
    paths = files_by_registration(lake.table(schema.SAMPLES)).get(part.registration, [])
    rows = kept_rows(
        lake,
        [os.path.join(lake.path(schema.SAMPLES), path) for path in paths],
        dataset=dataset.name,
        registration=part.registration,
        properties=dataset.properties,
        keep=keep,
        drop_files=drop_files,
        progress=progress,
    )
    with SampleWriter(lake, registration) as writer:
        counts = write_rows(writer, rows)
        writer.commit(index_columns(lake, dataset.properties))
    return copy_files(lake, part, registration, counts, drop_files)


def copy_files(
    lake: Lake, part: Part, registration: str, counts: Counter[int], drop_files: Collection[int] = ()
) -> Part:
    """Write what a part knows of its files under a new registration whose index is written; return the new part.

    Args:
        lake: where to.
        part: the part that is copied.
        registration: the new registration.
        counts: how many samples of each file it holds.
        drop_files: ids of files that leave.
    """
    files = _rows_of(lake, schema.FILES, part.registration, drop_files)
    counted = pa.array([counts[file_id] for file_id in files["file_id"].to_pylist()], pa.int64())
    files = files.set_column(files.schema.get_field_index("num_samples"), "num_samples", counted)
    lake.append(schema.FILES, _under(registration, files), action="copy")
    skipped = _rows_of(lake, schema.SKIPPED, part.registration, drop_files)
    if len(skipped):
        lake.append(schema.SKIPPED, _under(registration, skipped), action="copy")
    return replace(
        part,
        registration=registration,
        num_files=len(files),
        num_samples=sum(counts.values()),
        num_bytes=pc.sum(files["num_bytes"]).as_py(),
        registered_at=datetime.now(UTC),
    )


def kept_rows(
    lake: Lake,
    paths: Sequence[str],
    *,
    dataset: str,
    registration: str,
    properties: Sequence[Property],
    keep: str | None,
    drop_files: Collection[int] = (),
    progress: Callable[[int], None] | None = None,
) -> Iterator[pa.Table]:
    """Yield the rows of index files that are to be kept, file by file, in storage order, some thousands at a time.

    Raises:
        QueryError: the predicate fails on a row.
    """
    dropped = pa.array(sorted(drop_files), pa.int32())
    columns = index_columns(lake, properties)
    for path in paths:
        # One partition, or rows would come in any order.
        context = SessionContext(SessionConfig().with_target_partitions(1))
        frame = index_file_frame(context, path, dataset, registration, stored_properties(lake))
        kept = frame if keep is None else frame.filter(frame.parse_sql_expr(keep))
        for batch in _stream(kept.select(*columns.names), f"dataset {dataset!r}"):
            rows = pa.Table.from_batches([batch]).cast(columns)
            yield rows.filter(pc.invert(pc.is_in(rows["file_id"], value_set=dropped))) if len(dropped) else rows
        if progress is not None:
            progress(_num_rows(path))


def write_rows(writer: SampleWriter, rows: Iterable[pa.Table]) -> Counter[int]:
    """Write index rows and return how many samples each file has."""
    counts: Counter[int] = Counter()
    for table in rows:
        if len(table):
            writer.write(table)
            ids, num = np.unique(table["file_id"].to_numpy(), return_counts=True)
            counts.update(dict(zip(ids.tolist(), num.tolist(), strict=True)))
    return counts


def index_columns(lake: Lake, properties: Sequence[Property]) -> pa.Schema:
    """Return the columns of the index files of a dataset with these properties."""
    wanted = {prop.name for prop in properties}
    fixed = [field for field in schema.TABLES[schema.SAMPLES].columns if field.name != schema.REGISTRATION]
    return pa.schema([*fixed, *(field for field in stored_properties(lake) if field.name in wanted)])


def _stream(frame: DataFrame, what: str) -> Iterator[pa.RecordBatch]:
    try:
        for batch in frame.execute_stream():
            yield batch.to_pyarrow()
    except Exception as error:  # datafusion raises bare Exception for values that an expression fails on: n / 0
        raise QueryError(f"a predicate fails on a sample of {what}: {first_line(error)}") from error


def _num_rows(path: str) -> int:
    return int(pads.dataset(path).count_rows())


def _rows_of(lake: Lake, name: str, registration: str, drop_files: Collection[int]) -> pa.Table:
    """Return a registration's rows of a table by file, without those of some files."""
    if not lake.has(name):
        return schema.TABLES[name].columns.empty_table()
    is_kept = pads.field(schema.REGISTRATION) == registration
    if drop_files:
        is_kept &= ~pads.field("file_id").isin(sorted(drop_files))
    stored = arrow_dataset(lake.table(name)).replace_schema(schema.TABLES[name].columns)
    return stored.to_table(filter=is_kept).sort_by("file_id")


def _under(registration: str, rows: pa.Table) -> pa.Table:
    return rows.set_column(
        rows.schema.get_field_index(schema.REGISTRATION),
        schema.REGISTRATION,
        pa.array([registration] * len(rows), pa.string()),
    )
