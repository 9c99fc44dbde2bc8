"""The ``megatron`` format: token ids of Megatron-LM's indexed datasets; one document is one sample.

The ids lie one after the other in a ``.bin`` file, so a document is one range of its bytes. The ``.idx`` file beside it
tells where: a header (magic, version, code of the ids' type, number of sequences, number of document bounds), then per
sequence its length (int32) and its first byte (int64), the first sequence of every document and the end of the last
(int64), and, in multimodal datasets, a mode per sequence (int8). All numbers are little-endian.

Fields of a record: tokens, num_tokens, document (its number in the file), sequence_lengths (tokens in each of its
sequences), and sequence_modes where there are modes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixlake.catalog.data_files import mapped
from mixlake.catalog.errors import DataError
from mixlake.catalog.problems import Problems
from mixlake.catalog.ranged_reads import read_ranges
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem, Span
from mixlake.catalog.spans import Spans

HEADER = struct.Struct("<9sQBQQ")
MAGIC = b"MMIDIDX\0\0"
VERSION = 1
TOKEN_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_NOT_INTEGERS = {6: "float64", 7: "float32"}
_DOCUMENTS_PER_PART = 1 << 20
_DOCUMENTS_PER_BLOCK = 1 << 17
_BYTES_PER_BLOCK = 4 << 20

_Array = npt.NDArray[Any]


class MegatronFormat:
    """Reads documents of token ids by range, with an index that is mapped into memory."""

    name = "megatron"
    suffixes: tuple[str, ...] = (".bin",)
    companions: tuple[str, ...] = (".idx",)
    content = "tokens"
    options: frozenset[str] = frozenset()

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return ranges of documents."""
        del options
        try:
            index = _index(file)
        except DataError as error:
            problems.note(error, file)
            return []
        if index.num_documents <= _DOCUMENTS_PER_PART:
            return [FilePart(file_id=file_id, file=file)]
        bounds = [*range(0, index.num_documents, _DOCUMENTS_PER_PART), index.num_documents]
        return [FilePart(file_id=file_id, file=file, start=start, stop=stop) for start, stop in pairwise(bounds)]

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the documents in blocks; of the ids only what the fields need is read."""
        del options
        for part in parts:
            try:
                yield from _blocks(part, fields, problems)
            except DataError as error:
                problems.note(error, part.file)

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the documents of the spans, in their order, with as few reads as their ranges allow."""
        del options
        index = cache.get((file.uri, file.modified_us, "index"), lambda: (_index(file), HEADER.size))
        needs_tokens = fields is None or ("tokens",) in fields
        contents = read_ranges(file, spans, cache) if needs_tokens else [memoryview(b"")] * len(spans)
        records: list[dict[str, Any]] = []
        for span, content in zip(spans, contents, strict=True):
            documents = _documents(file, index, span.row_start, span.row_stop)
            if len(documents.byte_starts) and documents.reach != (span.byte_start, span.byte_stop):
                raise DataError(
                    f"{file.uri}, documents {span.row_start} to {span.row_stop}: they were at bytes {span.byte_start} "
                    f"to {span.byte_stop}, and its index has them at {documents.reach[0]} to {documents.reach[1]}"
                )
            records += _records(documents, index, content if needs_tokens else None, fields)
        return records

    def read_columns(
        self,
        file: DataFile,
        spans: Spans,
        fields: Sequence[FieldPath],
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> dict[FieldPath, list[Any]]:
        """Return fields of the documents of the spans: tokens alone come straight out of the mapped file."""
        if set(fields) != {("tokens",)}:
            records = self.read(file, spans, fields, options, cache)
            return {path: [record.get(path[0]) for record in records] for path in fields}
        key = (file.uri, file.modified_us)
        index = cache.get((*key, "index"), lambda: (_index(file), HEADER.size))
        content = cache.get((*key, "mapped"), lambda: (mapped(file.uri), 0))
        return {("tokens",): _tokens(file, spans, index, content)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Index:
    """The arrays of an ``.idx`` file, mapped into memory."""

    token_type: np.dtype[Any]
    lengths: _Array
    """Tokens of each sequence."""
    pointers: _Array
    """First byte of each sequence."""
    document_bounds: _Array
    """First sequence of each document, and of the one after the last."""
    modes: _Array | None

    @property
    def num_documents(self) -> int:
        return len(self.document_bounds) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Documents:
    """Consecutive documents."""

    first: int
    """Number of the first of them."""
    byte_starts: IntArray
    byte_stops: IntArray
    sequence_bounds: IntArray
    """First sequence of each, and of the one after the last."""

    @property
    def reach(self) -> tuple[int, int]:
        return int(self.byte_starts[0]), int(self.byte_stops[-1])

    def slice(self, start: int, stop: int) -> _Documents:
        return _Documents(
            first=self.first + start,
            byte_starts=self.byte_starts[start:stop],
            byte_stops=self.byte_stops[start:stop],
            sequence_bounds=self.sequence_bounds[start : stop + 1],
        )


@lru_cache(maxsize=4)  # what two threads scan at a time, and one file ahead each
def _index(file: DataFile) -> _Index:
    """Map the index of a file.

    Raises:
        DataError: it is missing, no index of a version and type that there is, torn, or of another file.
    """
    path = f"{file.uri.removesuffix('.bin')}.idx"
    try:
        content = mapped(path)
    except DataError as error:
        raise _refusal(file, f"needs {str(error).replace(': ', ', which ', 1)}") from error
    if len(content) < HEADER.size or bytes(content[: len(MAGIC)]) != MAGIC:
        raise _refusal(file, f"{path} is not an index of Megatron's (MMIDIDX), or it is torn")
    _, version, code, num_sequences, num_bounds = HEADER.unpack_from(content)
    if version != VERSION or code not in TOKEN_TYPES:
        held = f"version {version}" if version != VERSION else f"items of type {_NOT_INTEGERS.get(code, code)}"
        raise _refusal(file, f"{path} has {held}; expected version {VERSION} and items of an integer type")
    size_plain = HEADER.size + num_sequences * (4 + 8) + num_bounds * 8
    if len(content) not in (size_plain, size_plain + num_sequences):
        raise _refusal(file, f"{path} is torn: {len(content)} bytes, where its header says {size_plain}")
    arrays = []
    offset = HEADER.size
    for count, kind in ((num_sequences, "<i4"), (num_sequences, "<i8"), (num_bounds, "<i8"), (num_sequences, "i1")):
        arrays.append(np.frombuffer(content[offset : offset + count * int(kind[-1])], kind))
        offset += count * int(kind[-1])
    index = _Index(
        token_type=np.dtype(TOKEN_TYPES[code]).newbyteorder("<"),
        lengths=arrays[0],
        pointers=arrays[1],
        document_bounds=arrays[2],
        modes=arrays[3] if len(content) > size_plain else None,
    )
    _check(file, path, index)
    return index


def _check(file: DataFile, path: str, index: _Index) -> None:
    """Refuse an index whose ends say that it is not this file's."""
    num_sequences = len(index.lengths)
    bounds = index.document_bounds
    if not len(bounds) or int(bounds[0]) != 0 or int(bounds[-1]) != num_sequences:
        reach = f"{int(bounds[0])} to {int(bounds[-1])}" if len(bounds) else "none"
        raise _refusal(file, f"{path} has {num_sequences} sequences, and documents over {reach} of them")
    item = index.token_type.itemsize
    num_bytes = int(index.pointers[-1]) + int(index.lengths[-1]) * item if num_sequences else 0
    if num_bytes != file.num_bytes:
        raise _refusal(file, f"the file has {file.num_bytes} bytes, and {path} is of one with {num_bytes}")


def _refusal(file: DataFile, reason: str) -> DataError:
    return DataError(Problem(file=file, place="", reason=reason))


def _documents(file: DataFile, index: _Index, start: int, stop: int) -> _Documents:
    """Return where some documents lie, checked: each must be as long as its sequences are together.

    Raises:
        DataError: they are not there, or the index contradicts itself.
    """
    if stop > index.num_documents:
        raise DataError(f"{file.uri}: document {stop - 1} is not there; the file has {index.num_documents} documents")
    bounds = index.document_bounds[start : stop + 1].astype(np.int64)
    if (np.diff(bounds) < 0).any() or bounds[0] < 0 or bounds[-1] > len(index.lengths):
        raise _refusal(file, f"its index is damaged: documents {start} to {stop} have no sequences in order")
    lengths = index.lengths[bounds[0] : bounds[-1]].astype(np.int64) * index.token_type.itemsize
    pointers = index.pointers[bounds[0] : bounds[-1]].astype(np.int64)
    ends = pointers + lengths
    first = int(index.pointers[bounds[0]]) if bounds[0] < len(index.pointers) else file.num_bytes
    is_sound = (lengths >= 0) & (ends <= file.num_bytes)
    is_sound &= pointers == np.concatenate([[first], ends])[:-1]
    if first < 0 or not is_sound.all():
        sequence = int(bounds[0]) + (int(np.argmin(is_sound)) if first >= 0 else 0)
        raise _refusal(file, f"its index is damaged: sequence {sequence} does not follow the one before it")
    edges = np.append(pointers, ends[-1] if len(ends) else first)
    within = bounds - bounds[0]
    return _Documents(first=start, byte_starts=edges[within[:-1]], byte_stops=edges[within[1:]], sequence_bounds=bounds)


def _blocks(part: FilePart, fields: Mapping[FieldPath, pa.DataType], problems: Problems) -> Iterator[Block]:
    index = _index(part.file)
    stop = part.stop if part.stop >= 0 else index.num_documents
    content = mapped(part.file.uri) if ("tokens",) in fields else memoryview(b"")
    try:
        documents = _documents(part.file, index, part.start, stop)
    except DataError as error:
        problems.note(error, part.file)
        yield _left_out(stop - part.start)
        return
    for first, last in _block_bounds(documents.byte_starts):
        yield _block(part, documents.slice(first, last), index, content, fields)


def _block_bounds(byte_starts: IntArray) -> Iterator[tuple[int, int]]:
    """Yield ranges of documents of some megabytes each."""
    start = 0
    while start < len(byte_starts):
        stop = int(np.searchsorted(byte_starts, byte_starts[start] + _BYTES_PER_BLOCK))
        stop = max(start + 1, min(stop, start + _DOCUMENTS_PER_BLOCK))
        yield start, stop
        start = stop


def _block(
    part: FilePart,
    documents: _Documents,
    index: _Index,
    content: memoryview,
    fields: Mapping[FieldPath, pa.DataType],
) -> Block:
    rows = np.arange(len(documents.byte_starts), dtype=np.int64) + documents.first
    first, last = documents.reach
    return Block(
        file_ids=np.full(len(rows), part.file_id, np.int64),
        rows=rows - part.start,
        byte_starts=documents.byte_starts,
        byte_stops=documents.byte_stops,
        columns=_columns(documents, rows, index, content[first:last], fields),
        num_bytes=last - first,
        num_records=len(rows),
        place=lambda position: f"document {rows[position]}",
    )


def _left_out(num_documents: int) -> Block:
    none = np.empty(0, np.int64)
    return Block(
        file_ids=none,
        rows=none,
        byte_starts=none,
        byte_stops=none,
        columns={},
        num_bytes=0,
        num_records=num_documents,
        place=str,
    )


def _columns(
    documents: _Documents,
    rows: IntArray,
    index: _Index,
    content: memoryview,
    fields: Mapping[FieldPath, pa.DataType],
) -> dict[FieldPath, pa.Array]:
    item = index.token_type.itemsize
    edges = np.append(documents.byte_starts, documents.byte_stops[-1])
    columns: dict[FieldPath, pa.Array] = {}
    for path in fields:
        if path == ("tokens",):
            tokens = np.frombuffer(content, index.token_type)
            columns[path] = _lists((edges - edges[0]) // item, tokens)
        elif path == ("num_tokens",):
            columns[path] = pa.array(np.diff(edges) // item)
        elif path == ("document",):
            columns[path] = pa.array(rows)
        elif path == ("sequence_lengths",) or (path == ("sequence_modes",) and index.modes is not None):
            values = index.lengths if path == ("sequence_lengths",) else index.modes
            assert values is not None
            bounds = documents.sequence_bounds
            columns[path] = _lists(bounds - bounds[0], values[bounds[0] : bounds[-1]])
    return columns


def _lists(offsets: IntArray, values: _Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def _tokens(file: DataFile, spans: Spans, index: _Index, content: memoryview) -> list[_Array]:
    """Return the tokens of the documents of the spans; copied, so that the pages are read here and not by the trainer.

    Raises:
        DataError: they are not where they were when the file was registered.
    """
    rows = spans.rows
    if len(rows) and rows.max() >= index.num_documents:
        raise DataError(f"{file.uri}: document {rows.max()} is not there; the file has {index.num_documents} documents")
    starts, stops = _document_reach(index, rows, file.num_bytes)
    lasts = np.cumsum(spans.num_rows) - 1
    firsts = lasts + 1 - spans.num_rows
    is_apart = (starts[firsts] != spans.byte_start) | (stops[lasts] != spans.byte_stop)
    is_apart |= np.add.reduceat((starts < 0) | (stops < starts) | (stops > len(content)), firsts) > 0
    if is_apart.any():
        span = spans[int(np.argmax(is_apart))]
        raise DataError(
            f"{file.uri}, documents {span.row_start} to {span.row_stop}: they were at bytes {span.byte_start} "
            f"to {span.byte_stop}, and its index has them elsewhere"
        )
    item = index.token_type.itemsize
    tokens = np.frombuffer(content, index.token_type, len(content) // item)
    bounds = zip((starts // item).tolist(), (stops // item).tolist(), strict=True)
    return [tokens[start:stop].copy() for start, stop in bounds]


def _document_reach(index: _Index, rows: IntArray, num_bytes: int) -> tuple[IntArray, IntArray]:
    """Return the first byte of each document and the one behind it; a document without sequences lies at its place."""

    def place(sequences: _Array) -> IntArray:
        inside = sequences < len(index.pointers)
        places = np.full(len(sequences), num_bytes, np.int64)
        places[inside] = index.pointers[sequences[inside]]
        return places

    return place(index.document_bounds[rows]), place(index.document_bounds[rows + 1])


def _records(
    documents: _Documents, index: _Index, content: memoryview | None, fields: Sequence[FieldPath] | None
) -> Iterator[dict[str, Any]]:
    item = index.token_type.itemsize
    tokens = None if content is None else np.frombuffer(content, index.token_type).copy()
    edges = (documents.byte_starts - documents.byte_starts[:1]) // item
    counts = (documents.byte_stops - documents.byte_starts) // item
    for position, (start, count) in enumerate(zip(edges.tolist(), counts.tolist(), strict=True)):
        sequences = slice(*documents.sequence_bounds[position : position + 2].tolist())
        record: dict[str, Any] = {
            "tokens": None if tokens is None else tokens[start : start + count],
            "num_tokens": count,
            "document": documents.first + position,
            "sequence_lengths": index.lengths[sequences].tolist(),
        }
        if index.modes is not None:
            record["sequence_modes"] = index.modes[sequences].tolist()
        yield {name: value for name, value in record.items() if fields is None or (name,) in fields}
