"""The tables of a lake: names, columns with types and meanings, partitions.

Every table is a Delta table under the lake's URI, readable by any Delta reader. `datasets` is the root of visibility:
its Delta version is the catalog version, and a registration exists from the commit that lists it there. Columns may be
added at the end of a table: a lake that was made before reads them as null, and gets them when it is written next.

What a column means is said here alone: `mixlake tables` and docs/tables.md print it.
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

_STRING, _INT, _LONG, _FLOAT = pa.string(), pa.int32(), pa.int64(), pa.float64()
_STRINGS = pa.list_(pa.string())


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, or a field of the structs that a column lists."""

    name: str
    type: pa.DataType
    meaning: str
    """With units; a word for when it is null."""
    inner: tuple[Column, ...] = ()
    """The fields of its structs, where it lists any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSchema:
    """One table: its Arrow schema, what its rows and columns mean, and the columns it is partitioned by."""

    row: str
    """What one row is."""
    columns: pa.Schema
    described: tuple[Column, ...]
    """The same columns, with what they mean."""
    partition_by: tuple[str, ...] = ()


def _table(row: str, *described: Column, partition_by: str | None = None) -> TableSchema:
    return TableSchema(
        row=row,
        columns=pa.schema([pa.field(column.name, column.type) for column in described]),
        described=described,
        partition_by=() if partition_by is None else (partition_by,),
    )


def _struct(fields: tuple[Column, ...]) -> pa.StructType:
    return pa.struct([pa.field(field.name, field.type) for field in fields])


def _list(name: str, fields: tuple[Column, ...], meaning: str) -> Column:
    return Column(name, pa.list_(_struct(fields)), meaning, fields)


_PROPERTY = (
    Column("name", _STRING, "of the property: the column of `samples`"),
    Column("type", _STRING, "Arrow type, as pyarrow writes it"),
    Column("expression", _STRING, "SQL over the record, or the qualified name of the batch function"),
    Column("origin", _STRING, "sql or function"),
)
_FIELD = (
    Column("field", _STRING, "path of the field in a record, quoted"),
    Column("type", _STRING, "Arrow type that holds the values of all records"),
)
_REMOVAL = (
    Column("where", _STRING, "the predicate that the samples matched"),
    Column("reason", _STRING, "why, as it was given"),
    Column("user", _STRING, "who removed them"),
    Column("removed_at", TIMESTAMP, "when"),
    Column("num_samples", _LONG, "how many there were"),
)
_INTERVAL = (
    Column("component", _STRING, "for which component the samples were drawn"),
    Column("registration", _STRING, "which registration they belong to"),
    Column("file_id", _INT, "their file in it"),
    Column("row_start", _LONG, "row of the first sample"),
    Column("row_stop", _LONG, "row behind the last sample"),
    Column("byte_start", _LONG, "offset of the first byte in the file; null where samples have no byte range"),
    Column("byte_stop", _LONG, "offset behind the last byte; null as byte_start"),
    Column("pass", _INT, "which pass over the component's samples, from 0"),
)
_WEIGHT = (
    Column("component", _STRING, "name of the component, with those around it: code.python"),
    Column("weight", _FLOAT, "its share of what is drawn, in the mixture's unit; all of them sum to 1"),
)

PROPERTY_STRUCT = _struct(_PROPERTY)
INTERVAL_STRUCT = _struct(_INTERVAL)

_RUN = Column("run", _STRING, "name of the run")
_REGISTRATION = Column("registration", _STRING, "which registration it belongs to")
_FILE_ID = Column("file_id", _INT, "number of the file in its registration, from 0")
_CREATED_AT = Column("created_at", TIMESTAMP, "when the row was written")

TABLES: dict[str, TableSchema] = {
    DATASETS: _table(
        "one live registration: a part of a dataset; what belongs to the whole dataset stands in each",
        Column("dataset", _STRING, "name of the dataset"),
        Column("registration", _STRING, "id of the part; registrations never change, they are replaced"),
        Column("uris", _STRINGS, "folders, globs and paths that it was registered with"),
        Column("format", _STRING, "name of the format that reads the files"),
        Column("text", _STRING, "field of the records that holds a sample's text or tokens"),
        Column("options", _STRING, "options of the format, as JSON"),
        _list("properties", _PROPERTY, "typed columns of `samples`, and where they come from"),
        Column("num_files", _LONG, "files of this part"),
        Column("num_samples", _LONG, "samples of this part"),
        Column("num_bytes", _LONG, "bytes of the files of this part, as they lie there"),
        Column("registered_at", TIMESTAMP, "when this part was published"),
        Column("part", _INT, "place among the parts of the dataset, from 0"),
        Column("exclude", _STRINGS, "patterns of paths that were left out"),
        _list("removals", _REMOVAL, "what was removed, and is kept out when files are refreshed"),
        _list("fields", _FIELD, "record fields whose types decide what an expression means"),
    ),
    FILES: _table(
        "one file",
        _REGISTRATION,
        _FILE_ID,
        Column("uri", _STRING, "where it lies"),
        Column("path", _STRING, "the part of the URI below the folder or glob that found it"),
        Column("num_bytes", _LONG, "its length as it lies there, in bytes"),
        Column("modified", TIMESTAMP, "when it was last changed; another time, and it is read again or refused"),
        Column("compression", _STRING, "gzip, zstd, xz or bzip2; null where it is not compressed as a whole"),
        Column("num_samples", _LONG, "samples in it"),
        partition_by="registration",
    ),
    SAMPLES: _table(
        "one sample: its address, then one column per property",
        _REGISTRATION,
        _FILE_ID,
        Column(
            "block", _INT, "what one read decodes, counted from 0 in the file: a row group, some megabytes of lines"
        ),
        Column("row", _LONG, "number of the sample in its file, from 0"),
        Column(
            "byte_start", _LONG, "offset of its first byte in the file, decompressed; null where it has no byte range"
        ),
        Column("byte_stop", _LONG, "offset behind its last byte; null as byte_start"),
        partition_by="registration",
    ),
    SKIPPED: _table(
        "one record, or rest of a file, that could not be registered and was left out",
        _REGISTRATION,
        _FILE_ID,
        Column("uri", _STRING, "the file"),
        Column("place", _STRING, "where in the file: line 17, behind line 17, row group 3; empty for the whole file"),
        Column("byte_start", _LONG, "offset of its first byte, if it is known"),
        Column("byte_stop", _LONG, "offset behind its last byte, if it is known"),
        Column("reason", _STRING, "what is wrong with it"),
        partition_by="registration",
    ),
    RUNS: _table(
        "one declared training run",
        _RUN,
        Column("catalog_version", _LONG, "the version of `datasets` that it is pinned to"),
        Column("mixture", _STRING, "the mixture, as JSON"),
        Column("curriculum", _STRING, "the curriculum, as JSON; null where there is none"),
        Column(
            "adapt",
            _STRING,
            "policy, interval, delay and tolerance of adaptive mixing, as JSON; null where there is none",
        ),
        Column(
            "resolution", _STRING, "what the catalog version made of the mixture: components, tokens per byte; as JSON"
        ),
        Column("seed", _LONG, "seed of everything that is drawn"),
        Column("chunk_size", _LONG, "samples in a chunk; the last ones may have fewer"),
        Column("lanes", _INT, "number of sub-streams that ranks and workers share out"),
        Column(
            "length", _STRING, 'how long it is to be, as JSON, such as {"tokens": 1000000}; null: until it runs out'
        ),
        Column("step", _STRING, "what a training step takes on all ranks, as JSON; null where nothing counts steps"),
        Column("parent", _STRING, "the run that it goes on from; null where it begins by itself"),
        Column("at_chunk", _LONG, "its first own chunk; those before are the parent's"),
        Column("config", _STRING, "the whole config that a command composed, as JSON; null from Python"),
        Column("config_hash", _STRING, "equal for runs that draw the same chunks, whatever their names"),
        _CREATED_AT,
    ),
    WEIGHTS: _table(
        "one weights version of one run",
        _RUN,
        Column("version", _LONG, "number of the version, from 1"),
        Column("step", _LONG, "training step that led to it; null or 0 where none did"),
        Column("chunk", _LONG, "first chunk that has these weights"),
        _list("weights", _WEIGHT, "share of every component"),
        Column("cause", _STRING, "declared, curriculum, manual, adapt, or exhausted: a component has left"),
        Column("details", _STRING, "the reasons, as JSON: of a policy, what it saw in each component"),
        _CREATED_AT,
        partition_by="run",
    ),
    CHUNKS: _table(
        "one chunk: pointers to the samples that are trained on",
        _RUN,
        Column("chunk", _LONG, "number of the chunk, from 0"),
        Column("weights_version", _LONG, "the weights that it was drawn by"),
        Column("stage", _INT, "stage of the curriculum, from 0"),
        Column("num_samples", _LONG, "samples in it"),
        _list("intervals", _INTERVAL, "runs of rows of one file, sorted"),
        Column(
            "component_order",
            pa.list_(pa.int16()),
            "component of each sample in delivery order, as a place among the run's components",
        ),
        Column(
            "cursor", _STRING, "where the scheduler stands behind it, as JSON; only with the last chunk of a commit"
        ),
        Column("is_last", pa.bool_(), "whether the run ends with it"),
        _CREATED_AT,
        partition_by="run",
    ),
    FEEDBACK: _table(
        "one component of one training step, as training reported it",
        _RUN,
        Column("step", _LONG, "the training step"),
        Column("component", _STRING, "name of the component"),
        Column("loss_sum", _FLOAT, "losses in nats, summed over its tokens on all ranks"),
        Column("num_tokens", _LONG, "how many tokens with a loss it had"),
        Column("weights_version", _LONG, "newest weights among the step's batches"),
        Column("chunk", _LONG, "first chunk that had no part in the step, nor in any before"),
        partition_by="run",
    ),
    DECISIONS: _table(
        "one decision of an adaptive policy; the scheduler makes weights versions of them",
        _RUN,
        Column("step", _LONG, "last training step whose losses it knows"),
        Column("chunk", _LONG, "first chunk that is to have the weights"),
        _list("weights", _WEIGHT, "what the policy makes of the declared shares"),
        Column("details", _STRING, "where it comes from and why, as JSON"),
        _CREATED_AT,
        partition_by="run",
    ),
    POLICIES: _table(
        "the newest state of the adaptive policy of one run",
        _RUN,
        Column("step", _LONG, "last training step that it has taken in"),
        Column("state", _STRING, "what later decisions depend on, as JSON"),
        _CREATED_AT,
        partition_by="run",
    ),
    REPLACED: _table(
        "one sample that could not be read, and the one that was delivered in its place",
        _RUN,
        Column("chunk", _LONG, "the chunk that it is in"),
        Column("component", _STRING, "the component that it was drawn for"),
        Column("registration", _STRING, "its registration"),
        Column("file_id", _INT, "its file in the registration"),
        Column("row", _LONG, "its row in the file"),
        Column("reason", _STRING, "why it could not be read"),
        Column("by_registration", _STRING, "registration of the sample in its place"),
        Column("by_file_id", _INT, "file of the sample in its place"),
        Column("by_row", _LONG, "row of the sample in its place"),
        Column("replaced_at", TIMESTAMP, "when it was delivered"),
        partition_by="run",
    ),
    EVALUATIONS: _table(
        "one loss on one validation set",
        _RUN,
        Column("step", _LONG, "training step after which it was measured"),
        Column("name", _STRING, "name of the validation set"),
        Column("loss", _FLOAT, "mean loss per token, in nats"),
        Column("reported_at", TIMESTAMP, "when it was reported"),
        partition_by="run",
    ),
}

RESERVED_COLUMNS = frozenset(["dataset", *TABLES[SAMPLES].columns.names])
"""Column names of the `samples` view that no property may take."""
