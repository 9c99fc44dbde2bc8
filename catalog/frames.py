"""DataFusion frames over exactly the files that a version of the lake consists of.

The snapshot's files are resolved with deltalake and given to DataFusion one by one: unlike a whole-table provider this
prunes row groups, and a registration's name becomes a literal, so that a predicate on it drops whole files.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from datafusion import DataFrame, SessionConfig, SessionContext, col, lit
from deltalake import DeltaTable

from mixlake.catalog import schema
from mixlake.catalog.lake import Lake, arrow_dataset, collected
from mixlake.catalog.records import Dataset, Part

_INDEX_COLUMNS = [f for f in schema.TABLES[schema.SAMPLES].columns if f.name != schema.REGISTRATION]
_FILE_COLUMNS = [f for f in schema.TABLES[schema.FILES].columns if f.name != schema.REGISTRATION]
_SKIPPED_COLUMNS = [f for f in schema.TABLES[schema.SKIPPED].columns if f.name != schema.REGISTRATION]

_DATASET_COLUMNS = pa.schema(
    [
        ("dataset", pa.string()),
        ("format", pa.string()),
        ("num_files", pa.int64()),
        ("num_samples", pa.int64()),
        ("num_bytes", pa.int64()),
        ("num_parts", pa.int64()),
        ("num_removed", pa.int64()),
        ("text", pa.string()),
        ("uris", pa.list_(pa.string())),
        ("registered_at", schema.TIMESTAMP),
    ]
)


def open_session(lake: Lake, version: int, datasets: Sequence[Dataset], tables: Collection[str]) -> SessionContext:
    """Return a session with some of the lake's tables: those of the catalog at a version, all others as they are now.

    Args:
        lake: the lake.
        version: of the catalog.
        datasets: what the catalog holds at that version.
        tables: names of `schema.TABLES`.
    """
    context = new_context()
    frames = {schema.SAMPLES: samples_frame, schema.FILES: files_frame, schema.SKIPPED: skipped_frame}
    for name in tables:
        if name in frames:
            frame = frames[name](context, lake, datasets)
        elif not lake.has(name):  # a table that is younger than the lake, and still empty
            frame = context.from_arrow(schema.TABLES[name].columns.empty_table())
        else:  # not as tables of deltalake's own provider: their frames die with the session that made them
            table = lake.table_at(name, version) if name == schema.DATASETS else lake.table(name)
            frame = table_frame(context, name, table)
        context.register_view(name, frame)
    return context


def new_context() -> SessionContext:
    """Return an empty session with the settings that the lake's frames need."""
    settings = {
        # Parallel sorts fail on columns that are constant in a file ("SanityCheckPlan"), as dataset is.
        "datafusion.optimizer.repartition_sorts": "false",
        # The frames give strings as plain ones: read as such, they need not be copied.
        "datafusion.execution.parquet.schema_force_view_types": "false",
    }
    return SessionContext(SessionConfig(settings))


def datasets_frame(datasets: Sequence[Dataset]) -> DataFrame:
    """Return a frame of datasets: format, counts, parts, removals, folders."""
    rows = [_described(dataset) for dataset in datasets]
    return SessionContext().from_arrow(pa.Table.from_pylist(rows, schema=_DATASET_COLUMNS))


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "format": dataset.format,
        "num_files": dataset.num_files,
        "num_samples": dataset.num_samples,
        "num_bytes": dataset.num_bytes,
        "num_parts": len(dataset.parts),
        "num_removed": sum(removal.num_samples for removal in dataset.removals),
        "text": dataset.text,
        "uris": list(dataset.uris),
        "registered_at": max(part.registered_at for part in dataset.parts),
    }


def properties_frame(datasets: Sequence[Dataset]) -> DataFrame:
    """Return a frame of all properties of datasets: dataset, name, type, expression, origin."""
    rows = [{"dataset": dataset.name, **prop.to_row()} for dataset in datasets for prop in dataset.properties]
    columns = pa.schema([pa.field("dataset", pa.string()), *schema.PROPERTY_STRUCT])
    return SessionContext().from_arrow(pa.Table.from_pylist(rows, schema=columns))


def samples_frame(context: SessionContext, lake: Lake, datasets: Sequence[Dataset]) -> DataFrame:
    """Return the `samples` view: dataset, registration, the address columns, and every live property."""
    live = {prop.name for dataset in datasets for prop in dataset.properties}
    properties = sorted((f for f in stored_properties(lake) if f.name in live), key=lambda field: field.name)
    return _union(context, lake, schema.SAMPLES, datasets, [*_INDEX_COLUMNS, *properties])


