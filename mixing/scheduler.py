"""Draws chunks: a pure function from the plan and a small cursor to the next chunks and the cursor after them.

Many chunks are drawn at once, in whole arrays; where one ends has no influence on what follows, so it does not matter
how many are.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mixlake.catalog.errors import ScheduleError
from mixlake.catalog.records import IntArray
from mixlake.mixing.cell_rows import CellRows, spread
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import Chunk
from mixlake.mixing.index import Rows
from mixlake.mixing.intervals import merge_rows
from mixlake.mixing.mixture import Mixture, OnExhausted, Unit
from mixlake.mixing.quotas import SCALE, credits_after, fair_turns, integer_shares, without

_CURSOR_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where a run stands: all that drawing the next chunk needs besides the plan. It is stored with every snapshot."""

    next_chunk: int
    weights_version: int
    shares: tuple[int, ...]
    """Per component, out of `quotas.SCALE`; zero once a component has left."""
    credits: tuple[int, ...]
    """Per component, what it is owed, in units times `quotas.SCALE`."""
    passes: tuple[int, ...]
    """Per cell, the pass it is in."""
    positions: tuple[int, ...]
    """Per cell, how many samples of that pass are taken."""
    is_ended: bool

    @classmethod
    def start(cls, mixture: Mixture, plan: CellPlan) -> Cursor:
        """Return the cursor of a run that has not begun."""
        num_components = len(mixture.components)
        return cls(
            next_chunk=0,
            weights_version=1,
            shares=tuple(integer_shares(mixture.shares())),
            credits=(0,) * num_components,
            passes=(0,) * plan.num_cells,
            positions=(0,) * plan.num_cells,
            is_ended=False,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the cursor as JSON can hold it."""
        return {"version": _CURSOR_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Cursor:
        """Return the cursor that ``to_dict`` gave.

        Raises:
            ScheduleError: it was written by a version that counted differently.
        """
        state = dict(state)
        version = state.pop("version", None)
        if version != _CURSOR_VERSION:
            raise ScheduleError(f"the run's cursor has version {version}; this program reads version {_CURSOR_VERSION}")
        lists = {key: tuple(value) for key, value in state.items() if isinstance(value, list)}
        return cls(**{**state, **lists})


@dataclass(frozen=True, kw_only=True, slots=True)
class Reweighting:
    """Shares that a run has from a chunk on because a component ran out in the chunk before."""

    version: int
    chunk: int
    shares: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Consecutive chunks, the weights versions that they lead to, and the cursor after them."""

    chunks: list[Chunk]
    changes: list[Reweighting]
    cursor: Cursor


class Scheduler:
    """Draws the chunks of a run in order."""

    def __init__(self, mixture: Mixture, plan: CellPlan, cell_rows: CellRows, *, chunk_size: int) -> None:
        self._mixture = mixture
        self._plan = plan
        self._cell_rows = cell_rows
        self._chunk_size = chunk_size
        component_C = plan.components(mixture)
        self._cells = [np.flatnonzero(component_C == index) for index in range(len(mixture.components))]

    def draw(self, cursor: Cursor, num_chunks: int) -> Drawn:
        """Return ``num_chunks`` chunks from the cursor on; fewer, the last one perhaps shorter, where the run ends."""
        assert num_chunks > 0
        assert not cursor.is_ended
        streams = [_Stream(self._plan, self._cell_rows, self._mixture.unit, cells, cursor) for cells in self._cells]
        policies = [component.on_exhausted for component in self._mixture.components]
        turns = _take_turns(streams, policies, cursor, num_chunks * self._chunk_size)
        counts = np.bincount(turns.component, minlength=len(streams))
        places = np.split(np.argsort(turns.component.astype(np.int16), kind="stable"), np.cumsum(counts)[:-1])
        pieces = [
            (index, piece, place[piece.order])
            for index, (stream, place) in enumerate(zip(streams, places, strict=True))
            for piece in stream.pieces()
        ]
        chunks, changes = self._cut(cursor, turns, pieces)
        positions = np.array(cursor.positions, np.int64)
        for _, piece, _ in pieces:
            positions[piece.cell] += len(piece.rows)
        after = replace(
            cursor,
            next_chunk=cursor.next_chunk + len(chunks),
            weights_version=cursor.weights_version + len(changes),
            shares=turns.shares,
            credits=turns.credits,
            positions=tuple(positions.tolist()),
            is_ended=turns.is_ended,
        )
        return Drawn(chunks=chunks, changes=changes, cursor=after)

    def _cut(
        self, cursor: Cursor, turns: _Turns, pieces: Sequence[tuple[int, _Piece, IntArray]]
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
        shares_after = {max(place - 1, 0) // size + 1: shares for place, shares in turns.changes}
        if turns.is_ended:
            shares_after.pop(num_chunks, None)  # nothing comes after
        starts = sorted(shares_after)
        chunks = [
            Chunk(
                number=cursor.next_chunk + index,
                weights_version=cursor.weights_version + bisect.bisect_right(starts, index),
                stage=0,
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
            )
            for number, start in enumerate(starts, start=1)
        ]
        return chunks, changes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """Samples that a component takes from one cell in one pass."""

    cell: int
    pass_number: int
    rows: Rows
    order: IntArray
    """Which of the component's samples each of them is."""


class _Stream:
    """The next samples of one component, from its cells in proportion to what each holds in a pass."""

    def __init__(self, plan: CellPlan, cell_rows: CellRows, unit: Unit, cells: IntArray, cursor: Cursor) -> None:
        self._cells = cells.tolist()
        self._cell_rows = cell_rows
        self._counts_samples = unit is Unit.SAMPLES
        self._passes = [cursor.passes[cell] for cell in self._cells]
        self._sizes_C = plan.num_samples_C[cells]
        self._taken_C = np.array([cursor.positions[cell] for cell in self._cells], np.int64)
        self._units = np.empty(0, np.int64)
        self._num_done = 0
        self.num_left = int(self._sizes_C.sum() - self._taken_C.sum())
        self.mean_units = max(1, int(plan.num_units_C[cells].sum())) / max(1, int(self._sizes_C.sum()))

    def units(self, num: int) -> IntArray:
        """Return the units of the next samples: ``num`` of them or, if it has fewer, all."""
        num = min(num, self.num_left)
        if self._counts_samples:
            return np.ones(num, np.int64)
        if self._num_done + num > len(self._units):
            self._units = np.empty(self._num_done + num, np.int64)
            for piece in self._pieces(len(self._units)):
                self._units[piece.order] = piece.rows.units
        return self._units[self._num_done : self._num_done + num]

    def advance(self, num: int) -> None:
        """Take the next ``num`` samples."""
        self._num_done += num
        self.num_left -= num

    def pieces(self) -> Iterator[_Piece]:
        """Return the samples that were taken, cell by cell."""
        return self._pieces(self._num_done)

    def _pieces(self, num: int) -> Iterator[_Piece]:
        place = spread(self._sizes_C, self._taken_C, num)
        counts = np.bincount(place, minlength=len(self._cells))
        orders = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
        for cell, number, start, order in zip(self._cells, self._passes, self._taken_C.tolist(), orders, strict=True):
            if len(order):
                rows = self._cell_rows.slice(cell, number, start, start + len(order))
                yield _Piece(cell=cell, pass_number=number, rows=rows, order=order)


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


def _take_turns(streams: Sequence[_Stream], policies: Sequence[OnExhausted], cursor: Cursor, num: int) -> _Turns:
    """Let the streams take turns for ``num`` samples; for fewer where a component is due that has none left."""
    shares, credits = cursor.shares, cursor.credits
    parts: list[IntArray] = []
    changes: list[tuple[int, tuple[int, ...]]] = []
    left, reach = num, 1
    is_ended = is_done = False
    while not is_done:
        leaver = _leaver(streams, policies, shares)
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
        part = turns.components[: min(left, _first_leave(streams, policies, turns.components))]
        counts = np.bincount(part, minlength=len(streams)).tolist()
        credits = credits_after(shares, credits, [int(u[:n].sum()) for u, n in zip(sizes, counts, strict=True)])
        for stream, count in zip(streams, counts, strict=True):
            stream.advance(count)
        parts.append(part)
        left -= len(part)
        if _leaver(streams, policies, shares) is None:
            is_ended = turns.is_due and len(part) == len(turns.components)
            is_done = is_ended or len(part) < len(turns.components)
            reach *= 2  # if there is another round, the sizes that were known did not reach far enough
    component = np.concatenate(parts)
    return _Turns(component=component, changes=changes, shares=shares, credits=credits, is_ended=is_ended)


def _leaver(streams: Sequence[_Stream], policies: Sequence[OnExhausted], shares: Sequence[int]) -> int | None:
    """Return a component that has run out and leaves its share to the others, if there is one."""
    for index, (stream, policy, share) in enumerate(zip(streams, policies, shares, strict=True)):
        if share and not stream.num_left and policy is OnExhausted.REDISTRIBUTE:
            return index
    return None


def _first_leave(streams: Sequence[_Stream], policies: Sequence[OnExhausted], component: IntArray) -> int:
    """Return how many of the turns there are until a component that then leaves has taken its last sample."""
    counts = np.bincount(component, minlength=len(streams)).tolist()
    leaves = [
        int(np.flatnonzero(component == index)[stream.num_left - 1]) + 1
        for index, (stream, policy) in enumerate(zip(streams, policies, strict=True))
        if policy is OnExhausted.REDISTRIBUTE and 0 < stream.num_left <= counts[index]
    ]
    return min(leaves, default=len(component))


def _num_ahead(streams: Sequence[_Stream], shares: Sequence[int], credits: Sequence[int], num: int) -> list[int]:
    """Return how many samples each component is about to take while all of them take ``num``.

    Exactly enough where every sample counts one; else, from the mean sizes, about as many.
    """
    means = [stream.mean_units for stream in streams]
    units = num / sum(share / SCALE / mean for share, mean in zip(shares, means, strict=True))
    return [
        int((max(0, share * units + credit) / SCALE) / mean) + 2
        for share, credit, mean in zip(shares, credits, means, strict=True)
    ]
