"""The ``numpy`` format: token ids as ``.npy`` arrays, or as raw memmaps of a declared type; one document is one sample.

Of an array of two dimensions every row is a document. Ids that lie one after the other are cut into documents by

- ``end``: an id that is the last of every document, such as that of <|endoftext|>;
- ``begin``: an id that is the first of every document;
- ``length``: a number of ids, as sequences that were packed before have (the last may be shorter);

or are one document, where none is given. ``dtype`` says that files have no header, as `numpy.memmap` writes them, and
of which type their ids are; ``offset`` how many bytes come before the first id.

Fields of a record: tokens, num_tokens, document (its number in the file).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.data_files import mapped, open_file
from mixlake.catalog.errors import ConfigError, DataError
from mixlake.catalog.problems import Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem, Span
from mixlake.catalog.spans import Spans
from mixlake.catalog.token_blocks import block_bounds, in_file, records_of, token_block
from mixlake.catalog.token_lists import IdArray
from mixlake.catalog.token_ranges import TokenRanges

_CUTS = ("begin", "end", "length")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_IDS_AT_A_TIME = 1 << 22
_MAX_IDS = 1 << 31
"""Of a document: Arrow's lists hold less."""


class NumpyFormat:
    """Reads documents of token ids by range, out of files that are mapped into memory."""

    name = "numpy"
    suffixes: tuple[str, ...] = (".npy",)
    companions: tuple[str, ...] = ()
    content = "tokens"
    options = frozenset(["dtype", "offset", *_CUTS])

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return the file as one part: where documents begin only its ids say."""
        try:
            layout_of(file, options)
        except DataError as error:
            problems.note(error, file)
            return []
        return [FilePart(file_id=file_id, file=file)]

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the documents in blocks; ids are read where they tell documents apart, or where fields need them."""
        for part in parts:
            try:
                layout = layout_of(part.file, options)
                content = mapped(part.file.uri)
            except DataError as error:
                problems.note(error, part.file)
                continue
            edges = layout.start + _bounds(layout, layout.ids(content)) * layout.token_type.itemsize
            if (np.diff(edges) >= _MAX_IDS * layout.token_type.itemsize).any():
                reason = "it has a document of 2^31 ids or more; say with begin, end or length where documents begin"
                problems.note(_refusal(part.file, reason), part.file)
                continue
            for first, last in block_bounds(edges[:-1]):
                yield token_block(part, first, edges[first : last + 1], content, layout.token_type, fields, {})

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the documents of the spans, in their order."""
        spans = Spans.of(spans)
        found = iter(self._tokens(file, spans, options, cache))
        records = []
        for span in spans:
            ids = [next(found) for _ in range(span.row_stop - span.row_start)]
            records += records_of(ids, span.row_start, fields)
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
        if set(fields) != {("tokens",)}:
            return None
        return {("tokens",): self._tokens(file, spans, options, cache)}

    def _tokens(self, file: DataFile, spans: Spans, options: Mapping[str, Any], cache: ReadCache) -> TokenRanges:
        layout, content = cache.get(
            (file.uri, file.modified_us, "array"), lambda: ((layout_of(file, options), mapped(file.uri)), 0)
        )
        starts, stops = _reach(file, spans, layout, content)
        return in_file(content[layout.start :], layout.token_type, starts - layout.start, stops - layout.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a file holds its ids."""

    token_type: np.dtype[Any]
    start: int
    """Its first id's first byte."""
    length: int | None = None
    """Ids of each document; None where they are not all of one length."""
    begin: int | None = None
    """The id that begins documents."""
    end: int | None = None
    """The id that ends documents."""

    def ids(self, content: memoryview) -> IdArray:
        """Return all ids of a mapped file."""
        return np.frombuffer(content[self.start :], self.token_type)


