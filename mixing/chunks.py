"""Chunks: what the scheduler writes, what the loader reads, and the order that both agree on."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mixlake.catalog import schema
from mixlake.catalog.errors import LakeError, ScheduleError
from mixlake.catalog.lake import Fence, Lake
from mixlake.catalog.log_entries import added_since
from mixlake.catalog.records import IntArray
from mixlake.mixing.chunk_files import ChunkFiles, compact_chunks, file_intervals, write_chunks
from mixlake.mixing.intervals import Intervals
from mixlake.mixing.randomness import Purpose, permutations


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A fixed number of samples in mixture proportions."""

    number: int
    weights_version: int
    stage: int
    registrations: tuple[str, ...]
    intervals: Intervals
    component_order: IntArray
    """Component of each sample, in delivery order."""
    is_last: bool

    @property
    def num_samples(self) -> int:
        """The number of samples."""
        return len(self.component_order)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A chunk's samples in the order in which they are delivered. One entry per sample."""

    component: IntArray
    interval: IntArray
    """Index into the chunk's intervals."""
    row: IntArray
    """Row in the interval's file."""


def delivery(chunk: Chunk, *, seed: int, shuffled: bool) -> Delivery:
    """Return the order in which a chunk's samples are delivered: anyone can recompute it from the chunk.

    Components follow ``component_order``; the samples of a component are permuted, keyed by (seed, chunk, component),
    or stay in storage order where the mixture is not shuffled.
    """
    intervals = chunk.intervals
    lengths = intervals.row_stop - intervals.row_start
    interval = np.repeat(np.arange(len(lengths)), lengths)
    row = np.arange(len(interval)) + (intervals.row_start + lengths - np.cumsum(lengths))[interval]
    counts = np.bincount(chunk.component_order)
    sample = np.arange(len(interval))  # of every slot of a component, one component after the other
    if shuffled:
        inside = permutations(counts.tolist(), seed, Purpose.DELIVERY, chunk.number)
        sample = np.concatenate(inside) + np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(interval), np.int64)  # of every slot, the sample that fills it
    place[np.argsort(chunk.component_order.astype(np.int16), kind="stable")] = sample
    return Delivery(component=chunk.component_order, interval=interval[place], row=row[place])


_READ_COLUMNS = pa.schema(
    [f for f in schema.TABLES[schema.CHUNKS].columns if f.name not in ("run", "num_samples", "cursor", "created_at")]
)
_MOST_BEHIND = 16
"""Chunks between a chunk and the cursor in front of it, that are looked at first; then sixteen times as many."""
_COMMITS_PER_COMPACTION = 100
"""A commit takes longer the more files a table has, by 1 µs for each."""


class _Files(NamedTuple):
    """The files of the run: of one commit each, or of several that were joined, which are not in order.

    There may be tens of thousands, and a look at the lake comes with nearly every chunk: so they are columns.
    """

    version: int
    """Of the table, when this was so; -1 before it was looked at."""
    newest: int
    """The last committed chunk; which file has it cannot be told, as joined ones are not in order."""
    first: IntArray
    """The first chunk of each file."""
    last: IntArray
    paths: list[str]
    ends_run: bool

    @classmethod
    def none(cls, first: int) -> _Files:
        """Return that of a run whose first chunk nobody has looked for yet."""
        return cls(-1, first - 1, np.empty(0, np.int64), np.empty(0, np.int64), [], False)

    def and_those(self, version: int, actions: pa.Table) -> _Files:
        """Return these and those that actions of the log add, up to a version."""
        if not len(actions):
            return self._replace(version=version)
        first, last = (actions[name].to_numpy() for name in ("min.chunk", "max.chunk"))
        return _Files(
            version=version,
            newest=max(self.newest, int(last.max())),
            first=np.append(self.first, first),
            last=np.append(self.last, last),
            paths=self.paths + actions["path"].to_pylist(),
            ends_run=self.ends_run or bool(pc.any(actions["max.is_last"]).as_py()),
        )

    def overlapping(self, first: int, stop: int) -> list[str]:
        """Return the paths of those that may have some of the chunks from ``first`` to before ``stop``."""
        return [self.paths[index] for index in np.flatnonzero((self.first < stop) & (self.last >= first))]

    def holding(self, numbers: Sequence[int]) -> Iterator[tuple[str, Sequence[int]]]:
        """Yield the paths of those that may have some of some chunks, given in ascending order, and these."""
        starts, stops = np.searchsorted(numbers, self.first), np.searchsorted(numbers, self.last, side="right")
        for index in np.flatnonzero(starts < stops).tolist():
            yield self.paths[index], numbers[starts[index] : stops[index]]


