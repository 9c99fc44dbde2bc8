"""Scans files for registration: parts of files in several threads, index rows in storage order.

Reading, parsing, SQL and compression run outside the interpreter lock, so threads use all cores, and batch functions
may be closures. Results come in the order of the files whatever the number of threads, and do not depend on how the
files were cut into parts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.declaring import Declared
from mixlake.catalog.errors import DataError
from mixlake.catalog.formats import Format
from mixlake.catalog.parallel import in_order, num_cores
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.properties import PropertyColumns, common_type, field_types, storable_type
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, Problem

_BYTES_PER_TASK = 16 << 20
_PARTS_PER_TASK = 1024
_BYTES_PER_BLOCK = 4 << 20
_BYTES_DECODED = 2 << 20
"""Of reads that share a block, where samples cannot be read by their bytes. Lanes share out the last blocks of a pass,
and each decodes all that those hold: of small ones a small dataset has many, and reads few of them more than once."""
_PROBED_FILES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What is to be scanned."""

    dataset: str
    format: Format
    options: Mapping[str, Any]
    declared: tuple[Declared, ...]
    files: tuple[DataFile, ...]
    on_error: OnError = OnError.RAISE
    text: FieldPath = ("text",)
    """The field that holds a record's text."""
    known_types: Mapping[FieldPath, pa.DataType] = field(default_factory=dict)
    """What the fields of records that were scanned before have for types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedBlock:
    """Index rows of some samples, in storage order."""

    rows: pa.Table
    """file_id, block, row, byte_start, byte_stop, and a column per property, of the type that this block needs."""
    problems: Sequence[Problem]
    """What had to be left out since the block before."""
    field_types: Mapping[FieldPath, pa.DataType]
    """The fields that its records have, and their types."""
    num_bytes: int
    place: Callable[[int], str]
    """Names the file of the i-th row, for messages."""
    problem: Callable[[int, str], Problem]
    """Returns what is wrong with the i-th row as a record, given the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """What a thread makes of a block."""

    block: Block
    columns: Mapping[str, pa.Array]
    field_types: Mapping[FieldPath, pa.DataType]
    problems: Sequence[Problem]
    begun: tuple[int, int]
    """From where the rows are counted: the file, and the start of the first of its parts in this task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """Parts for one thread to scan."""

    parts: Sequence[FilePart]
    problems: Sequence[Problem]
    """What is wrong with files before these."""


def probe_types(scan: Scan) -> dict[FieldPath, pa.DataType]:
    """Return the types of the mentioned fields in the first block of some files, spread evenly over all of them.

    It is a guess that saves work: what the scan meets later counts.
    """
    fields = PropertyColumns(scan.dataset, scan.declared, scan.known_types, text=scan.text).fields
    found: dict[FieldPath, pa.DataType] = dict(fields)
    if not fields:
        return found
    chosen = np.unique(np.linspace(0, len(scan.files) - 1, _PROBED_FILES).round().astype(int)).tolist()
    for file_id in chosen:
        problems = Problems(OnError.SKIP)  # the scan itself will say what is wrong
        parts = scan.format.parts(file_id, scan.files[file_id], scan.options, problems)[:1]
        block = next(iter(scan.format.scan(parts, fields, scan.options, problems)), None)
        for path, column in (block.columns if block else {}).items():
            kind = storable_type(column.type)
            found[path] = (kind and common_type(found[path], kind)) or found[path]
    return found


def scan_files(
    scan: Scan, known_types: Mapping[FieldPath, pa.DataType], num_threads: int | None = None
) -> Generator[ScannedBlock | Sequence[Problem]]:
    """Yield the samples of all files in storage order, and problems that come after the last of them.

    Raises:
        DataError: something cannot be read, or a property cannot be computed, with ``on_error=raise``.
        ConfigError: an expression is not valid SQL.
        FieldWidenedError: expressions use a field whose type is wider than ``known_types`` says: begin again with that.
    """
    columns = PropertyColumns(scan.dataset, scan.declared, known_types, text=scan.text)

    def work(task: _Task) -> Iterator[_Piece | Sequence[Problem]]:
        yield task.problems
        yield from _scan_parts(scan, columns, task.parts)

    numbers = _Numbers()
    problems: list[Problem] = []
    for piece in in_order(work, _tasks(scan, columns), num_threads or num_cores()):
        if not isinstance(piece, _Piece):
            problems += piece
            continue
        block = piece.block
        yield ScannedBlock(
            rows=_index_rows(block, *numbers.next(piece), piece.columns),
            problems=[*problems, *piece.problems],
            field_types=piece.field_types,
            num_bytes=block.num_bytes,
            place=partial(_uri, scan.files, block),
            problem=partial(_problem, scan.files, block),
        )
        problems = []
    if problems:
        yield problems


class _Numbers:
    """Counts blocks through the registration, and rows through each file."""

    def __init__(self) -> None:
        self._block = 0
        self._block_bytes = 0
        self._begun = (-1, 0)
        self._first_row = 0
        self._num_records = 0

    def next(self, piece: _Piece) -> tuple[int, int]:
        """Return the block number of a piece, and the row from which its rows are counted.

        Small reads share a block number; what is read as one has one, however large it is.
        """
        block = piece.block
        most = _BYTES_DECODED if block.byte_starts is None else _BYTES_PER_BLOCK
        is_full = self._block_bytes and self._block_bytes + block.num_bytes > most
        if is_full and not block.continues:
            self._block, self._block_bytes = self._block + 1, 0
        self._block_bytes += block.num_bytes
        if piece.begun != self._begun:
            self._num_records = 0 if piece.begun[1] == 0 else self._num_records
            self._first_row, self._begun = self._num_records, piece.begun
        self._num_records += block.num_records
        return self._block, self._first_row


def _tasks(scan: Scan, columns: PropertyColumns) -> Iterator[_Task]:
    """Yield parts in groups that are worth a thread's while, and never more files than a thread should open at once."""
    parts: list[FilePart] = []
    problems = Problems(scan.on_error)
    num_bytes = 0
    for file_id, file in enumerate(scan.files):
        new = scan.format.parts(file_id, file, scan.options, problems)
        # Where an expression looks at the row, all of a file is one task: only then the thread knows it.
        for group in [new] if columns.mentions_row else [[part] for part in new]:
            parts += group
            num_bytes += file.num_bytes * len(group) // len(new)
            if num_bytes >= _BYTES_PER_TASK or len(parts) >= _PARTS_PER_TASK:
                yield _Task(parts=parts, problems=problems.found)
                parts, num_bytes, problems = [], 0, Problems(scan.on_error)
    if parts or problems.found:
        yield _Task(parts=parts, problems=problems.found)


