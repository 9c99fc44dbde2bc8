"""The ``megatron`` format: token ids of Megatron-LM's indexed datasets; one document is one sample.

The ids lie one after the other in a ``.bin`` file, so a document is one range of its bytes; the ``.idx`` file beside it
(see `mixlake.catalog.megatron_index`) tells where.

Fields of a record: tokens, num_tokens, document (its number in the file), sequence_lengths (tokens in each of its
sequences), and sequence_modes where there are modes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.data_files import mapped
from mixlake.catalog.errors import DataError
from mixlake.catalog.megatron_index import (
    HEADER,
    Documents,
    MegatronIndex,
    document_reach,
    documents_of,
    open_index,
)
from mixlake.catalog.problems import Problems
from mixlake.catalog.ranged_reads import read_ranges
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, Span
from mixlake.catalog.spans import Spans
from mixlake.catalog.token_blocks import block_bounds, check_spans, in_file, list_column, token_block
from mixlake.catalog.token_ranges import TokenRanges

_DOCUMENTS_PER_PART = 1 << 20


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
            index = open_index(file)
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
        index = cache.get((file.uri, file.modified_us, "index"), lambda: (open_index(file), HEADER.size))
        needs_tokens = fields is None or ("tokens",) in fields
        contents = read_ranges(file, spans, cache) if needs_tokens else [memoryview(b"")] * len(spans)
        records: list[dict[str, Any]] = []
        for span, content in zip(spans, contents, strict=True):
            documents = documents_of(file, index, span.row_start, span.row_stop)
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
    ) -> dict[FieldPath, TokenRanges] | None:
        """Return the tokens of the documents of the spans straight out of the mapped file; None for other fields."""
        del options
        if set(fields) != {("tokens",)}:
            return None
        key = (file.uri, file.modified_us)
        index = cache.get((*key, "index"), lambda: (open_index(file), HEADER.size))
        content = cache.get((*key, "mapped"), lambda: (mapped(file.uri), 0))
        rows = spans.rows
        if len(rows) and rows.max() >= index.num_documents:
            raise DataError(
                f"{file.uri}: document {rows.max()} is not there; the file has {index.num_documents} documents"
            )
        starts, stops = document_reach(index, rows, file.num_bytes)
        check_spans(file.uri, spans, starts, stops, len(content))
        return {("tokens",): in_file(content, index.token_type, starts, stops)}


def _blocks(part: FilePart, fields: Mapping[FieldPath, pa.DataType], problems: Problems) -> Iterator[Block]:
    index = open_index(part.file)
    stop = part.stop if part.stop >= 0 else index.num_documents
    content = mapped(part.file.uri) if ("tokens",) in fields else memoryview(b"")
    try:
        documents = documents_of(part.file, index, part.start, stop)
    except DataError as error:
        problems.note(error, part.file)
        yield _left_out(stop - part.start)
        return
    for first, last in block_bounds(documents.byte_starts):
        some = documents.slice(first, last)
        edges = np.append(some.byte_starts, some.byte_stops[-1])
        yield token_block(part, some.first, edges, content, index.token_type, fields, _sequences(some, index, fields))


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


def _sequences(
    documents: Documents, index: MegatronIndex, fields: Mapping[FieldPath, pa.DataType]
) -> dict[FieldPath, pa.Array]:
    bounds = documents.sequence_bounds
    held = {("sequence_lengths",): index.lengths, ("sequence_modes",): index.modes}
    return {
        path: list_column(bounds - bounds[0], values[bounds[0] : bounds[-1]])
        for path, values in held.items()
        if path in fields and values is not None
    }


def _records(
    documents: Documents, index: MegatronIndex, content: memoryview | None, fields: Sequence[FieldPath] | None
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
