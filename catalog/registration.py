"""Registers files: scans them, computes their properties, and publishes them as one new catalog version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog import schema
from mixlake.catalog.declaring import Declared
from mixlake.catalog.errors import ConfigError, DataError, listed, nearest
from mixlake.catalog.fields import field_names, has_field, parse_path, token_ids, value_at
from mixlake.catalog.formats import Format
from mixlake.catalog.index_copy import kept_rows, write_rows
from mixlake.catalog.indexing import Indexed, index_files
from mixlake.catalog.lake import Lake
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.properties import PropertyColumns, common_type
from mixlake.catalog.publishing import new_registration, publish
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import (
    DataFile,
    Dataset,
    FieldPath,
    FilePart,
    IntArray,
    Part,
    Problem,
    Progress,
    Property,
    Span,
)
from mixlake.catalog.sample_writer import SampleWriter
from mixlake.catalog.scanning import Scan


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What is about to be registered, checked as far as it can be without reading the files."""

    dataset: str
    uris: tuple[str, ...]
    """Absolute, so that they can be listed again from anywhere."""
    format: Format
    options: Mapping[str, Any]
    exclude: tuple[str, ...]
    text: str
    declared: tuple[Declared, ...]
    files: tuple[DataFile, ...]
    """By place: a sample's file_id is its file's index here, counted from ``first_file_id``."""
    first_file_id: int = 0
    """File ids are unique within a dataset: those of a further part follow on those before."""
    part: int = 0
    """The number of the part that it becomes; a first part must hold samples, and records with the fields declared."""
    field_types: Mapping[FieldPath, pa.DataType] = field(default_factory=dict)
    """Of the fields of samples that the dataset has already: an expression must mean the same for all."""
    keep: str | None = None
    """The predicate of the samples to keep: not those that were removed from the dataset before."""
    on_error: OnError = OnError.RAISE


def register_files(
    lake: Lake, request: Registration, live: Sequence[Dataset], *, version: int, progress: Progress | None = None
) -> int:
    """Index the files and publish them as a dataset; the one of that name, if any, leaves in the same commit.

    Nothing becomes visible before the last commit, and nothing is left behind when a file turns out to be unreadable.

    Args:
        lake: where to.
        request: what to register.
        live: the datasets of the catalog version that the new one follows.
        version: that catalog version; a registration of the same name after it is refused.
        progress: called with bytes done and bytes in all.

    Returns:
        The new catalog version.
    """
    part, properties, indexed = write_part(lake, request, live, progress=progress)
    dataset = Dataset(
        name=request.dataset,
        uris=request.uris,
        exclude=request.exclude,
        format=request.format.name,
        text=request.text,
        options=dict(request.options),
        properties=properties,
        field_types=dict(indexed.assumed_types),
        removals=(),
        parts=(part,),
    )
    details = {
        "registration": part.registration,
        "uris": json.dumps(request.uris),
        "format": request.format.name,
        "properties": json.dumps({prop.name: prop.expression for prop in properties}),
        "num_files": part.num_files,
        **({"num_skipped": len(indexed.problems)} if indexed.problems else {}),
    }
    return publish(lake, {request.dataset: dataset}, version=version, action="register", details=details)


def write_part(
    lake: Lake, request: Registration, live: Sequence[Dataset], *, progress: Progress | None = None
) -> tuple[Part, tuple[Property, ...], Indexed]:
    """Write the index of files under a new registration, which nobody sees yet.

    Returns:
        The part that it makes, its properties, and what was found in the files.
    """
    registration = new_registration(request.dataset)
    with SampleWriter(lake, registration, request.first_file_id) as writer:
        indexed = index_files(_scan(request), writer, progress)
        if request.part == 0:
            _check_first(request, indexed)
        _check_same_fields(request, indexed)
        types = settle_types(lake, request.dataset, indexed.property_types, live)
        properties = tuple(prop.as_property(types[prop.name]) for prop in request.declared)
        fixed = [field for field in schema.TABLES[schema.SAMPLES].columns if field.name != schema.REGISTRATION]
        columns = pa.schema([*fixed, *(pa.field(name, kind) for name, kind in types.items())])
        counts = indexed.num_samples_per_file
        if request.keep is None:
            writer.commit(columns)
        else:
            registration, counts = _commit_kept(lake, request, writer, columns, properties)
    lake.append(schema.FILES, _file_rows(registration, request, counts), action="register")
    if indexed.problems:
        lake.append(schema.SKIPPED, _skipped_rows(registration, request, indexed.problems), action="register")
    part = Part(
        number=request.part,
        registration=registration,
        num_files=len(request.files),
        num_samples=int(counts.sum()),
        num_bytes=sum(file.num_bytes for file in request.files),
        registered_at=datetime.now(UTC),
    )
    return part, properties, indexed


def _commit_kept(
    lake: Lake, request: Registration, written: SampleWriter, columns: pa.Schema, properties: Sequence[Property]
) -> tuple[str, IntArray]:
    """Commit only the rows to keep of those written, under another registration; return it and the counts of files."""
    registration = new_registration(request.dataset)
    rows = kept_rows(
        lake,
        written.finish(columns),
        dataset=request.dataset,
        registration=registration,
        properties=properties,
        keep=request.keep,
    )
    with SampleWriter(lake, registration) as writer:
        counts = write_rows(writer, rows)
        writer.commit(columns)
    ids = range(request.first_file_id, request.first_file_id + len(request.files))
    return registration, np.array([counts[file_id] for file_id in ids], np.int64)


