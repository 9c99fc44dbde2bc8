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
from mixlake.mixing.cursor import Change, Cursor
from mixlake.mixing.extents import Axis
from mixlake.mixing.index import Rows
from mixlake.mixing.intervals import merge_rows
from mixlake.mixing.mixture import OnExhausted
from mixlake.mixing.program import Leaf, Program, set_shares
from mixlake.mixing.quotas import SCALE, carried, credits_after, fair_turns, integer_shares, without
from mixlake.mixing.streams import Piece, Source, Stream, find_sources
from mixlake.mixing.tilting import prior, tilted
from mixlake.mixing.weights import Reweighting


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Consecutive chunks, the weights versions that they lead to, and the cursor after them."""

    chunks: list[Chunk]
    changes: list[Reweighting]
    cursor: Cursor


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
        return len(_take_turns(self._streams(entered), entered, 1).component) > 0

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
        credits = carried(cursor.credits, shares)
        return replace(cursor, weights_version=version, shares=tuple(shares), credits=credits)

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
        unit = self._program.unit
        return [Stream(source, self._plan, self._cell_rows, unit, cursor) for source in self._sources[1]]

    def _draw(self, cursor: Cursor, num_chunks: int) -> tuple[Drawn, list[int]]:
        """Return chunks in which nothing changes but by components that leave, and the units given out after each."""
        size = self._chunk_size
        streams = self._streams(cursor)
        turns = _take_turns(streams, cursor, num_chunks * size)
        counts = np.bincount(turns.component, minlength=len(streams))
        places = np.split(np.argsort(turns.component.astype(np.int16), kind="stable"), np.cumsum(counts)[:-1])
        pieces = [
            (index, piece, place[piece.order])
            for index, (stream, place) in enumerate(zip(streams, places, strict=True))
            for piece in stream.pieces()
        ]
        chunks, changes = self._cut(cursor, turns, pieces)
        passes, positions = (np.array(values, np.int64) for values in (cursor.passes, cursor.positions))
        for _, piece, _ in pieces:
            stop = piece.start + len(piece.rows)
            is_through = stop == self._plan.num_samples_C[piece.cell]
            passes[piece.cell] = piece.pass_number + is_through
            positions[piece.cell] = 0 if is_through else stop
        units = np.empty(len(turns.component), np.int64)
        for stream, place in zip(streams, places, strict=True):
            units[place] = stream.units_taken()
        units_after = cursor.num_units + np.cumsum(units)
        after = replace(
            cursor,
            next_chunk=cursor.next_chunk + len(chunks),
            num_units=int(units_after[-1]) if len(units) else cursor.num_units,
            weights_version=cursor.weights_version + len(changes),
            shares=turns.shares,
            credits=turns.credits,
            passes=tuple(passes.tolist()),
            positions=tuple(positions.tolist()),
            is_ended=turns.is_ended,
        )
        ends = np.minimum(np.arange(size, size * len(chunks) + 1, size), len(units)) - 1
        return Drawn(chunks=chunks, changes=changes, cursor=after), units_after[ends].tolist()

    def _cut(
        self, cursor: Cursor, turns: _Turns, pieces: Sequence[tuple[int, Piece, IntArray]]
    ) -> tuple[list[Chunk], list[Reweighting]]:
        """Cut the samples into chunks. The pieces are (component, piece, place of each of its samples)."""
        size = self._chunk_size
        num_chunks = -(-len(turns.component) // size)
        lengths = [len(piece.rows) for _, piece, _ in pieces]
        intervals, chunk_of_interval = merge_rows(
            Rows.concat([piece.rows for _, piece, _ in pieces]),
            chunk=np.concatenate([place for _, _, place in pieces]) // size,
            component=np.repeat([index for index, _, _ in pieces], lengths),
            pass_number=np.repeat([piece.pass_number for _, piece, _ in pieces], lengths),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turns:
    """The components of consecutive samples, and the quotas after them."""

    component: IntArray
    changes: list[tuple[int, tuple[int, ...]]]
    """(samples before, shares after) of every change of the shares."""
    shares: tuple[int, ...]
    credits: tuple[int, ...]
    is_ended: bool
    """Whether nothing comes after them."""


def _take_turns(streams: Sequence[Stream], cursor: Cursor, num: int) -> _Turns:
    """Let the streams take turns for ``num`` samples; for fewer where a component is due that has none left."""
    shares, credits = cursor.shares, cursor.credits
    parts: list[IntArray] = []
    changes: list[tuple[int, tuple[int, ...]]] = []
    left, reach = num, 1
    is_ended = is_done = False
    while not is_done:
        leaver = _leaver(streams, shares)
        if leaver is not None:
            is_ended = is_done = shares.count(0) == len(shares) - 1
            if not is_done:
                shares, credits = without(leaver, shares, credits)
                changes.append((num - left, shares))
            continue
        wanted = left + 1  # one more than is taken, to see whether the run ends here
        sizes = [s.units(n) for s, n in zip(streams, _num_ahead(streams, shares, credits, wanted * reach), strict=True)]
        is_all = [len(known) == stream.num_left for known, stream in zip(sizes, streams, strict=True)]
        turns = fair_turns(shares, credits, sizes, is_all, wanted)
        part = turns.components[: min(left, _first_leave(streams, turns.components))]
        counts = np.bincount(part, minlength=len(streams)).tolist()
        credits = credits_after(shares, credits, [int(u[:n].sum()) for u, n in zip(sizes, counts, strict=True)])
        for stream, count in zip(streams, counts, strict=True):
            stream.advance(count)
        parts.append(part)
        left -= len(part)
        if _leaver(streams, shares) is None:
            is_ended = turns.is_due and len(part) == len(turns.components)
            is_done = is_ended or len(part) < len(turns.components)
            reach *= 2  # if there is another round, the sizes that were known did not reach far enough
    component = np.concatenate([np.empty(0, np.int64), *parts])
    return _Turns(component=component, changes=changes, shares=shares, credits=credits, is_ended=is_ended)


def _leaver(streams: Sequence[Stream], shares: Sequence[int]) -> int | None:
    """Return a component that has run out and leaves its share to the others, if there is one."""
    for index, (stream, share) in enumerate(zip(streams, shares, strict=True)):
        if share and not stream.num_left and stream.on_exhausted is not OnExhausted.STOP:
            return index
    return None


def _first_leave(streams: Sequence[Stream], component: IntArray) -> int:
    """Return how many of the turns there are until a component that then leaves has taken its last sample."""
    counts = np.bincount(component, minlength=len(streams)).tolist()
    leaves = [
        int(np.flatnonzero(component == index)[stream.num_left - 1]) + 1
        for index, stream in enumerate(streams)
        if stream.on_exhausted is not OnExhausted.STOP and 0 < stream.num_left <= counts[index]
    ]
    return min(leaves, default=len(component))


def _num_ahead(streams: Sequence[Stream], shares: Sequence[int], credits: Sequence[int], num: int) -> list[int]:
    """Return how many samples each component is about to take while all of them take ``num``.

    Exactly enough where every sample counts one; else, from the mean sizes, about as many.
    """
    means = [stream.mean_units for stream in streams]
    units = num / sum(share / SCALE / mean for share, mean in zip(shares, means, strict=True))
    return [
        int((max(0, share * units + credit) / SCALE) / mean) + 2
        for share, credit, mean in zip(shares, credits, means, strict=True)
    ]
