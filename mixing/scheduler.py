"""Draws chunks: a pure function from the plan and a small cursor to the next chunk and the next cursor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mixlake.catalog.errors import ScheduleError
from mixlake.catalog.records import IntArray
from mixlake.mixing.cell_rows import CellRows, spread
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import Chunk, Intervals
from mixlake.mixing.index import Rows
from mixlake.mixing.mixture import Mixture, OnExhausted, Unit
from mixlake.mixing.quotas import FairQueue, integer_shares, without

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


class Scheduler:
    """Draws the chunks of a run in order."""

    def __init__(self, mixture: Mixture, plan: CellPlan, cell_rows: CellRows, *, chunk_size: int) -> None:
        self._mixture = mixture
        self._plan = plan
        self._cell_rows = cell_rows
        self._chunk_size = chunk_size
        component_C = plan.components(mixture)
        self._cells = [np.flatnonzero(component_C == index) for index in range(len(mixture.components))]

    def draw(self, cursor: Cursor) -> tuple[Chunk, Cursor]:
        """Return the chunk at the cursor, and the cursor after it.

        A chunk is shorter than the chunk size only where the run ends in it.
        """
        assert not cursor.is_ended
        streams = [_Stream(self, cells, cursor) for cells in self._cells]
        order, shares, credits, is_ended = self._fill(streams, list(cursor.shares), list(cursor.credits))
        taken = np.bincount(np.array(order, np.int64), minlength=len(streams))
        positions = np.array(cursor.positions, np.int64)
        parts = []
        for index, stream in enumerate(streams):
            num_C = stream.num_per_cell(int(taken[index]))
            for cell, num in zip(stream.cells.tolist(), num_C.tolist(), strict=True):
                if num:
                    start, number = cursor.positions[cell], cursor.passes[cell]
                    rows = self._cell_rows.slice(cell, number, start, start + num)
                    parts.append((index, number, rows))
                    positions[cell] += num
        after = replace(
            cursor,
            next_chunk=cursor.next_chunk + 1,
            shares=tuple(shares),
            credits=tuple(credits),
            positions=tuple(positions.tolist()),
        )
        is_ended = is_ended or self._lacks_next(after)
        chunk = Chunk(
            number=cursor.next_chunk,
            weights_version=cursor.weights_version,
            stage=0,
            registrations=self._plan.registrations,
            intervals=_intervals(parts),
            component_order=np.array(order, np.int64),
            is_last=is_ended,
        )
        changed = after.shares != cursor.shares and not is_ended
        return chunk, replace(after, weights_version=cursor.weights_version + changed, is_ended=is_ended)

    def _lacks_next(self, cursor: Cursor) -> bool:
        """Say whether the sample that comes next is missing, as the next chunk would find.

        The queue that filled this chunk cannot tell: ties between components fall otherwise when credits start small,
        and a component of several cells is spread anew.
        """
        streams = [_Stream(self, cells, cursor) for cells in self._cells]
        if all(stream.has_more for stream, share in zip(streams, cursor.shares, strict=True) if share):
            return False
        queue = FairQueue(cursor.shares, cursor.credits, [_next_size(stream) for stream in streams])
        return not streams[queue.peek()].has_more

    def _fill(
        self, streams: Sequence[_Stream], shares: list[int], credits: list[int]
    ) -> tuple[list[int], list[int], list[int], bool]:
        """Return the component of each sample of a chunk, shares and credits after it, and if the run ends in it."""
        policies = [component.on_exhausted for component in self._mixture.components]
        order: list[int] = []
        queue = FairQueue(shares, credits, [_next_size(stream) for stream in streams])
        while len(order) < self._chunk_size:
            component = queue.peek()
            stream = streams[component]
            if stream.size() is None:
                return order, shares, queue.credits(), True
            order.append(component)
            stream.advance()
            queue.take(_next_size(stream))
            if stream.size() is None and policies[component] is OnExhausted.REDISTRIBUTE:
                if shares.count(0) == len(shares) - 1:
                    return order, shares, queue.credits(), True
                shares, credits = without(component, shares, queue.credits())
                queue = FairQueue(shares, credits, [_next_size(stream) for stream in streams])
        return order, shares, queue.credits(), False

    def units_of(self, cells: IntArray, cursor: Cursor, sequence: IntArray) -> IntArray:
        """Return the units of a component's next samples, which come from its cells as ``sequence`` says."""
        if self._mixture.unit is Unit.SAMPLES:
            return np.ones(len(sequence), np.int64)
        units = np.empty(len(sequence), np.int64)
        for index, cell in enumerate(cells.tolist()):
            mine = sequence == index
            start, num = cursor.positions[cell], int(mine.sum())
            if num:
                units[mine] = self._cell_rows.slice(cell, cursor.passes[cell], start, start + num).units
        return units

    def remaining(self, cells: IntArray, cursor: Cursor) -> IntArray:
        """Return how many samples of their pass the cells still have."""
        return self._plan.num_samples_C[cells] - np.array([cursor.positions[cell] for cell in cells.tolist()], np.int64)


