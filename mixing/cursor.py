"""Where a run stands: what drawing the next chunk needs besides the plan. Small JSON, stored with every snapshot."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mixlake.catalog.errors import ScheduleError
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.decisions import Decision
from mixlake.mixing.extents import Axis
from mixlake.mixing.mixture import Unit
from mixlake.mixing.program import Program
from mixlake.mixing.quotas import carried

_CURSOR_VERSION = 5
_READ_VERSIONS = (4, 5)
"""Runs of version 4 have no lane credits, and go on without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Shares that somebody set for a chunk that was still to come."""

    chunk: int
    weights: Mapping[str, float]
    """New shares of some components; the others share the rest in their proportions."""
    cause: str
    step: int | None = None
    details: Mapping[str, Any] | None = None
    is_adapted: bool = False
    """Whether the weights are those of an adaptive policy, which tilt what the curriculum says from here on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where a run stands between two chunks."""

    next_chunk: int
    num_units: int
    """Units given out so far."""
    segment: int
    """Index into the program's segments."""
    weights_version: int
    shares: tuple[int, ...]
    """Per component, out of `quotas.SCALE`; zero once a component has left."""
    credits: tuple[int, ...]
    """Per component, what it is owed, in units times `quotas.SCALE`."""
    lane_credits: tuple[tuple[int, ...], ...]
    """Per lane and component, what it is owed in the lane's chunks; no lanes where every sample counts one unit."""
    passes: tuple[int, ...]
    """Per cell, the pass it is in: how often it was gone through."""
    taken: tuple[tuple[int, ...], ...]
    """Per cell and lane, how many samples of that pass are taken of those that the lane owns; of all that the cell has
    some are left."""
    pending: tuple[Change, ...]
    """Changes that are to come, in the order of their chunks."""
    num_changes: int
    """How many were ever made: a cursor with more of them overrides one with fewer."""
    is_ended: bool
    adapted: tuple[float, ...] = ()
    """Per component, what an adaptive policy made of the prior (see `mixlake.mixing.tilting`); empty for nothing."""
    adapted_step: int = -1
    """The training step of the newest decision of the policy that is taken up, be it pending."""

    @classmethod
    def start(
        cls,
        program: Program,
        plan: CellPlan,
        lanes: int,
        parent: Cursor | None = None,
        standing: Sequence[int] | None = None,
        *,
        is_in_its_cells: bool = False,
    ) -> Cursor:
        """Return the cursor of a run that has not begun.

        Args:
            program: what it draws. Its components begin with those of the parent.
            plan: where from.
            lanes: the run's.
            parent: where the run stands that it goes on from. Its time goes on, and what components are owed.
            standing: shares that were set for the parent and hold on, if both draw the same.
            is_in_its_cells: whether the plan is the parent's, so that it goes on where the parent stands in each cell.
        """
        position = 0
        credits: tuple[int, ...] = ()
        rows: tuple[tuple[int, ...], ...] = () if program.unit is Unit.SAMPLES else ((),) * lanes
        if parent is not None:
            position = parent.next_chunk if program.axis is Axis.CHUNKS else parent.num_units
            credits = parent.credits
            rows = rows and (parent.lane_credits or rows)
        segment = bisect.bisect_right([known.start for known in program.segments], position) - 1
        shares = program.segments[segment].shares
        if parent is not None and standing is not None and segment == parent.segment:
            shares = tuple(standing)
        passes = tuple(plan.num_passes_C.tolist())
        taken: tuple[tuple[int, ...], ...] = ((0,) * (lanes if program.is_shuffled else 1),) * plan.num_cells
        if parent is not None and is_in_its_cells:
            passes, taken = parent.passes, parent.taken
        return cls(
            next_chunk=0 if parent is None else parent.next_chunk,
            num_units=0 if parent is None else parent.num_units,
            segment=segment,
            weights_version=1 if parent is None else parent.weights_version + 1,
            shares=shares,
            credits=carried(_filled(credits, len(shares)), shares),
            lane_credits=tuple(carried(_filled(row, len(shares)), shares) for row in rows),
            passes=passes,
            taken=taken,
            pending=(),
            num_changes=0,
            is_ended=False,
        )

    def with_decisions(self, decisions: Sequence[Decision]) -> Cursor:
        """Return the cursor with what a policy decided since; where its chunk is gone, it is due with the next one."""
        if not decisions:
            return self
        changes = [
            Change(
                chunk=max(decision.chunk, self.next_chunk),
                weights=decision.weights,
                cause="adapt",
                step=decision.step,
                details={**decision.details, "chunks_late": max(0, self.next_chunk - decision.chunk)},
                is_adapted=True,
            )
            for decision in decisions
        ]
        pending = tuple(sorted((*self.pending, *changes), key=lambda change: change.chunk))
        return replace(self, pending=pending, adapted_step=decisions[-1].step)

    def to_dict(self) -> dict[str, Any]:
        """Return the cursor as JSON can hold it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # not asdict: it copies every number
        return {"version": _CURSOR_VERSION, **values, "pending": [asdict(change) for change in self.pending]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Cursor:
        """Return the cursor that ``to_dict`` gave.

        Raises:
            ScheduleError: it was written by a version that counted differently.
        """
        version = state.get("version")
        if version not in _READ_VERSIONS:
            read = " and ".join(map(str, _READ_VERSIONS))
            raise ScheduleError(f"the run's cursor has version {version}; this program reads versions {read}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in state.items()
        }
        del values["version"]
        values["taken"] = tuple(map(tuple, state["taken"]))
        values["lane_credits"] = tuple(map(tuple, state.get("lane_credits", ())))
        values["pending"] = tuple(Change(**change) for change in state["pending"])
        return cls(**values)


def _filled(credits: Sequence[int], num: int) -> list[int]:
    """Return credits of ``num`` components: those that are new are owed nothing."""
    return [*credits, *[0] * (num - len(credits))]