def _actions(run: str, added: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the actions of log entries that are of a run, by column, as a Delta handle gives them."""
    mine = [action for action in added if action["partitionValues"][schema.RUN] == run]
    statistics = [json.loads(action["stats"]) for action in mine]
    return pa.table(
        {
            "path": pa.array([action["path"] for action in mine], pa.string()),
            "min.chunk": pa.array([each["minValues"]["chunk"] for each in statistics], pa.int64()),
            "max.chunk": pa.array([each["maxValues"]["chunk"] for each in statistics], pa.int64()),
            "max.is_last": pa.array([each["maxValues"]["is_last"] for each in statistics], pa.bool_()),
        }
    )


class ChunkLog:
    """The chunks of one run in the `chunks` table. The first ones may be those of another run that it goes on from."""

    def __init__(
        self, lake: Lake, run: str, components: Sequence[str], parent: ChunkLog | None = None, first: int = 0
    ) -> None:
        """Open the log.

        Args:
            lake: where it is.
            run: whose it is.
            components: the names that component ids index; they begin with the parent's.
            parent: the log that has the chunks before ``first``.
            first: the first chunk of the run's own.
        """
        self._parent = parent
        self._first = first
        self._lake = lake
        self._run = run
        self._components = {name: index for index, name in enumerate(components)}
        self._files = _Files.none(first)
        self._open_files = ChunkFiles(_READ_COLUMNS)
        self._num_small = 0

    def append(
        self, chunks: Sequence[Chunk], cursor: dict[str, Any], previous: int, precedence: Fence | None = None
    ) -> None:
        """Commit consecutive chunks as one snapshot, with the scheduler's state after the last of them.

        Args:
            chunks: the chunks, in order.
            cursor: the scheduler's state.
            previous: the last chunk that this scheduler knows to be committed; -1 for none.
            precedence: one more fence; it is broken if somebody has taken precedence.

        Raises:
            ScheduleError: another scheduler committed chunks of this run.
        """
        last = chunks[-1].number
        fence = Fence(application=f"run:{self._run}", seen=previous, number=last)
        lake, columns = self._lake, schema.TABLES[schema.CHUNKS].columns
        rows = self._to_arrow(chunks, cursor)
        written = write_chunks(lake.path(schema.CHUNKS), self._run, rows)
        fences = [fence, *([precedence] if precedence else [])]
        try:
            lake.add_files(schema.CHUNKS, written, columns, action=f"schedule {self._run}", fence=fences)
        except LakeError as error:
            for file in written:
                os.remove(os.path.join(lake.path(schema.CHUNKS), file.path))
            raise ScheduleError(
                f"run {self._run!r}: another scheduler wrote chunks after chunk {previous}; only one may schedule a run"
            ) from error
        self._num_small += 1
        if self._num_small >= _COMMITS_PER_COMPACTION:
            compact_chunks(lake, self._run, rows)
            self._num_small = 0

    def read(self, first: int, stop: int) -> list[Chunk]:
        """Return those of the chunks ``first`` to ``stop`` that are committed (see `pick`)."""
        return self.pick(range(first, stop))

    def pick(self, numbers: Sequence[int]) -> list[Chunk]:
        """Return those of some chunks, given in ascending order, that are committed.

        The lake is asked for new chunks only where the first is not known yet, so the last ones may be missing.
        """
        if self._parent is not None and numbers and numbers[0] < self._first:
            before = bisect.bisect_left(numbers, self._first)
            theirs = [replace(chunk, is_last=False) for chunk in self._parent.pick(numbers[:before])]
            return [*theirs, *self.pick(numbers[before:])]
        if not numbers:
            return []
        if self._files.newest < numbers[0]:  # looking for news costs a millisecond
            self._refresh()
        committed = numbers[: bisect.bisect_right(numbers, self._files.newest)]  # of a range without end
        rows = []
        for path, mine in self._files.holding(committed):
            rows += self._open_files.rows(f"{self._lake.path(schema.CHUNKS)}/{path}", mine)
        return sorted((self._from_arrow(row) for row in rows), key=lambda chunk: chunk.number)

    def last(self) -> tuple[int, dict[str, Any] | None, bool, datetime | None]:
        """Return the last committed chunk (-1 for none), the cursor after it, if it ends the run, and its time.

        Where the run has no chunk of its own yet, that is the last one of its parent's, without a cursor.
        """
        self._refresh()
        if not len(self._files.paths):
            return self._files.newest, None, False, None
        row = self._table(self._files.newest, self._files.newest + 1, ["cursor", "is_last", "created_at"]).to_pylist()[
            0
        ]
        return self._files.newest, json.loads(row["cursor"]), row["is_last"], row["created_at"]

    def end(self) -> tuple[int, bool]:
        """Return the last committed chunk (see `last`), and if it ends the run: the log says so, no file is opened."""
        self._refresh()
        return self._files.newest, self._files.ends_run

    def cursor_before(self, chunk: int) -> dict[str, Any] | None:
        """Return the state of the last snapshot that ends in front of a chunk, or None if there is none."""
        if self._parent is not None and chunk <= self._first:
            return self._parent.cursor_before(chunk)
        first = chunk
        while first > self._first:  # cursors of thousands of cells are long, and only one of them is wanted
            first = max(self._first, chunk - _MOST_BEHIND * max(1, chunk - first))
            table = self._table(first, chunk, ["chunk", "cursor"])
            rows = table.filter(pc.is_valid(table["cursor"])).sort_by("chunk")
            if len(rows):
                found: dict[str, Any] = json.loads(rows["cursor"][-1].as_py())
                return found
        return None

    def intervals(self, until: int) -> Iterator[pa.RecordBatch]:
        """Yield what the chunks in front of one have drawn (see `file_intervals`), file by file.

        Those of the run that it goes on from are included.
        """
        if self._parent is not None:
            yield from self._parent.intervals(min(until, self._first))
        self._refresh()
        for path in self._files.overlapping(self._first, until):
            yield file_intervals(f"{self._lake.path(schema.CHUNKS)}/{path}", until)

    def _refresh(self) -> None:
        known = self._files
        news = added_since(self._lake, schema.CHUNKS, known.version) if known.version >= 0 else None
        if news is not None:
            version, added = news
            if version > known.version:
                self._files = known.and_those(version, _actions(self._run, added))
            return
        handle = self._lake.table(schema.CHUNKS)
        actions = pa.table(handle.get_add_actions(flatten=True))
        mine = actions.filter(pc.equal(actions["partition.run"], self._run)) if len(actions) else actions
        if known.version < 0:
            self._num_small = len(mine)
        self._files = _Files.none(self._first).and_those(handle.version(), mine)

    def _table(self, first: int, stop: int, columns: Sequence[str]) -> pa.Table:
        if self._files.newest < first:  # looking for news costs milliseconds: only where it is due
            self._refresh()
        found = self._files.overlapping(first, stop)
        fields = [f for f in schema.TABLES[schema.CHUNKS].columns if f.name != "run"]
        if not found:
            return pa.schema([f for f in fields if f.name in columns]).empty_table()
        folder = self._lake.path(schema.CHUNKS)
        paths = [f"{folder}/{path}" for path in found]
        files = pads.dataset(paths, schema=pa.schema(fields), format="parquet")
        wanted = (pads.field("chunk") >= first) & (pads.field("chunk") < stop)
        return files.to_table(columns=list(columns), filter=wanted, use_threads=False)

    def _to_arrow(self, chunks: Sequence[Chunk], cursor: dict[str, Any]) -> pa.Table:
        """Return chunks of the same registrations as a table: column by column, as there may be thousands."""
        registrations = chunks[0].registrations
        assert all(chunk.registrations == registrations for chunk in chunks)
        intervals = Intervals.concat([chunk.intervals for chunk in chunks])
        arrays = [
            _names(intervals.component, list(self._components)),
            _names(intervals.registration, registrations),
            pa.array(intervals.file_id, pa.int32()),
            pa.array(intervals.row_start),
            pa.array(intervals.row_stop),
            pa.array(intervals.byte_start, mask=intervals.byte_start < 0),
            pa.array(intervals.byte_stop, mask=intervals.byte_stop < 0),
            pa.array(intervals.pass_number, pa.int32()),
        ]
        values = pa.StructArray.from_arrays(arrays, names=[field.name for field in schema.INTERVAL_STRUCT])
        order = pa.array(np.concatenate([chunk.component_order for chunk in chunks]), pa.int16())
        num = len(chunks)
        return pa.table(
            {
                "chunk": [chunk.number for chunk in chunks],
                "weights_version": [chunk.weights_version for chunk in chunks],
                "stage": pa.array([chunk.stage for chunk in chunks], pa.int32()),
                "num_samples": [chunk.num_samples for chunk in chunks],
                "intervals": pa.ListArray.from_arrays(_offsets([len(chunk.intervals) for chunk in chunks]), values),
                "component_order": pa.ListArray.from_arrays(_offsets([chunk.num_samples for chunk in chunks]), order),
                "cursor": pa.array([None] * (num - 1) + [json.dumps(cursor)], pa.string()),
                "is_last": [chunk.is_last for chunk in chunks],
                "created_at": pa.array([datetime.now(UTC)] * num, schema.TIMESTAMP),
            }
        )

    def _from_arrow(self, row: pa.RecordBatch) -> Chunk:
        values = row["intervals"].flatten()
        columns = dict(zip((field.name for field in values.type), values.flatten(), strict=True))
        registration, order = columns["registration"], _array(row["component_order"].flatten())
        row_start, row_stop = _array(columns["row_start"]), _array(columns["row_stop"])
        intervals = Intervals(
            component=np.searchsorted(np.cumsum(np.bincount(order)), np.cumsum(row_stop - row_start)),  # by component
            registration=_array(registration.indices),
            file_id=_array(columns["file_id"]),
            row_start=row_start,
            row_stop=row_stop,
            byte_start=_array(columns["byte_start"]),
            byte_stop=_array(columns["byte_stop"]),
            pass_number=_array(columns["pass"]),
        )
        return Chunk(
            number=row["chunk"][0].as_py(),
            weights_version=row["weights_version"][0].as_py(),
            stage=row["stage"][0].as_py(),
            registrations=tuple(registration.dictionary.to_pylist()),
            intervals=intervals,
            component_order=order,
            is_last=row["is_last"][0].as_py(),
        )


def _array(column: pa.Array) -> IntArray:
    values = column if column.null_count == 0 else pc.fill_null(column, -1)
    return np.asarray(values.to_numpy(), np.int64)


def _names(indices: IntArray, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(names, pa.string()))


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.cumsum([0, *lengths]), pa.int32())
