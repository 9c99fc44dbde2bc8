"""Reads samples where they lie: by file, row and byte range, only the fields that are needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow.dataset as pads

from mixlake.catalog import Catalog, DataError, DataFile, Span, schema
from mixlake.catalog.columns import WHOLE, Columns, SizesSamples, as_text, columns_at_hand, fetch_columns
from mixlake.catalog.data_files import check_unchanged
from mixlake.catalog.fields import parse_path
from mixlake.catalog.formats import get_format
from mixlake.catalog.frames import files_by_registration
from mixlake.catalog.publishing import registered_files
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import FieldPath, IntArray
from mixlake.catalog.spans import Spans, ranges
from mixlake.loaders.contents import Contents, Values, put
from mixlake.loaders.images import Images
from mixlake.loaders.replacing import Replacements, Unreadable
from mixlake.loaders.stats import Counts
from mixlake.mixing.chunks import Chunk

_MAX_GROUP_BYTES = 8 << 20
"""Larger groups are not faster, and the first sample of every lane waits for a whole one."""
_EXPANSION = 4
"""How much longer than in its file a sample is taken to be where its format does not say, until some are decoded."""
_NUM_THREADS = 2
_SIDE_BY_SIDE = frozenset({"parquet", "arrow"})
"""Formats that are decoded outside the interpreter lock, by several threads, as compressed files are. The others take
it at every read, and two threads would wake each other all the time: lines come a sixth slower. Storage that makes
readers wait wants more worker processes."""

Read: TypeAlias = tuple[Values, Columns]
"""Contents, and other fields, of some samples."""


class _Source(NamedTuple):
    """Some rows of a file."""

    registration: str
    file_id: int
    spans: Spans


_Part: TypeAlias = tuple[IntArray, _Source, Callable[[], Columns]]
"""Where rows of a file belong, which ones they are, and what gives them."""


class SampleReader:
    """Reads intervals of chunks, in threads of its own; files are checked against what was registered.

    The threads end when nobody has the reader any more.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        fields: Sequence[str] | None,
        cache_bytes: int,
        num_lanes: int = 1,
        replacements: Replacements | None = None,
        images: Images | None = None,
        form: Callable[[Any], Any] = as_text,
    ) -> None:
        """Open the reader.

        Args:
            catalog: the run's catalog version.
            fields: the record fields to read beside the text; None for whole records.
            cache_bytes: bound of what is held in memory, in bytes of what is decompressed and decoded: groups of
                samples, of which every lane has two at a time, and what is kept decoded, such as Parquet row groups.
            num_lanes: how many lanes share it.
            replacements: of what cannot be read; None to raise errors.
            images: the fields to decode; None for none.
            form: what texts are to be, as in `fetch_columns`.
        """
        self._catalog = catalog
        self._images = images
        self._form = form
        self.replacements = replacements
        """Where replacements are written down; None where what cannot be read is an error."""
        held = max(1, min(_MAX_GROUP_BYTES, cache_bytes // 4 // num_lanes))
        self.group_bytes = max(1, held // (images.expansion if images else 1))
        """Bound of a group of samples, in bytes that they take when they are decoded."""
        ahead = num_lanes * held  # which is decoded, or still being decoded
        self._cache = ReadCache(cache_bytes - 2 * ahead, max_begun_bytes=ahead)
        datasets = catalog.list_datasets()
        self._datasets = {name: dataset for dataset in datasets for name in dataset.registrations}
        self.text_fields = {name: parse_path(dataset.text) for name, dataset in self._datasets.items()}
        """Path of the text in the records, by registration."""
        self._mean_bytes = {
            part.registration: part.num_bytes // max(part.num_samples, 1) for d in datasets for part in d.parts
        }
        self._decoded: dict[str, tuple[int, int]] = {}
        """Of registrations whose formats do not say how long samples are: bytes of those decoded, and their number."""
        self.fields: list[FieldPath] = [WHOLE] if fields is None else [parse_path(name) for name in fields]
        """The fields that are read beside the text."""
        self._files: dict[str, dict[int, DataFile]] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._num_bytes = self._num_samples = 0
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Let the reading threads end: what they have not begun is not read any more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)  # storage may take its time
            self._threads = None

    def counts(self) -> Counts:
        """Return what has been read so far, or is being read: how far threads have come with it decides nothing."""
        return Counts(
            num_bytes=self._num_bytes,
            num_samples=self._num_samples,
            cache_hits=self._cache.num_hits,
            cache_misses=self._cache.num_misses,
        )

    def num_bytes(self, chunk: Chunk) -> IntArray:
        """Return about how many bytes a sample of each interval takes; where the format does not say, the mean."""
        intervals = chunk.intervals
        means = np.array([self._mean_bytes.get(name, 0) for name in chunk.registrations], np.int64)
        known = (intervals.byte_stop - intervals.byte_start) // (intervals.row_stop - intervals.row_start)
        return np.where(intervals.byte_start < 0, means[intervals.registration], known)

    def held_bytes(self, chunk: Chunk) -> IntArray:
        """Return about how many bytes a sample of each interval takes in memory, by what has been decoded so far."""
        names = chunk.registrations
        intervals = chunk.intervals
        is_unknown = intervals.byte_start < 0
        for index in np.unique(intervals.registration[is_unknown]).tolist():
            if names[index] not in self._decoded:
                file_id = int(intervals.file_id[intervals.registration == index][0])
                self._decoded[names[index]] = self._bytes_per_sample(names[index], file_id), 1
        decoded = [self._decoded.get(name, (0, 1)) for name in names]
        means = np.array([num_bytes // num for num_bytes, num in decoded], np.int64)
        return np.where(is_unknown, means[intervals.registration], self.num_bytes(chunk))

    def _bytes_per_sample(self, registration: str, file_id: int) -> int:
        """Return about how many bytes a sample takes, of which none has been decoded yet."""
        data_format = get_format(self._datasets[registration].format)
        if isinstance(data_format, SizesSamples):
            with suppress(DataError):  # which reading says, too
                return data_format.bytes_per_sample(self._file(registration, file_id))
        return _EXPANSION * self._mean_bytes.get(registration, 0)

    def read(self, chunk: Chunk, wanted: IntArray) -> Read:
        """Return contents and fields of all rows of some intervals, in their order.

        Raises:
            DataError: a file is gone, has changed, or cannot be read.
        """
        return self.begin(chunk, wanted)()

    def begin(self, chunk: Chunk, wanted: IntArray) -> Callable[[], Read]:
        """Begin to read some intervals; return what gives contents and fields of their rows, in their order.

        That waits for the threads, and raises what they do: DataError where a file is gone, has changed, or cannot be
        read.
        """
        intervals = chunk.intervals
        num_rows = intervals.row_stop[wanted] - intervals.row_start[wanted]
        first = np.cumsum(num_rows) - num_rows
        total = int(num_rows.sum())
        self._num_samples += total
        self._num_bytes += int((self.num_bytes(chunk)[wanted] * num_rows).sum())
        registrations, file_ids = intervals.registration[wanted], intervals.file_id[wanted]
        order = np.lexsort((intervals.row_start[wanted], file_ids, registrations))
        is_new = np.diff(registrations[order], prepend=-1) != 0
        is_new |= np.diff(file_ids[order], prepend=-1) != 0
        parts = []
        for mine in np.split(order, np.flatnonzero(is_new)[1:]) if len(order) else ():
            registration = chunk.registrations[registrations[mine[0]]]
            where = ranges(first[mine], num_rows[mine])
            source = _Source(registration, int(file_ids[mine[0]]), _spans(chunk, wanted[mine]))
            parts.append((where, source, self._begin(source)))
        return partial(self._put_together, parts, total)

    def _put_together(self, parts: Sequence[_Part], total: int) -> Read:
        contents = Contents(total)
        columns: Columns = {path: [None] * total for path in self.fields}
        for where, source, parse in parts:
            found = self._sound(source, parse)
            if source.spans.byte_start[0] < 0:
                num_bytes, num = self._decoded[source.registration]
                num_bytes += sum(map(_sizes, found.values()))
                self._decoded[source.registration] = num_bytes, num + len(where)
            contents.put(where, found[self.text_fields[source.registration]])
            for path in self.fields:
                put(columns[path], where.tolist(), found[path])
        return contents.take(np.arange(total)), columns

    def _begin(self, source: _Source) -> Callable[[], Columns]:
        """Return what gives rows of a file; a thread reads them, unless they are in memory anyway."""
        with suppress(DataError):  # it is an error where the rows are due
            parse = self._fetch(source, may_wait=False)
            if parse is not None:
                return partial(self._parsed, source, parse)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="mixlake-read")
        return partial(self._awaited, source, self._threads.submit(self._fetch, source))

    def _parsed(self, source: _Source, parse: Callable[[], Columns]) -> Columns:
        """Parse what lies in memory, which may be the file itself, if that is still the one that was registered."""
        self._unchanged(source)
        return parse()

    def _awaited(self, source: _Source, future: Future[Callable[[], Columns] | None]) -> Columns:
        """Wait for a read, or do it here if no thread has begun it."""
        parse = self._fetch(source) if future.cancel() else future.result()
        assert parse is not None
        return parse()

    def _sound(self, source: _Source, parse: Callable[[], Columns] | None = None) -> Columns:
        """Return rows of a file; those that cannot be read are found by bisection, where they are to be replaced."""
        registration, file_id, spans = source
        try:
            return parse() if parse else self._begin(source)()
        except DataError as error:
            if self.replacements is None:
                raise
            reason = str(error)
        if len(spans) == 1 and spans.num_rows[0] == 1:
            return {path: [Unreadable(reason)] for path in (self.text_fields[registration], *self.fields)}
        if len(spans) == 1:
            spans = self._rows_of(registration, file_id, spans[0])
        middle = len(spans) // 2
        halves = [self._sound(_Source(registration, file_id, half)) for half in (spans[:middle], spans[middle:])]
        return {path: [*halves[0][path], *halves[1][path]] for path in halves[0]}

    def _rows_of(self, registration: str, file_id: int, span: Span) -> Spans:
        """Return a span's rows as spans of their own; the index knows where they lie."""
        rows = np.arange(span.row_start, span.row_stop)
        if span.byte_start < 0:
            nowhere = np.full(len(rows), -1)
            return Spans(row_start=rows, row_stop=rows + 1, byte_start=nowhere, byte_stop=nowhere)
        lake, field = self._catalog.lake, pads.field
        is_here = (field("file_id") == file_id) & (field("row") >= span.row_start) & (field("row") < span.row_stop)
        columns = ["row", "byte_start", "byte_stop"]
        with self._lock:
            paths = files_by_registration(lake.table(schema.SAMPLES))[registration]
            index = pads.dataset([os.path.join(lake.path(schema.SAMPLES), path) for path in paths])
            found = index.to_table(columns=columns, filter=is_here)
        found = found.sort_by("row")
        starts, stops = (found[name].to_numpy() for name in columns[1:])
        return Spans(row_start=rows, row_stop=rows + 1, byte_start=starts, byte_stop=stops)

    def _fetch(self, source: _Source, *, may_wait: bool = True) -> Callable[[], Columns] | None:
        """Read rows of a file; return what parses them, or None where they must be waited for and may not be."""
        registration, _, spans = source
        dataset, file = self._datasets[registration], self._unchanged(source)
        fields = list(dict.fromkeys([self.text_fields[registration], *self.fields]))
        arguments = (get_format(dataset.format), file, spans, fields, dataset.options, self._cache)
        if not may_wait:
            return None if self._images else columns_at_hand(*arguments, form=self._form)
        is_apart = dataset.format in _SIDE_BY_SIDE or file.compression is not None
        with nullcontext() if is_apart else self._turn:
            parse = fetch_columns(*arguments, form=self._form)
        if self._images is None:
            return parse
        columns = parse()
        self._images.decode(columns, file, spans)
        return lambda: columns

    def _unchanged(self, source: _Source) -> DataFile:
        """Return a file that is the one that was registered; anything else is an error."""
        registration, file_id, _ = source
        file = self._file(registration, file_id)
        check_unchanged(file, self._datasets[registration].name, registration)
        return file

    def _file(self, registration: str, file_id: int) -> DataFile:
        with self._lock:
            if registration not in self._files:
                dataset = self._datasets[registration].name
                self._files[registration] = registered_files(self._catalog.lake, dataset, registration)
            return self._files[registration][file_id]


def _sizes(column: Sequence[Any]) -> int:
    return sum(map(len if set(map(type, column)) <= {str, bytes} else _size, column))


def _size(value: Any) -> int:
    """Return about how many bytes a value takes; a text in UTF-8, as it comes."""
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return len(value) if isinstance(value, str | bytes) else int(getattr(value, "nbytes", 8))


def _spans(chunk: Chunk, wanted: IntArray) -> Spans:
    intervals = chunk.intervals
    return Spans(
        row_start=intervals.row_start[wanted],
        row_stop=intervals.row_stop[wanted],
        byte_start=intervals.byte_start[wanted],
        byte_stop=intervals.byte_stop[wanted],
    )
