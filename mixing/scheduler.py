"""Draws chunks: a pure function from program, plan and a small cursor to the next chunks and the cursor after them.

Many chunks are drawn at once, in whole arrays; where one ends has no influence on what follows, so it does not matter
how many are. Weights change between chunks: draws end where the curriculum or somebody changes them.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.records import IntArray
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import Chunk
from mixlake.mixing.components import OnExhausted
from mixlake.mixing.cursor import Change, Cursor
from mixlake.mixing.extents import Axis
from mixlake.mixing.index import Rows
from mixlake.mixing.intervals import merge_rows
from mixlake.mixing.mixture import Unit
from mixlake.mixing.program import Leaf, Program, set_shares
from mixlake.mixing.quotas import SCALE, carried, integer_shares
from mixlake.mixing.streams import Source, Stock, Stream, Take, find_sources
from mixlake.mixing.tilting import prior, tilted
from mixlake.mixing.turns import Turns, take_turns
from mixlake.mixing.weights import Reweighting


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Consecutive chunks, the weights versions that they lead to, and the cursor after them."""

    chunks: list[Chunk]
    changes: list[Reweighting]
    cursor: Cursor


@dataclass(frozen=True, kw_only=True, slots=True)
class _Samples:
    """Samples that were drawn, one entry for each."""

    rows: Rows
    place: IntArray
    """Which of all samples it is, as they are given out."""
    component: IntArray
    pass_number: IntArray


