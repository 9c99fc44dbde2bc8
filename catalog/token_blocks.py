"""What formats of token ids share: documents lie one after the other in a file, each a range of its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mixlake.catalog.errors import DataError
from mixlake.catalog.records import Block, FieldPath, FilePart, IntArray
from mixlake.catalog.spans import Spans
from mixlake.catalog.token_lists import IdArray
from mixlake.catalog.token_ranges import TokenRanges

_DOCUMENTS_PER_BLOCK = 1 << 17
_BYTES_PER_BLOCK = 4 << 20


def block_bounds(byte_starts: IntArray) -> Iterator[tuple[int, int]]:
    """Yield ranges of documents of some megabytes each."""
    start = 0
    while start < len(byte_starts):
        stop = int(np.searchsorted(byte_starts, byte_starts[start] + _BYTES_PER_BLOCK))
        stop = max(start + 1, min(stop, start + _DOCUMENTS_PER_BLOCK))
        yield start, stop
        start = stop


def token_block(
    part: FilePart,
    first: int,
    edges: IntArray,
    content: memoryview,
    token_type: np.dtype[Any],
    fields: Mapping[FieldPath, pa.DataType],
    others: Mapping[FieldPath, pa.Array],
) -> Block:
    """Return documents as a block, with their tokens, num_tokens and number in the file where fields ask for them.

    Args:
        part: what they are of.
        first: number of the first of them in the file.
        edges: first byte of each of the N documents, and the one behind the last, shape (N + 1,).
        content: the file; empty where no tokens are asked for.
        token_type: of the ids.
        fields: what is asked for.
        others: columns that the format itself has.
    """
    rows = np.arange(len(edges) - 1) + first
    bounds = (edges - edges[0]) // token_type.itemsize
    columns: dict[FieldPath, pa.Array] = dict(others)
    if ("tokens",) in fields:
        tokens = np.frombuffer(content[int(edges[0]) : int(edges[-1])], token_type)
        columns["tokens",] = list_column(bounds, tokens.astype(token_type.newbyteorder("="), copy=False))
    if ("num_tokens",) in fields:
        columns["num_tokens",] = pa.array(np.diff(bounds))
    if ("document",) in fields:
        columns["document",] = pa.array(rows)
    return Block(
        file_ids=np.full(len(rows), part.file_id, np.int64),
        rows=rows - part.start,
        byte_starts=edges[:-1],
        byte_stops=edges[1:],
        columns=columns,
        num_bytes=int(edges[-1] - edges[0]),
        num_records=len(rows),
        place=lambda position: f"document {rows[position]}",
    )


def list_column(bounds: IntArray, values: npt.NDArray[Any]) -> pa.Array:
    """Return a column of lists: the n-th is ``values[bounds[n]:bounds[n + 1]]``."""
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(values))


def in_file(content: memoryview, token_type: np.dtype[Any], starts: IntArray, stops: IntArray) -> TokenRanges:
    """Return the tokens of some documents, by their bytes in a mapped file; its pages are read here."""
    item = token_type.itemsize
    tokens = np.frombuffer(content, token_type, len(content) // item)
    documents = TokenRanges.of(tokens, starts // item, stops // item)
    documents.fetch()
    return documents


def check_spans(uri: str, spans: Spans, starts: IntArray, stops: IntArray, num_bytes: int) -> None:
    """Refuse documents that are not where they were when the file was registered.

    Args:
        uri: the file.
        spans: where they were.
        starts: first byte of each document of the spans, shape (N,).
        stops: the byte behind each.
        num_bytes: how much there is.

    Raises:
        DataError: naming the first that is elsewhere.
    """
    lasts = np.cumsum(spans.num_rows) - 1
    firsts = lasts + 1 - spans.num_rows
    is_apart = (starts[firsts] != spans.byte_start) | (stops[lasts] != spans.byte_stop)
    is_apart |= np.add.reduceat((starts < 0) | (stops < starts) | (stops > num_bytes), firsts) > 0
    if is_apart.any():
        span = spans[int(np.argmax(is_apart))]
        raise DataError(
            f"{uri}, documents {span.row_start} to {span.row_stop}: they were at bytes {span.byte_start} "
            f"to {span.byte_stop}, and its index has them elsewhere"
        )


def records_of(tokens: Sequence[IdArray], first: int, fields: Sequence[FieldPath] | None) -> list[dict[str, Any]]:
    """Return consecutive documents as records; ``first`` is the number of the first of them in the file."""
    return [
        {
            name: value
            for name, value in (("tokens", ids), ("num_tokens", len(ids)), ("document", number))
            if fields is None or (name,) in fields
        }
        for number, ids in enumerate(tokens, start=first)
    ]