class _Stream:
    """The next samples of one component, of which only sizes are looked at while a chunk is filled."""

    def __init__(self, scheduler: Scheduler, cells: IntArray, cursor: Cursor) -> None:
        self.cells = cells
        self._scheduler = scheduler
        self._cursor = cursor
        self._remaining = scheduler.remaining(cells, cursor)
        self._total = int(self._remaining.sum())
        self._sizes: list[int] = []
        self._taken = 0

    @property
    def has_more(self) -> bool:
        """Whether there is a next sample."""
        return self._taken < self._total

    def size(self) -> int | None:
        """Return the units of the next sample, or None when there is none."""
        if not self.has_more:
            return None
        if self._taken == len(self._sizes):
            num = min(self._total, max(64, 2 * len(self._sizes)))
            sequence = spread(self._remaining, num)
            self._sizes = self._scheduler.units_of(self.cells, self._cursor, sequence).tolist()
        return self._sizes[self._taken]

    def advance(self) -> None:
        """Take the next sample."""
        self._taken += 1

    def num_per_cell(self, num: int) -> IntArray:
        """Return how many of the next ``num`` samples come from each cell."""
        return np.bincount(spread(self._remaining, num), minlength=len(self.cells))


def _next_size(stream: _Stream) -> int:
    """Return the size to queue a component with: one unit where it has nothing left and only its turn matters."""
    size = stream.size()
    return 1 if size is None else size


def _intervals(parts: Sequence[tuple[int, int, Rows]]) -> Intervals:
    """Sort rows by component and storage, and merge neighbours into intervals.

    Args:
        parts: (component, pass, rows) each.
    """
    rows = Rows.concat([part for _, _, part in parts])
    component = np.repeat([index for index, _, _ in parts], [len(part) for _, _, part in parts]).astype(np.int64)
    number = np.repeat([number for _, number, _ in parts], [len(part) for _, _, part in parts]).astype(np.int64)
    order = np.lexsort((rows.row, rows.file_id, rows.registration, number, component))
    rows, component, number = rows.take(order), component[order], number[order]
    same = (np.diff(component) == 0) & (np.diff(number) == 0) & (np.diff(rows.registration) == 0)
    follows = same & (np.diff(rows.file_id) == 0) & (np.diff(rows.row) == 1)
    starts = np.flatnonzero(np.append(True, ~follows))
    stops = np.append(starts[1:], len(rows)) - 1
    return Intervals(
        component=component[starts],
        registration=rows.registration[starts],
        file_id=rows.file_id[starts],
        row_start=rows.row[starts],
        row_stop=rows.row[stops] + 1,
        byte_start=rows.byte_start[starts],
        byte_stop=rows.byte_stop[stops],
        pass_number=number[starts],
    )