class Scheduler:
    """Draws the chunks of a run in order."""

    def __init__(self, program: Program, plan: CellPlan, cell_rows: CellRows, *, chunk_size: int) -> None:
        self._program = program
        self._plan = plan
        self._cell_rows = cell_rows
        self._chunk_size = chunk_size
        self._starts = [segment.start for segment in program.segments]
        self._prior_K = prior(program)
        self._sources: tuple[tuple[Leaf, ...], list[Source]] | None = None

    def draw(self, cursor: Cursor, num_chunks: int) -> Drawn:
        """Return ``num_chunks`` chunks from the cursor on; fewer, the last one perhaps shorter, where the run ends."""
        assert num_chunks > 0
        assert not cursor.is_ended
        chunks: list[Chunk] = []
        changes: list[Reweighting] = []
        while len(chunks) < num_chunks and not cursor.is_ended:
            cursor, made = self._enter(cursor)
            drawn = self._draw_to_change(cursor, num_chunks - len(chunks))
            cursor = drawn.cursor
            changes += [*made, *drawn.changes]
            chunks += drawn.chunks
            if not cursor.is_ended and self._ends_before(cursor):
                cursor = replace(cursor, is_ended=True)
                chunks[-1] = replace(chunks[-1], is_last=True)
        return Drawn(chunks=chunks, changes=changes, cursor=cursor)

    def is_through(self, cursor: Cursor) -> bool:
        """Say whether the run's length is reached."""
        end = self._program.end
        return end is not None and (cursor.next_chunk if end.axis is Axis.CHUNKS else cursor.num_units) >= end.at

    def can_draw(self, cursor: Cursor) -> bool:
        """Say whether there is a sample for the next chunk, with the weights that it will have."""
        entered, _ = self._enter(cursor)
        lanes = self._lanes(entered, 2)
        return len(take_turns(self._streams(entered), entered, lanes, 1).component) > 0

    def _enter(self, cursor: Cursor) -> tuple[Cursor, list[Reweighting]]:
        """Return the cursor with the weights of the next chunk, and the versions that led to them."""
        position = cursor.next_chunk if self._program.axis is Axis.CHUNKS else cursor.num_units
        number = bisect.bisect_right(self._starts, position) - 1
        made: list[Reweighting] = []
        if number != cursor.segment:
            segment, before = self._program.segments[number], self._program.segments[cursor.segment]
            if segment.shares != before.shares or segment.stage != before.stage:
                stage = {"stage": self._program.stages[segment.stage]}
                cursor = self._reweighted(
                    cursor,
                    tilted(segment.shares, cursor.adapted, self._prior_K),
                    Change(chunk=cursor.next_chunk, weights={}, cause="curriculum", details=stage),
                    made,
                )
            cursor = replace(cursor, segment=number)
        while cursor.pending and cursor.pending[0].chunk <= cursor.next_chunk:
            change = cursor.pending[0]
            cursor = replace(cursor, pending=cursor.pending[1:])
            if change.is_adapted:
                cursor = replace(cursor, adapted=tuple(change.weights[name] for name in self._program.components))
                wanted: Sequence[int] = self._adapted_shares(cursor)
            else:
                wanted = _changed_shares(self._program.components, cursor.shares, change)
            cursor = self._reweighted(cursor, wanted, change, made)
        return cursor, made

    def _adapted_shares(self, cursor: Cursor) -> Sequence[int]:
        """Return what the curriculum says, tilted by the policy, without the components that have left."""
        declared = self._program.segments[cursor.segment].shares
        stays = [stream.num_left or stream.on_exhausted is OnExhausted.STOP for stream in self._streams(cursor)]
        left = [share if is_in else 0 for share, is_in in zip(declared, stays, strict=True)]
        return tilted(left if any(left) else declared, cursor.adapted, self._prior_K)

    def _reweighted(self, cursor: Cursor, shares: Sequence[int], change: Change, made: list[Reweighting]) -> Cursor:
        version = cursor.weights_version + 1
        made.append(
            Reweighting(
                version=version,
                chunk=cursor.next_chunk,
                shares=tuple(shares),
                cause=change.cause,
                step=change.step,
                details=change.details,
            )
        )
        return replace(
            cursor,
            weights_version=version,
            shares=tuple(shares),
            credits=carried(cursor.credits, shares),
            lane_credits=tuple(carried(row, shares) for row in cursor.lane_credits),
        )

    def _ends_before(self, cursor: Cursor) -> bool:
        """Say whether the run ends in front of the next chunk: by its length, or because others are due there."""
        if self.is_through(cursor):
            return True
        entered, made = self._enter(cursor)
        return bool(made or entered.segment != cursor.segment) and not self.can_draw(cursor)

    def _draw_to_change(self, cursor: Cursor, num_chunks: int) -> Drawn:
        """Draw up to ``num_chunks`` chunks; fewer where the weights change, or the run ends, before."""
        chunk_limits = [change.chunk for change in cursor.pending[:1]]
        unit_limits: list[int] = []
        limits = [(self._program.axis, start) for start in self._starts[cursor.segment + 1 : cursor.segment + 2]]
        if self._program.end is not None:
            limits.append((self._program.end.axis, self._program.end.at))
        for axis, at in limits:
            (chunk_limits if axis is Axis.CHUNKS else unit_limits).append(at)
        num = min([num_chunks, *(limit - cursor.next_chunk for limit in chunk_limits)])
        if not unit_limits:
            return self._draw(cursor, num)[0]
        limit = min(unit_limits)
        means = [stream.mean_units for stream in self._streams(cursor)]
        samples = (limit - cursor.num_units) * sum(
            share / SCALE / m for share, m in zip(cursor.shares, means, strict=True)
        )
        drawn, units_after = self._draw(cursor, min(num, int(samples / self._chunk_size) + 1))
        reached = bisect.bisect_left(units_after, limit) + 1
        return drawn if reached >= len(drawn.chunks) else self._draw(cursor, reached)[0]

    def _streams(self, cursor: Cursor) -> list[Stream]:
        leaves = self._program.segments[cursor.segment].leaves
        if self._sources is None or self._sources[0] is not leaves:
            self._sources = (leaves, find_sources(self._program, self._plan, leaves))
        unit, stock = self._program.unit, Stock.at(cursor)
        return [Stream(source, self._plan, self._cell_rows, unit, stock) for source in self._sources[1]]

    def _draw(self, cursor: Cursor, num_chunks: int) -> tuple[Drawn, list[int]]:
        """Return chunks in which nothing changes but by components that leave, and the units given out after each."""
        size = self._chunk_size
        streams = self._streams(cursor)
        turns = take_turns(streams, cursor, self._lanes(cursor, num_chunks + 1), size)
        num_chunks = -(-len(turns.component) // size)
        samples = self._collect(streams, turns, self._lanes(cursor, num_chunks))
        chunks, changes = self._cut(cursor, turns, samples)
        passes, taken = np.array(cursor.passes, np.int64), np.array(cursor.taken, np.int64)
        for stream in streams:
            passes[stream.source.cells], taken[stream.source.cells] = stream.passes, stream.taken
        units_after = cursor.num_units + self._units_after(streams, samples)
        after = replace(
            cursor,
            next_chunk=cursor.next_chunk + len(chunks),
            num_units=int(units_after[-1]) if len(units_after) else cursor.num_units,
            weights_version=cursor.weights_version + len(changes),
            shares=turns.shares,
            credits=turns.credits,
            lane_credits=turns.lane_credits,
            passes=tuple(passes.tolist()),
            taken=tuple(map(tuple, taken.tolist())),
            is_ended=turns.is_ended,
        )
        ends = np.minimum(np.arange(size, size * len(chunks) + 1, size), len(turns.component)) - 1
        return Drawn(chunks=chunks, changes=changes, cursor=after), units_after[ends].tolist()

    def _lanes(self, cursor: Cursor, num_chunks: int) -> IntArray:
        """Return the lanes of the next chunks."""
        return (cursor.next_chunk + np.arange(num_chunks)) % self._cell_rows.num_lanes

    def _collect(self, streams: Sequence[Stream], turns: Turns, lane_K: IntArray) -> _Samples:
        """Take the samples of the turns from the streams."""
        component = turns.component
        counts_LK = np.bincount(
            component * len(lane_K) + np.arange(len(component)) // self._chunk_size,
            minlength=len(streams) * len(lane_K),
        ).reshape(len(streams), -1)
        place = np.argsort(component.astype(np.int16), kind="stable")
        firsts = np.cumsum(counts_LK.sum(axis=1)) - counts_LK.sum(axis=1)
        takes: list[tuple[int, Take]] = []
        for index, stream in enumerate(streams):
            if stream.counts_samples:
                stream.take(counts_LK[index], lane_K)
            stream.settle()
            takes += [(index, take) for take in stream.takes]
        lengths = [len(take.order) for _, take in takes]
        order = np.concatenate([np.empty(0, np.int64), *(take.order + firsts[index] for index, take in takes)])
        return _Samples(
            rows=Rows.concat([take.rows() for _, take in takes]),
            place=place[order],
            component=np.repeat([index for index, _ in takes], lengths),
            pass_number=np.repeat([take.queues.pass_number for _, take in takes], lengths),
        )

    def _units_after(self, streams: Sequence[Stream], samples: _Samples) -> IntArray:
        """Return the units given out after each sample."""
        num = len(samples.place)
        if self._program.unit is Unit.SAMPLES:
            return np.arange(1, num + 1)
        units = np.empty(num, np.int64)
        for index, stream in enumerate(streams):
            mine = samples.component == index
            units[samples.place[mine]] = stream.source.charged(samples.rows.units[mine])
        return np.cumsum(units)

    def _cut(self, cursor: Cursor, turns: Turns, samples: _Samples) -> tuple[list[Chunk], list[Reweighting]]:
        """Cut the samples into chunks."""
        size = self._chunk_size
        num_chunks = -(-len(turns.component) // size)
        intervals, chunk_of_interval = merge_rows(
            samples.rows,
            chunk=samples.place // size,
            component=samples.component,
            pass_number=samples.pass_number,
        )
        bounds = np.searchsorted(chunk_of_interval, np.arange(num_chunks + 1)).tolist()
        shares_after = {-(-place // size) if place else 0: shares for place, shares in turns.changes}
        if turns.is_ended:
            shares_after.pop(num_chunks, None)  # nothing comes after
        starts = sorted(shares_after)
        chunks = [
            Chunk(
                number=cursor.next_chunk + index,
                weights_version=cursor.weights_version + bisect.bisect_right(starts, index),
                stage=self._program.segments[cursor.segment].stage,
                registrations=self._plan.registrations,
                intervals=intervals.take(slice(*bounds[index : index + 2])),
                component_order=turns.component[index * size : (index + 1) * size],
                is_last=turns.is_ended and index == num_chunks - 1,
            )
            for index in range(num_chunks)
        ]
        changes = [
            Reweighting(
                version=cursor.weights_version + number,
                chunk=cursor.next_chunk + start,
                shares=shares_after[start],
                cause="exhausted",
            )
            for number, start in enumerate(starts, start=1)
        ]
        return chunks, changes


def _changed_shares(components: Sequence[str], shares: Sequence[int], change: Change) -> Sequence[int]:
    """Return shares of which some are set.

    What was possible when they were set may not be now: if no other component has a share any more, those that were
    set have all.
    """
    before = dict(zip(components, (share / SCALE for share in shares), strict=True))
    try:
        return integer_shares(list(set_shares(before, change.weights, change.cause).values()))
    except ConfigError:
        after = set_shares(
            dict.fromkeys(components, 1.0), {**dict.fromkeys(components, 0.0), **change.weights}, change.cause
        )
        return integer_shares(list(after.values()))
