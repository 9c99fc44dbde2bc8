"""Datasets as rows of the root table: read from it, and published by one commit to it.

Whatever changes a catalog writes samples and files first, under registrations that nobody sees yet, and then publishes
the changed datasets here. Whoever is killed before that commit has changed nothing.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import DeltaTable

from mixlake.catalog import schema
from mixlake.catalog.errors import LakeError
from mixlake.catalog.fields import parse_path
from mixlake.catalog.lake import Fence, Lake, arrow_dataset, collected
from mixlake.catalog.records import DataFile, Dataset, FieldPath, Part, Property, Removal

_SCALARS = (pa.null(), pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.date32(), schema.TIMESTAMP)
_TYPES = {str(kind): kind for scalar in _SCALARS for kind in (scalar, pa.list_(scalar))}
"""Types that stand in `datasets.fields` by name; a field of another type, an object, is looked at anew each time."""


def new_registration(dataset: str) -> str:
    """Return an id that no registration has had."""
    return f"{dataset}-{uuid.uuid4().hex[:12]}"


def read_datasets(table: DeltaTable) -> tuple[Dataset, ...]:
    """Return the datasets of a version of the root table, by name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in arrow_dataset(table).to_table().to_pylist():
        rows.setdefault(row["dataset"], []).append(row)
    return tuple(_dataset(name, rows[name]) for name in sorted(rows))


def registered_files(lake: Lake, dataset: str, registration: str) -> dict[int, DataFile]:
    """Return the files of a registration by id.

    Raises:
        LakeError: gc has collected the catalog versions that show it.
    """
    table = lake.table(schema.FILES)
    columns = ["file_id", "uri", "path", "num_bytes", "modified", "compression"]
    found = arrow_dataset(table).to_table(columns=columns, filter=pads.field(schema.REGISTRATION) == registration)
    if not len(found):
        raise collected(schema.FILES, table.version(), dataset, registration)
    rows = found.set_column(4, "modified_us", found["modified"].cast("int64")).to_pylist()
    return {row.pop("file_id"): DataFile(**row) for row in rows}


def publish(
    lake: Lake,
    changes: Mapping[str, Dataset | None],
    *,
    version: int,
    action: str,
    details: Mapping[str, Any] | None = None,
) -> int:
    """Put datasets in the place of those of the same name, in one commit, and return the new catalog version.

    Args:
        lake: where to.
        changes: by name, the dataset as it shall be; None takes it away.
        version: the catalog version that the changes were made from.
        action: what is done; it stands in the history, with the names.
        details: more for the history.

    Raises:
        LakeError: another process has changed one of these datasets after that version, or gc has taken a new part
            for one that was left behind.
    """
    table = lake.table_at(schema.DATASETS, version)
    before = [dataset for dataset in read_datasets(table) if dataset.name in changes]
    after = [dataset for dataset in changes.values() if dataset is not None]
    num_before, num_after = (sum(dataset.num_samples for dataset in datasets) for datasets in (before, after))
    for dataset in after:
        _check_stored(lake, dataset)
    rows = [row for dataset in after for row in _rows(dataset)]
    return lake.append(
        schema.DATASETS,
        pa.Table.from_pylist(rows, schema=schema.TABLES[schema.DATASETS].columns),
        action=action,
        details={
            "dataset": ", ".join(changes),
            "num_samples": num_after,
            "change": num_after - num_before,
            **(details or {}),
        },
        fence=[_fence(table, name) for name in changes],
        replace_where=_named(changes) if before else None,
    )


def _check_stored(lake: Lake, dataset: Dataset) -> None:
    """Refuse parts without an index: their process may have slept for so long that gc took it for dead."""
    for part in dataset.parts:
        for name in (schema.SAMPLES, schema.FILES) if part.num_samples else (schema.FILES,):
            if not os.path.isdir(os.path.join(lake.path(name), f"{schema.REGISTRATION}={part.registration}")):
                raise LakeError(
                    f"{name}: gc has collected registration {part.registration!r} before it was published; begin again"
                )


def _fence(table: DeltaTable, dataset: str) -> Fence:
    """Refuse a commit about the dataset that came after this version of the table, whenever it was begun."""
    application = f"dataset:{dataset}"
    last = table.transaction_version(application) or 0
    return Fence(application=application, seen=last, number=last + 1)


def _named(datasets: Iterable[str]) -> str:
    names = ", ".join(f"'{name}'" for name in sorted(datasets))
    return f"dataset IN ({names})"


def _rows(dataset: Dataset) -> list[dict[str, Any]]:
    """Return one row per part; what belongs to the whole dataset stands in each."""
    whole = {
        "dataset": dataset.name,
        "uris": list(dataset.uris),
        "exclude": None if dataset.exclude is None else list(dataset.exclude),
        "format": dataset.format,
        "text": dataset.text,
        "options": json.dumps(dataset.options),
        "properties": [prop.to_row() for prop in dataset.properties],
        "fields": [{"field": _quoted(path), "type": str(kind)} for path, kind in dataset.field_types.items()],
        "removals": [removal.to_row() for removal in dataset.removals],
    }
    return [{**whole, **part.to_row()} for part in dataset.parts]


def _dataset(name: str, rows: Sequence[Mapping[str, Any]]) -> Dataset:
    parts = sorted(map(_part, rows), key=lambda part: part.number)
    whole = rows[0]
    return Dataset(
        name=name,
        uris=tuple(whole["uris"]),
        exclude=None if whole.get("exclude") is None else tuple(whole["exclude"]),
        format=whole["format"],
        text=whole["text"],
        options=json.loads(whole["options"]),
        properties=tuple(Property(**prop) for prop in whole["properties"]),
        field_types={
            parse_path(entry["field"]): _TYPES[entry["type"]]
            for entry in whole.get("fields") or ()
            if entry["type"] in _TYPES
        },
        removals=tuple(Removal(**removal) for removal in whole.get("removals") or ()),
        parts=tuple(parts),
    )


def _quoted(path: FieldPath) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in path)


def _part(row: Mapping[str, Any]) -> Part:
    return Part(
        number=row.get("part") or 0,
        registration=row["registration"],
        num_files=row["num_files"],
        num_samples=row["num_samples"],
        num_bytes=row["num_bytes"],
        registered_at=row["registered_at"],
    )
