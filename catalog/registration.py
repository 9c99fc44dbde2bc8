"""Registers files: scans them, computes their properties, and publishes them as one new catalog version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog import schema
from mixlake.catalog.errors import ConfigError, DataError, listed, nearest
from mixlake.catalog.fields import field_names, has_field, parse_path, value_at
from mixlake.catalog.formats import Format
from mixlake.catalog.lake import Lake
from mixlake.catalog.properties import Declared, PropertyColumns, common_type
from mixlake.catalog.publishing import new_registration, publish
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, Dataset, IntArray, Part, Progress, Property, Span
from mixlake.catalog.sample_writer import SampleWriter

_BYTES_PER_BLOCK = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What is about to be registered, checked as far as it can be without reading the files."""

    dataset: str
    uris: tuple[str, ...]
    format: Format
    options: Mapping[str, Any]
    exclude: tuple[str, ...]
    text: str
    declared: tuple[Declared, ...]
    files: tuple[DataFile, ...]


def register_files(
    lake: Lake, request: Registration, live: Sequence[Dataset], *, version: int, progress: Progress | None = None
) -> int:
    """Index the files and publish them; the dataset's earlier registration, if any, leaves in the same commit.

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
    registration = new_registration(request.dataset)
    columns = PropertyColumns(request.dataset, request.declared)
    with SampleWriter(lake, registration) as writer:
        num_samples_per_file = _scan(request, columns, writer, progress)
        if not num_samples_per_file.sum():
            raise DataError(f"{list(request.uris)}: {len(request.files)} files, but not one sample in them")
        example = _first_record(request, num_samples_per_file)
        _check_text(request, example)
        columns.check_fields(example)
        types = _settle_types(lake, request.dataset, columns, live)
        fixed = [field for field in schema.TABLES[schema.SAMPLES].columns if field.name != schema.REGISTRATION]
        writer.commit(pa.schema([*fixed, *(pa.field(name, kind) for name, kind in types.items())]))
    lake.append(schema.FILES, _file_rows(registration, request, num_samples_per_file), action="register")
    part = _part(0, registration, request, int(num_samples_per_file.sum()))
    return publish(
        lake,
        {request.dataset: _dataset(request, types, part)},
        version=version,
        action="register",
        details={
            "registration": registration,
            "uris": json.dumps(request.uris),
            "num_files": part.num_files,
            "num_samples": part.num_samples,
        },
    )


def _scan(request: Registration, columns: PropertyColumns, writer: SampleWriter, progress: Progress | None) -> IntArray:
    """Write an index row for every sample; return the number of samples of each file."""
    counts = np.zeros(len(request.files), np.int64)
    total = sum(file.num_bytes for file in request.files)
    done = block_bytes = number = 0
    for block in request.format.scan(request.files, columns.fields, request.options):
        if block_bytes and block_bytes + block.num_bytes > _BYTES_PER_BLOCK:
            number, block_bytes = number + 1, 0
        block_bytes += block.num_bytes
        if len(block.rows):
            writer.write(_index_rows(block, number, columns.compute(block, request.files)))
            counts += np.bincount(block.file_ids, minlength=len(counts))
        done += block.num_bytes
        if progress is not None:
            progress(min(done, total), total, "bytes")
    return counts


def _index_rows(block: Block, number: int, properties: Mapping[str, pa.Array]) -> pa.Table:
    num_rows = len(block.rows)
    unknown = pa.nulls(num_rows, pa.int64())
    return pa.table(
        {
            "file_id": pa.array(block.file_ids, pa.int32()),
            "block": pa.array(np.full(num_rows, number), pa.int32()),
            "row": pa.array(block.rows),
            "byte_start": unknown if block.byte_starts is None else pa.array(block.byte_starts),
            "byte_stop": unknown if block.byte_stops is None else pa.array(block.byte_stops),
            **properties,
        }
    )


def _first_record(request: Registration, counts: IntArray) -> Mapping[str, Any]:
    """Read one record back: proof that the text field is there, and names to suggest when another field is not."""
    file = request.files[int(np.flatnonzero(counts)[0])]
    cache = ReadCache()
    block = next(b for b in request.format.scan([file], [], request.options) if len(b.rows))
    span = Span(
        row_start=0,
        row_stop=1,
        byte_start=-1 if block.byte_starts is None else int(block.byte_starts[0]),
        byte_stop=-1 if block.byte_stops is None else int(block.byte_stops[0]),
    )
    return request.format.read(file, [span], None, request.options, cache)[0]


def _settle_types(
    lake: Lake, dataset: str, columns: PropertyColumns, live: Sequence[Dataset]
) -> dict[str, pa.DataType]:
    """Return the type to store each property in: the one that `samples` has for it, where that holds the values."""
    stored = pa.schema(lake.table(schema.SAMPLES).schema().to_arrow())
    settled = {}
    for name, met in columns.types.items():
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
            "file_id": pa.array(range(len(files)), pa.int32()),
            "uri": [file.uri for file in files],
            "path": [file.path for file in files],
            "num_bytes": [file.num_bytes for file in files],
            "modified": pa.array([file.modified_us for file in files], pa.int64()).cast(schema.TIMESTAMP),
            "compression": pa.nulls(len(files), pa.string()),
            "num_samples": pa.array(counts),
        }
    )


def _part(number: int, registration: str, request: Registration, num_samples: int) -> Part:
    return Part(
        number=number,
        registration=registration,
        num_files=len(request.files),
        num_samples=num_samples,
        num_bytes=sum(file.num_bytes for file in request.files),
        registered_at=datetime.now(UTC),
    )


def _dataset(request: Registration, types: Mapping[str, pa.DataType], part: Part) -> Dataset:
    properties = [
        Property(
            name=prop.name,
            type=str(types[prop.name]),
            expression=prop.expression,
            origin="sql" if prop.function is None else "function",
        )
        for prop in request.declared
    ]
    return Dataset(
        name=request.dataset,
        uris=request.uris,
        exclude=request.exclude,
        format=request.format.name,
        text=request.text,
        options=dict(request.options),
        properties=tuple(properties),
        removals=(),
        parts=(part,),
    )


def _check_text(request: Registration, example: Mapping[str, Any]) -> None:
    path = parse_path(request.text)
    ways = [path[:n] for n in range(1, len(path) + 1)]
    is_null = any(has_field(example, way) and value_at(example, way) is None for way in ways)
    if not is_null and not isinstance(value_at(example, path), str):
        names = field_names(example)
        raise ConfigError(
            f"text={request.text!r}: the first record of {request.dataset!r} has no such text; "
            f"its fields: {listed(names)}.{nearest(request.text, names)}"
        )
