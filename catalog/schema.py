"""The tables of a lake: names, columns, types, partitions.

Every table is a Delta table under the lake's URI, readable by any Delta reader. `datasets` is the root of visibility:
its Delta version is the catalog version, and a registration exists from the commit that lists it there. Columns may be
added at the end of a table: a lake that was made before reads them as null, and gets them when it is written next.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

DATASETS = "datasets"
FILES = "files"
SAMPLES = "samples"
SKIPPED = "skipped"
RUNS = "runs"
WEIGHTS = "weights"
CHUNKS = "chunks"
FEEDBACK = "feedback"
DECISIONS = "decisions"
POLICIES = "policies"
REPLACED = "replaced"
EVALUATIONS = "evaluations"

DATASET = "dataset"
REGISTRATION = "registration"
RUN = "run"

PROPERTY_STRUCT = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("type", pa.string()),
        pa.field("expression", pa.string()),
        pa.field("origin", pa.string()),
    ]
)

FIELD_STRUCT = pa.struct([pa.field("field", pa.string()), pa.field("type", pa.string())])

REMOVAL_STRUCT = pa.struct(
    [
        pa.field("where", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("user", pa.string()),
        pa.field("removed_at", TIMESTAMP),
        pa.field("num_samples", pa.int64()),
    ]
)

INTERVAL_STRUCT = pa.struct(
    [
        pa.field("component", pa.string()),
        pa.field("registration", pa.string()),
        pa.field("file_id", pa.int32()),
        pa.field("row_start", pa.int64()),
        pa.field("row_stop", pa.int64()),
        pa.field("byte_start", pa.int64()),
        pa.field("byte_stop", pa.int64()),
        pa.field("pass", pa.int32()),
    ]
)

WEIGHT_STRUCT = pa.struct([pa.field("component", pa.string()), pa.field("weight", pa.float64())])


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSchema:
    """One table: its Arrow schema and the columns it is partitioned by."""

    columns: pa.Schema
    partition_by: tuple[str, ...] = ()


TABLES: dict[str, TableSchema] = {
    DATASETS: TableSchema(
        columns=pa.schema(
            [
                pa.field("dataset", pa.string()),
                pa.field("registration", pa.string()),
                pa.field("uris", pa.list_(pa.string())),
                pa.field("format", pa.string()),
                pa.field("text", pa.string()),
                pa.field("options", pa.string()),
                pa.field("properties", pa.list_(PROPERTY_STRUCT)),
                pa.field("num_files", pa.int64()),
                pa.field("num_samples", pa.int64()),
                pa.field("num_bytes", pa.int64()),
                pa.field("registered_at", TIMESTAMP),
                pa.field("part", pa.int32()),
                pa.field("exclude", pa.list_(pa.string())),
                pa.field("removals", pa.list_(REMOVAL_STRUCT)),
                pa.field("fields", pa.list_(FIELD_STRUCT)),
            ]
        )
    ),
    FILES: TableSchema(
        columns=pa.schema(
            [
                pa.field("registration", pa.string()),
                pa.field("file_id", pa.int32()),
                pa.field("uri", pa.string()),
                pa.field("path", pa.string()),
                pa.field("num_bytes", pa.int64()),
                pa.field("modified", TIMESTAMP),
                pa.field("compression", pa.string()),
                pa.field("num_samples", pa.int64()),
            ]
        ),
        partition_by=("registration",),
    ),
    SAMPLES: TableSchema(
        columns=pa.schema(
            [
                pa.field("registration", pa.string()),
                pa.field("file_id", pa.int32()),
                pa.field("block", pa.int32()),
                pa.field("row", pa.int64()),
                pa.field("byte_start", pa.int64()),
                pa.field("byte_stop", pa.int64()),
            ]
        ),
        partition_by=("registration",),
    ),
    SKIPPED: TableSchema(
        columns=pa.schema(
            [
                pa.field("registration", pa.string()),
                pa.field("file_id", pa.int32()),
                pa.field("uri", pa.string()),
                pa.field("place", pa.string()),
                pa.field("byte_start", pa.int64()),
                pa.field("byte_stop", pa.int64()),
                pa.field("reason", pa.string()),
            ]
        ),
        partition_by=("registration",),
    ),
    RUNS: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("catalog_version", pa.int64()),
                pa.field("mixture", pa.string()),
                pa.field("curriculum", pa.string()),
                pa.field("adapt", pa.string()),
                pa.field("resolution", pa.string()),
                pa.field("seed", pa.int64()),
                pa.field("chunk_size", pa.int64()),
                pa.field("lanes", pa.int32()),
                pa.field("length", pa.string()),
                pa.field("step", pa.string()),
                pa.field("parent", pa.string()),
                pa.field("at_chunk", pa.int64()),
                pa.field("config", pa.string()),
                pa.field("config_hash", pa.string()),
                pa.field("created_at", TIMESTAMP),
            ]
        )
    ),
    WEIGHTS: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("version", pa.int64()),
                pa.field("step", pa.int64()),
                pa.field("chunk", pa.int64()),
                pa.field("weights", pa.list_(WEIGHT_STRUCT)),
                pa.field("cause", pa.string()),
                pa.field("details", pa.string()),
                pa.field("created_at", TIMESTAMP),
            ]
        ),
        partition_by=("run",),
    ),
    CHUNKS: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("chunk", pa.int64()),
                pa.field("weights_version", pa.int64()),
                pa.field("stage", pa.int32()),
                pa.field("num_samples", pa.int64()),
                pa.field("intervals", pa.list_(INTERVAL_STRUCT)),
                pa.field("component_order", pa.list_(pa.int16())),
                pa.field("cursor", pa.string()),
                pa.field("is_last", pa.bool_()),
                pa.field("created_at", TIMESTAMP),
            ]
        ),
        partition_by=("run",),
    ),
    FEEDBACK: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("step", pa.int64()),
                pa.field("component", pa.string()),
                pa.field("loss_sum", pa.float64()),
                pa.field("num_tokens", pa.int64()),
                pa.field("weights_version", pa.int64()),
                pa.field("chunk", pa.int64()),
            ]
        ),
        partition_by=("run",),
    ),
    DECISIONS: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("step", pa.int64()),
                pa.field("chunk", pa.int64()),
                pa.field("weights", pa.list_(WEIGHT_STRUCT)),
                pa.field("details", pa.string()),
                pa.field("created_at", TIMESTAMP),
            ]
        ),
        partition_by=("run",),
    ),
    POLICIES: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("step", pa.int64()),
                pa.field("state", pa.string()),
                pa.field("created_at", TIMESTAMP),
            ]
        ),
        partition_by=("run",),
    ),
    REPLACED: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("chunk", pa.int64()),
                pa.field("component", pa.string()),
                pa.field("registration", pa.string()),
                pa.field("file_id", pa.int32()),
                pa.field("row", pa.int64()),
                pa.field("reason", pa.string()),
                pa.field("by_registration", pa.string()),
                pa.field("by_file_id", pa.int32()),
                pa.field("by_row", pa.int64()),
                pa.field("replaced_at", TIMESTAMP),
            ]
        ),
        partition_by=("run",),
    ),
    EVALUATIONS: TableSchema(
        columns=pa.schema(
            [
                pa.field("run", pa.string()),
                pa.field("step", pa.int64()),
                pa.field("name", pa.string()),
                pa.field("loss", pa.float64()),
                pa.field("reported_at", TIMESTAMP),
            ]
        ),
        partition_by=("run",),
    ),
}

RESERVED_COLUMNS = frozenset(["dataset", *TABLES[SAMPLES].columns.names])
"""Column names of the `samples` view that no property may take."""