def _check_first(request: Registration, indexed: Indexed) -> None:
    """Refuse a dataset without samples, or whose records lack the text or a field that a property needs."""
    counts = indexed.num_samples_per_file
    if not counts.sum():
        left_out = f" ({indexed.problems[0]})" if indexed.problems else ""
        raise DataError(f"{list(request.uris)}: {len(request.files)} files, but not one sample in them{left_out}")
    example = _first_record(request, counts)
    _check_text(request, example)
    PropertyColumns(request.dataset, request.declared, text=parse_path(request.text)).check_fields(
        indexed.field_types, example
    )


def _check_same_fields(request: Registration, indexed: Indexed) -> None:
    for path, kind in indexed.assumed_types.items():
        before = request.field_types.get(path, pa.null())
        if not pa.types.is_null(before) and kind != before:
            raise ConfigError(
                f"field {'.'.join(path)!r} is {kind} in new files of {request.dataset!r}, but {before} in those "
                "before, so a property would not mean the same; register the dataset with replace=True"
            )


def _scan(request: Registration) -> Scan:
    return Scan(
        dataset=request.dataset,
        format=request.format,
        options=request.options,
        declared=request.declared,
        files=request.files,
        on_error=request.on_error,
        text=parse_path(request.text),
        known_types=request.field_types,
    )


def _first_record(request: Registration, counts: IntArray) -> Mapping[str, Any]:
    """Read one record back: proof that the text field is there, and names to suggest when another field is not."""
    file = request.files[int(np.flatnonzero(counts)[0])]
    scanned = request.format.scan([FilePart(file_id=0, file=file)], {}, request.options, Problems(request.on_error))
    block = next(block for block in scanned if len(block.rows))
    span = Span(
        row_start=int(block.rows[0]),
        row_stop=int(block.rows[0]) + 1,
        byte_start=-1 if block.byte_starts is None else int(block.byte_starts[0]),
        byte_stop=-1 if block.byte_stops is None else int(block.byte_stops[0]),
    )
    return request.format.read(file, [span], None, request.options, ReadCache())[0]


def settle_types(
    lake: Lake, dataset: str, types: Mapping[str, pa.DataType], live: Sequence[Dataset]
) -> dict[str, pa.DataType]:
    """Return the type to store each property in: the one that `samples` has for it, where that holds the values."""
    stored = pa.schema(lake.table(schema.SAMPLES).schema().to_arrow())
    settled = {}
    for name, met in types.items():
        present = stored.field(name).type if name in stored.names else pa.null()
        kind = common_type(present, met)
        kind = None if kind is None else _decided(kind)
        if kind is None or (name in stored.names and kind != present):
            owner = next((d.name for d in live for p in d.properties if p.name == name and d.name != dataset), None)
            other = f"dataset {owner!r}" if owner else "an earlier registration"
            raise ConfigError(
                f"property {name!r} is {met} in {dataset!r}, but {present} in {other} "
                f"(samples@{lake.table(schema.SAMPLES).version()}); cast it, or give it another name"
            )
        settled[name] = kind
    return settled


def _decided(kind: pa.DataType) -> pa.DataType:
    """Return a type for a column; where no value was met it does not matter which, but there must be one."""
    if pa.types.is_list(kind):
        return pa.list_(_decided(kind.value_type))
    return pa.string() if pa.types.is_null(kind) else kind


def _file_rows(registration: str, request: Registration, counts: IntArray) -> pa.Table:
    files = request.files
    return pa.table(
        {
            "registration": pa.array([registration] * len(files), pa.string()),
            "file_id": pa.array(range(request.first_file_id, request.first_file_id + len(files)), pa.int32()),
            "uri": [file.uri for file in files],
            "path": [file.path for file in files],
            "num_bytes": [file.num_bytes for file in files],
            "modified": pa.array([file.modified_us for file in files], pa.int64()).cast(schema.TIMESTAMP),
            "compression": pa.array([file.compression for file in files], pa.string()),
            "num_samples": pa.array(counts),
        }
    )


def _skipped_rows(registration: str, request: Registration, problems: Sequence[Problem]) -> pa.Table:
    file_ids = {file.uri: file_id for file_id, file in enumerate(request.files, request.first_file_id)}
    rows = [
        {
            "registration": registration,
            "file_id": file_ids[problem.file.uri],
            "uri": problem.file.uri,
            "place": problem.place,
            "byte_start": problem.byte_start,
            "byte_stop": problem.byte_stop,
            "reason": problem.reason,
        }
        for problem in problems
    ]
    return pa.Table.from_pylist(rows, schema=schema.TABLES[schema.SKIPPED].columns)


def _check_text(request: Registration, example: Mapping[str, Any]) -> None:
    path = parse_path(request.text)
    ways = [path[:n] for n in range(1, len(path) + 1)]
    is_null = any(has_field(example, way) and value_at(example, way) is None for way in ways)
    value = value_at(example, path)
    if not is_null and not isinstance(value, str) and token_ids(value) is None:
        names = field_names(example)
        raise ConfigError(
            f"text={request.text!r}: the first record of {request.dataset!r} has no such text or tokens; "
            f"its fields: {listed(names)}.{nearest(request.text, names)}"
        )