def files_frame(context: SessionContext, lake: Lake, datasets: Sequence[Dataset]) -> DataFrame:
    """Return the `files` view: dataset, registration, and the columns of the table."""
    return _union(context, lake, schema.FILES, datasets, _FILE_COLUMNS)


def skipped_frame(context: SessionContext, lake: Lake, datasets: Sequence[Dataset]) -> DataFrame:
    """Return the `skipped` view: dataset, registration, and the columns of the table."""
    return _union(context, lake, schema.SKIPPED, datasets, _SKIPPED_COLUMNS)


def index_file_frame(
    context: SessionContext, path: str, dataset: str, registration: str, properties: Sequence[pa.Field]
) -> DataFrame:
    """Return the `samples` view of one index file, which may not be published yet."""
    return _one_file(context, path, dataset, registration, [*_INDEX_COLUMNS, *properties])


def stored_properties(lake: Lake) -> list[pa.Field]:
    """Return every property that a dataset has or had, each with the one type that it has in all of them."""
    stored = pa.schema(lake.table(schema.SAMPLES).schema().to_arrow())
    return [field for field in stored if field.name not in schema.TABLES[schema.SAMPLES].columns.names]


def _union(
    context: SessionContext, lake: Lake, name: str, datasets: Sequence[Dataset], columns: Sequence[pa.Field]
) -> DataFrame:
    frames = [
        _one_file(context, os.path.join(lake.path(name), path), dataset.name, part.registration, columns)
        for dataset, part, paths in _paths(lake, name, datasets)
        for path in paths
    ]
    if not frames:
        names = [pa.field("dataset", pa.string()), pa.field("registration", pa.string()), *columns]
        frame = context.from_arrow(pa.schema(names).empty_table(), "rows")
        context.deregister_table("rows")  # the frame holds it
        return frame
    return _balanced_union(frames)


def _paths(lake: Lake, name: str, datasets: Sequence[Dataset]) -> Iterator[tuple[Dataset, Part, list[str]]]:
    """Yield the files that every part has in a table.

    Raises:
        LakeError: a part lacks rows that it had when it was published.
    """
    if not lake.has(name):
        return
    table = lake.table(name)
    by_registration = files_by_registration(table)
    for dataset in datasets:
        for part in dataset.parts:
            paths = by_registration.get(part.registration, [])
            if not paths and (name == schema.FILES or (name == schema.SAMPLES and part.num_samples)):
                raise collected(name, table.version(), dataset.name, part.registration)
            yield dataset, part, paths


def table_frame(context: SessionContext, name: str, table: DeltaTable) -> DataFrame:
    """Return a frame of a table whose commits are many and small: its files as one Arrow dataset, pruned by a filter.

    DataFusion cannot sort a dataset of which a filter leaves no fragment ("SanityCheckPlan"), so there is one more in
    memory: a row without a name, which the frame leaves out again.
    """
    columns = schema.TABLES[name].columns
    nameless = pads.dataset(pa.Table.from_pylist([{columns.names[0]: ""}], schema=columns))
    stored = [arrow_dataset(table).replace_schema(columns)] if table.file_uris() else []
    context.register_dataset("rows", pads.dataset([nameless, *stored]))
    frame = context.table("rows").filter(col(columns.names[0]) != lit(""))
    context.deregister_table("rows")  # the frame holds it
    return frame


def _balanced_union(frames: list[DataFrame]) -> DataFrame:
    while len(frames) > 1:  # in pairs: planning a chain of 900 unions takes 9 s, planning a balanced tree 0.5 s
        pairs = [frames[i].union(frames[i + 1]) for i in range(0, len(frames) - 1, 2)]
        frames = pairs + frames[2 * len(pairs) :]
    return frames[0]


def files_by_registration(table: DeltaTable) -> dict[str, list[str]]:
    """Return the paths of a table's files, below its folder, of each registration that has any."""
    actions = pa.table(table.get_add_actions(flatten=True))
    paths: dict[str, list[str]] = {}
    for path, registration in zip(
        actions["path"].to_pylist(), actions["partition.registration"].to_pylist(), strict=True
    ):
        paths.setdefault(registration, []).append(path)
    return {registration: sorted(files) for registration, files in paths.items()}


def _one_file(
    context: SessionContext, path: str, dataset: str, registration: str, columns: Sequence[pa.Field]
) -> DataFrame:
    frame = context.read_parquet(path)
    present = set(frame.schema().names)
    literals = [lit(dataset).alias("dataset"), lit(registration).alias("registration")]
    return frame.select(
        *literals,
        *((col(f.name) if f.name in present else lit(None)).cast(f.type).alias(f.name) for f in columns),
    )
