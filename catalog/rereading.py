"""The records of a registration read once more, each beside its row in the index.

Samples that were removed, and records that were left out, have no row in the index: they are passed over. A sample that
cannot be read again, or a file that has changed, is an error.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixlake.catalog import schema
from mixlake.catalog.data_files import check_unchanged
from mixlake.catalog.declaring import Declared
from mixlake.catalog.errors import DataError
from mixlake.catalog.fields import parse_path
from mixlake.catalog.formats import get_format
from mixlake.catalog.frames import files_by_registration
from mixlake.catalog.index_copy import kept_rows
from mixlake.catalog.lake import Lake
from mixlake.catalog.problems import OnError
from mixlake.catalog.publishing import registered_files
from mixlake.catalog.records import DataFile, Dataset, FieldPath, IntArray, Part, Problem, Property
from mixlake.catalog.scanning import Scan, ScannedBlock, scan_files

_ROW_BITS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """The batch function that passes a field of the records on as it is."""

    path: FieldPath

    @property
    def fields(self) -> tuple[str, ...]:
        """The field."""
        return (".".join(self.path),)

    def __call__(self, records: pa.RecordBatch) -> pa.Array:
        """Return the field's values."""
        values = records.column(0)
        return pc.struct_field(values, list(self.path[1:])) if len(self.path) > 1 else values


def column_name(path: FieldPath) -> str:
    """Return the name of the column that a field is beside the index: no property can have it."""
    return f"record.{'.'.join(path)}"


def as_declared(path: FieldPath) -> Declared:
    """Return a field as something to compute, so that it comes beside the index."""
    return Declared(
        name=column_name(path), expression=".".join(path), origin="", inputs=(path,), function=Field(path=path)
    )


def index_rows(lake: Lake, dataset: Dataset, part: Part, properties: Sequence[Property]) -> Iterator[pa.Table]:
    """Yield the index rows of a part in storage order, some thousands at a time."""
    paths = files_by_registration(lake.table(schema.SAMPLES)).get(part.registration, [])
    return kept_rows(
        lake,
        [os.path.join(lake.path(schema.SAMPLES), path) for path in paths],
        dataset=dataset.name,
        registration=part.registration,
        properties=properties,
        keep=None,
    )


class Rereading:
    """Scans the files of one part again."""

    def __init__(self, lake: Lake, dataset: Dataset, part: Part, declared: Sequence[Declared]) -> None:
        self._files = registered_files(lake, dataset.name, part.registration)
        self._ids = np.array(sorted(self._files), np.int64)
        for file in self._files.values():
            check_unchanged(file, dataset.name, part.registration)
        self.scan = Scan(
            dataset=dataset.name,
            format=get_format(dataset.format),
            options=dataset.options,
            declared=tuple(declared),
            files=tuple(self._files[file_id] for file_id in self._ids.tolist()),
            on_error=OnError.SKIP,  # what was left out before is left out again
            text=parse_path(dataset.text),
        )
        self._added = [prop.name for prop in declared]
        self.met: dict[FieldPath, pa.DataType] = {}
        """The fields that records had."""
        self._problems: list[Problem] = []

    def beside(self, index: Iterator[pa.Table], known_types: Mapping[FieldPath, pa.DataType]) -> Generator[pa.Table]:
        """Yield the index rows in order, with what was declared as further columns.

        Raises:
            DataError: a sample is not there any more, or something cannot be computed of it.
            FieldWidenedError: see `scan_files`.
        """
        waiting = next(index, None)
        with closing(scan_files(self.scan, known_types)) as blocks:
            for block in blocks:
                if not isinstance(block, ScannedBlock):
                    self._problems += block
                    continue
                self._problems += block.problems
                self.met.update(block.field_types)
                if not len(block.rows):
                    continue
                keys = _keys(self._ids[block.rows["file_id"].to_numpy()], block.rows["row"].to_numpy())
                while waiting is not None:
                    due = int(np.searchsorted(_keys_of(waiting), keys[-1], side="right"))
                    if due:
                        yield self._joined(waiting.slice(0, due), keys, block.rows)
                    if due < len(waiting):
                        waiting = waiting.slice(due)
                        break
                    waiting = next(index, None)
        while waiting is not None:
            if len(waiting):
                raise self._missing(waiting, 0)
            waiting = next(index, None)

    def place(self, rows: pa.Table, index: int) -> str:
        """Name the place of an index row, for messages."""
        return f"{self._file(rows, index).uri}, row {rows['row'][index]}"

    def _joined(self, rows: pa.Table, keys: IntArray, scanned: pa.Table) -> pa.Table:
        wanted = _keys_of(rows)
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        lacking = np.flatnonzero(keys[found] != wanted)
        if len(lacking):
            raise self._missing(rows, int(lacking[0]))
        for name in self._added:
            rows = rows.append_column(name, scanned[name].take(pa.array(found)))
        return rows

    def _missing(self, rows: pa.Table, index: int) -> DataError:
        file, start = self._file(rows, index), rows["byte_start"][index].as_py()
        of_file = [problem for problem in self._problems if problem.file.uri == file.uri]
        exact = [problem for problem in of_file if start is not None and problem.byte_start == start]
        problem = next(iter([*exact, *reversed(of_file)]), None)
        return DataError(problem) if problem else DataError(f"{self.place(rows, index)}: not there any more")

    def _file(self, rows: pa.Table, index: int) -> DataFile:
        return self._files[rows["file_id"][index].as_py()]


def _keys_of(rows: pa.Table) -> IntArray:
    return _keys(rows["file_id"].to_numpy().astype(np.int64), rows["row"].to_numpy())


def _keys(file_ids: IntArray, rows: IntArray) -> IntArray:
    return (file_ids << _ROW_BITS) + rows