def _scan_parts(
    scan: Scan, columns: PropertyColumns, parts: Sequence[FilePart]
) -> Iterator[_Piece | Sequence[Problem]]:
    for is_whole, group in groupby(parts, key=lambda part: part.start == 0 and part.stop < 0):
        # Whole files are scanned together, so that small ones share blocks.
        together = list(group)
        begun, first_row = (-1, 0), 0
        for some in [together] if is_whole else [[part] for part in together]:
            if some[0].file_id != begun[0]:
                begun, first_row = (some[0].file_id, some[0].start), 0
            num_records = 0
            problems = Problems(scan.on_error)
            for block in scan.format.scan(some, columns.fields, scan.options, problems):
                num_records += block.num_records
                moved = replace(block, rows=block.rows + first_row) if first_row else block
                sound, computed = _compute(columns, moved, scan.files, problems)
                yield _Piece(
                    block=sound,
                    columns=computed,
                    field_types=field_types(block),
                    problems=problems.found,
                    begun=begun,
                )
                problems.found = []
            first_row += 0 if is_whole else num_records
            if problems.found:
                yield problems.found


def _compute(
    columns: PropertyColumns, block: Block, files: Sequence[DataFile], problems: Problems
) -> tuple[Block, dict[str, pa.Array]]:
    """Return the properties of a block; records for which they cannot be computed are reported and left out."""
    if not len(block.rows):
        return block, {}
    try:
        return block, columns.compute(block, files)
    except DataError as error:
        failed = []
        for index, reason in _failures(columns, block, files):
            problems.report(_problem(files, block, index, reason))
            failed.append(index)
        if not failed:  # it fails only as a whole
            raise DataError(_problem(files, block, 0, str(error))) from error
    return _compute(columns, block.take(np.delete(np.arange(len(block.rows)), failed)), files, problems)


def _failures(columns: PropertyColumns, block: Block, files: Sequence[DataFile]) -> Iterator[tuple[int, str]]:
    """Yield which records fail by themselves, in order, and why: found by halving what fails."""
    try:
        columns.compute(block, files)
    except DataError as error:
        num_rows = len(block.rows)
        if num_rows == 1:
            yield 0, str(error)
            return
        middle = num_rows // 2
        yield from _failures(columns, block.take(np.arange(middle)), files)
        for index, reason in _failures(columns, block.take(np.arange(middle, num_rows)), files):
            yield middle + index, reason


def _problem(files: Sequence[DataFile], block: Block, index: int, reason: str) -> Problem:
    return Problem(
        file=files[int(block.file_ids[index])],
        place=block.place(index),
        reason=reason,
        byte_start=None if block.byte_starts is None else int(block.byte_starts[index]),
        byte_stop=None if block.byte_stops is None else int(block.byte_stops[index]),
    )


def _uri(files: Sequence[DataFile], block: Block, index: int) -> str:
    return files[int(block.file_ids[index])].uri


def _index_rows(block: Block, number: int, first_row: int, properties: Mapping[str, pa.Array]) -> pa.Table:
    num_rows = len(block.rows)
    unknown = pa.nulls(num_rows, pa.int64())
    return pa.table(
        {
            "file_id": pa.array(block.file_ids, pa.int32()),
            "block": pa.array(np.full(num_rows, number), pa.int32()),
            "row": pa.array(block.rows + first_row),
            "byte_start": unknown if block.byte_starts is None else pa.array(block.byte_starts),
            "byte_stop": unknown if block.byte_stops is None else pa.array(block.byte_stops),
            **properties,
        }
    )
