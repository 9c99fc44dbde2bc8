"""What the columnar formats share: from decoded tables to blocks of samples.

Columns are checked before anything looks into them: a damaged file may hold offsets that lead out of its memory, or
strings that are not UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixlake.catalog.problems import Problems
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem

ARROW_ERRORS = (pa.ArrowException, OSError)
"""What Arrow raises at files that it cannot read."""
BYTES_PER_BLOCK = 4 << 20
BYTES_PER_PART = 32 << 20
_BYTES_TOGETHER = 2 << 20
"""Of row groups that share a block, as in `scanning`."""
_ROWS_PER_BLOCK = 1 << 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one read decodes, a row group or a record batch; or a slice of it, where it is too large for a block."""

    table: pa.Table | None
    """The columns that are needed; None where they cannot be decoded."""
    first_row: int
    """Counted through the file."""
    num_rows: int
    num_bytes: int
    slice_number: int | None = None
    """Which of the slices it is; None where it is not sliced."""


def split_pieces(file_id: int, file: DataFile, num_bytes: Sequence[int]) -> list[FilePart]:
    """Return parts of consecutive row groups or record batches, of about 32 MB each; one at least.

    Args:
        file_id: the file.
        file: the file.
        num_bytes: of each row group or record batch.
    """
    if sum(num_bytes) <= BYTES_PER_PART:
        return [FilePart(file_id=file_id, file=file)]
    ends = np.cumsum(num_bytes)
    parts, start = [], 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BYTES_PER_PART, side="right")))
        parts.append(FilePart(file_id=file_id, file=file, start=start, stop=stop))
        start = stop
    return parts


def to_blocks(
    part: FilePart, first_row: int, pieces: Iterable[Piece], fields: Iterable[FieldPath], problems: Problems
) -> Iterator[Block]:
    """Yield a part's pieces as blocks of some megabytes: small ones together, large ones in slices.

    Args:
        part: what is scanned.
        first_row: number of its first row in the file.
        pieces: its row groups or record batches, in order.
        fields: the fields to take out of them.
        problems: told of single rows that hold what is no value of their column's type.
    """
    paths = list(fields)
    for group in _grouped(small for piece in pieces for small in _sliced(piece)):
        yield _block(part, first_row, group, paths, problems)


def has_field(schema: pa.Schema, path: FieldPath) -> bool:
    """Say whether a table has a field, at the top or within structs."""
    fields: Any = schema
    for name in path:
        index = fields.get_field_index(name)
        if index < 0:
            return False
        fields = _storage_type(fields.field(index).type)
        if not pa.types.is_struct(fields):
            fields = pa.struct([])
    return True


def _sliced(piece: Piece) -> Iterator[Piece]:
    num = max(-(-piece.num_bytes // BYTES_PER_BLOCK), -(-piece.num_rows // _ROWS_PER_BLOCK))
    num = min(num, piece.num_rows)
    if piece.table is None or piece.slice_number is not None or num <= 1:
        yield piece
        return
    for start, stop in pairwise(piece.num_rows * index // num for index in range(num + 1)):
        yield replace(
            piece,
            table=piece.table.slice(start, stop - start),
            first_row=piece.first_row + start,
            num_rows=stop - start,
            num_bytes=piece.num_bytes * stop // piece.num_rows - piece.num_bytes * start // piece.num_rows,
            slice_number=start,
        )


def _grouped(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    num_bytes = num_rows = 0
    for piece in pieces:
        is_full = num_bytes + piece.num_bytes > _BYTES_TOGETHER or num_rows + piece.num_rows > _ROWS_PER_BLOCK
        if group and (is_full or piece.slice_number is not None or group[-1].slice_number is not None):
            yield group
            group, num_bytes, num_rows = [], 0, 0
        group.append(piece)
        num_bytes += piece.num_bytes
        num_rows += piece.num_rows
    if group:
        yield group


def _block(
    part: FilePart, first_row: int, group: Sequence[Piece], paths: Sequence[FieldPath], problems: Problems
) -> Block:
    tables = [piece.table for piece in group if piece.table is not None]
    rows = np.concatenate([_row_numbers(piece) for piece in group])
    columns: dict[FieldPath, pa.ChunkedArray] = {}
    if tables:
        table = pa.concat_tables(tables)
        columns = {path: column_at(table, path) for path in paths if has_field(table.schema, path)}
    is_sound = _sound_rows(columns, rows, part.file, problems)
    if not is_sound.all():
        rows = rows[is_sound]
        columns = {path: column.filter(pa.array(is_sound)) for path, column in columns.items()}
    return Block(
        file_ids=np.full(len(rows), part.file_id, np.int64),
        rows=rows - first_row,
        byte_starts=None,
        byte_stops=None,
        columns={path: plain(column) for path, column in columns.items()},
        num_bytes=sum(piece.num_bytes for piece in group),
        num_records=sum(piece.num_rows for piece in group),
        place=partial(_place, rows),
        continues=bool(group[0].slice_number),
    )


def _row_numbers(piece: Piece) -> IntArray:
    num_rows = 0 if piece.table is None else piece.num_rows
    return np.arange(piece.first_row, piece.first_row + num_rows, dtype=np.int64)


def _place(rows: IntArray, index: int) -> str:
    return f"row {rows[index]}"


def column_at(table: pa.Table, path: FieldPath) -> pa.ChunkedArray:
    """Return a field of a table, at the top or within structs."""
    column = table.column(path[0])
    for name in path[1:]:
        column = pc.struct_field(_stored(column), [name])
    return column


def _sound_rows(
    columns: Mapping[FieldPath, pa.ChunkedArray], rows: IntArray, file: DataFile, problems: Problems
) -> np.ndarray:
    """Return which rows can be read in all columns, and report the others."""
    is_sound = np.ones(len(rows), bool)
    for path, column in columns.items():
        start = 0
        for chunk in column.chunks:
            for index, error in _damaged(chunk, start):
                if is_sound[index]:
                    is_sound[index] = False
                    reason = f"field {'.'.join(path)!r} cannot be read ({error})"
                    problems.report(Problem(file=file, place=f"row {rows[index]}", reason=reason))
            start += len(chunk)
    return is_sound


def _damaged(column: pa.Array, start: int) -> Iterator[tuple[int, pa.ArrowException]]:
    """Yield the positions at which a column is damaged, counted from ``start``; they are found by bisection."""
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        if len(column) == 1:
            yield start, error
            return
        middle = len(column) // 2
        yield from _damaged(column[:middle], start)
        yield from _damaged(column[middle:], start + middle)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array of the plain type for its values, so that files may differ in how they store them.

    >>> plain(pa.chunked_array([pa.array(["a", "a"]).dictionary_encode()])).type
    DataType(string)
    """
    target = _plain_type(column.type)
    column = column if column.type == target else column.cast(target)
    return column.combine_chunks()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    kind = _storage_type(kind)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list or types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    return kind


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = _storage_type(column.type)
    return column if column.type == kind else column.cast(kind)