def layout_of(file: DataFile, options: Mapping[str, Any]) -> Layout:
    """Return how a file holds its ids.

    Raises:
        ConfigError: an option has a wrong value, or does not go with another.
        DataError: the file is no array of integers, torn, or compressed.
    """
    cuts = {name: _number(name, options[name]) for name in _CUTS if options.get(name) is not None}
    if len(cuts) > 1:
        raise _wrong(f"{' and '.join(cuts)} are given; expected one of them at most")
    if file.compression is not None:
        raise _refusal(file, f"it is compressed ({file.compression}), and cannot be mapped into memory; decompress it")
    if options.get("dtype") is not None:
        token_type, start = _token_type(options["dtype"]), _number("offset", options.get("offset") or 0, least=0)
        shape: tuple[int, ...] = (max(0, file.num_bytes - start) // token_type.itemsize,)
        if _has_header(file):
            raise _wrong(f"dtype is {options['dtype']!r}, but {file.uri} has a header, which says the type")
    elif options.get("offset") is not None:
        raise _wrong("offset goes with dtype: it is for files without a header")
    else:
        shape, token_type, start = _header(file)
    expected = start + int(np.prod(shape)) * token_type.itemsize
    if file.num_bytes != expected:
        raise _refusal(file, f"it has {file.num_bytes} bytes, and {shape} ids of {token_type} take {expected}")
    if len(shape) == 2 and cuts:
        raise _wrong(f"{next(iter(cuts))} is given, but {file.uri} has two dimensions: its rows are the documents")
    if len(shape) == 2:
        cuts = {"length": max(1, shape[1])}
    for name, token in cuts.items():
        if name != "length" and token > np.iinfo(token_type).max:
            raise _wrong(f"{name} is {token}, and ids of {file.uri} are {token_type}, up to {np.iinfo(token_type).max}")
    return Layout(token_type=token_type, start=start, **cuts)


def _has_header(file: DataFile) -> bool:
    with open_file(file) as stream:
        return stream.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX


def _header(file: DataFile) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return the shape and type of a ``.npy`` file, and where its ids begin."""
    with open_file(file) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            shape, is_fortran, kind = _HEADERS[version](stream)
        except (ValueError, KeyError) as error:
            raise _refusal(
                file, f"it has no header of an array ({error}); of raw ids, options.dtype says the type"
            ) from error
        start = stream.tell()
    if kind.kind not in "iu" or len(shape) not in (1, 2) or (is_fortran and len(shape) == 2):
        order = " in columns" if is_fortran else ""
        raise _refusal(
            file,
            f"it holds an array of {kind} and shape {shape}{order}; expected integers in one or two "
            "dimensions, row by row",
        )
    return shape, kind, start


def _token_type(name: Any) -> np.dtype[Any]:
    try:
        kind: np.dtype[Any] | None = np.dtype(name)
    except TypeError:
        kind = None
    if kind is None or kind.kind not in "iu":
        raise _wrong(f"dtype is {name!r}; expected a type of integers, such as uint16 or <u4")
    return kind


def _number(name: str, value: Any, least: int | None = None) -> int:
    least = least if least is not None else int(name == "length")
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(f"{name} is {value!r}; expected a whole number from {least} on")
    return value


def _bounds(layout: Layout, ids: IdArray) -> IntArray:
    """Return where N documents begin among some ids that begin with one, and where the last ends, shape (N + 1,)."""
    num = len(ids)
    if layout.length is not None:
        cuts = np.arange(layout.length, num, layout.length)
    elif layout.begin is None and layout.end is None:
        cuts = np.empty(0, np.int64)
    else:
        token, behind = (layout.begin, 0) if layout.begin is not None else (layout.end, 1)
        pieces = [
            np.flatnonzero(ids[start : start + _IDS_AT_A_TIME] == token) + start
            for start in range(0, num, _IDS_AT_A_TIME)
        ]
        cuts = np.concatenate([*pieces, np.empty(0, np.int64)]).astype(np.int64) + behind
    cuts = cuts[(cuts > 0) & (cuts < num)]
    return np.concatenate([[0], cuts, [num]] if num else [[0]]).astype(np.int64)


def _reach(file: DataFile, spans: Spans, layout: Layout, content: memoryview) -> tuple[IntArray, IntArray]:
    """Return the first byte of each document of the spans, and the byte behind it.

    Raises:
        DataError: they are not where they were when the file was registered.
    """
    item = layout.token_type.itemsize
    is_inside = (spans.byte_start >= layout.start) & (spans.byte_stop <= len(content))
    is_inside &= ((spans.byte_start - layout.start) % item == 0) & ((spans.byte_stop - spans.byte_start) % item == 0)
    if not is_inside.all():
        raise _moved(file, spans[int(np.argmin(is_inside))])
    if (spans.num_rows == 1).all():
        return spans.byte_start, spans.byte_stop
    starts, stops = [], []
    for span in spans:
        ids = np.frombuffer(content[span.byte_start : span.byte_stop], layout.token_type)
        edges = span.byte_start + _bounds(layout, ids) * item
        if len(edges) - 1 != span.row_stop - span.row_start:
            raise _moved(file, span)
        starts.append(edges[:-1])
        stops.append(edges[1:])
    return np.concatenate(starts), np.concatenate(stops)


def _moved(file: DataFile, span: Span) -> DataError:
    return DataError(
        f"{file.uri}, documents {span.row_start} to {span.row_stop}: they were at bytes {span.byte_start} to "
        f"{span.byte_stop}, and are not there any more"
    )


def _refusal(file: DataFile, reason: str) -> DataError:
    return DataError(Problem(file=file, place="", reason=reason))


def _wrong(reason: str) -> ConfigError:
    return ConfigError(f"options of format 'numpy': {reason}")
