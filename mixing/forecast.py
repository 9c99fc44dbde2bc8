"""What a run will draw, stage by stage, foretold from its plan as if samples could be cut: nothing is drawn or read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mixlake.mixing.cells import CellPlan
from mixlake.mixing.components import OnExhausted
from mixlake.mixing.extents import Axis
from mixlake.mixing.program import Program, Segment
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.streams import Source, find_sources

FloatArray = npt.NDArray[np.float64]
_NOTHING = 1e-9
"""Units: less than this is left of a component that has run out."""
_PART_OF_CHUNK = 1e-6
"""Less than this of a chunk is none: sums of parts are that far off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageComponent:
    """What a component gives in one stage."""

    name: str
    num_units: float
    num_samples: float
    share: float
    """Of the stage's units."""
    passes: float
    """How often it has been gone through by the end of the stage, in the mean over its samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageForecast:
    """What is drawn in one stage."""

    name: str
    num_units: float
    num_chunks: float
    components: tuple[StageComponent, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run draws from its beginning to its end."""

    stages: tuple[StageForecast, ...]
    num_units: float
    """Of the whole run; infinite where it has no end."""
    exhausted: tuple[tuple[str, float], ...]
    """The components that run out, in order, and after how many units of the run."""
    stopped_by: str | None
    """The component that ends the run because it has run out."""
    is_cut_short: bool
    """Whether it ends before its declared length."""


@dataclass(slots=True)
class _State:
    drawn_C: FloatArray
    """Units drawn from each cell, over all passes."""
    units: float = 0.0
    chunks: float = 0.0
    exhausted: dict[str, float] = field(default_factory=dict)
    stopped_by: str | None = None
    is_over: bool = False


def forecast(program: Program, plan: CellPlan, chunk_size: int) -> Forecast:
    """Return what a run draws, within a sample's length and the chunk that a stage ends in."""
    state = _State(drawn_C=np.zeros(plan.num_cells))
    totals = [(np.zeros(len(program.components)), 0.0) for _ in program.stages]
    passes: list[FloatArray] = [np.zeros(len(program.components)) for _ in program.stages]
    found: dict[int, list[Source]] = {}
    for index, segment in enumerate(program.segments):
        if state.is_over:
            break
        if _is_skipped(state, program, index):
            continue
        sources = found.setdefault(id(segment.leaves), find_sources(program, plan, segment.leaves))
        before = state.chunks
        given = _run_segment(state, program, plan, segment, sources, index, chunk_size)
        units, chunks = totals[segment.stage]
        totals[segment.stage] = (units + given, chunks + state.chunks - before)
        passes[segment.stage] = np.array([_passes(state.drawn_C, plan, source) for source in sources])
    means = _mean_units(program, plan, found)
    stages = [
        StageForecast(
            name=name,
            num_units=float(units.sum()),
            num_chunks=chunks,
            components=tuple(
                StageComponent(
                    name=component,
                    num_units=float(units[k]),
                    num_samples=float(units[k] / means[k]) if means[k] else 0.0,
                    share=float(units[k] / units.sum()) if math.isfinite(units.sum()) and units.sum() else 0.0,
                    passes=float(stage_passes[k]),
                )
                for k, component in enumerate(program.components)
                if units[k]
            ),
        )
        for name, (units, chunks), stage_passes in zip(program.stages, totals, passes, strict=True)
    ]
    end = program.end
    reached = state.chunks if end is None or end.axis is Axis.CHUNKS else state.units
    return Forecast(
        stages=tuple(stages),
        num_units=state.units,
        exhausted=tuple(state.exhausted.items()),
        stopped_by=state.stopped_by,
        is_cut_short=end is not None and reached < end.at * (1 - 1e-9),
    )


def _run_segment(
    state: _State,
    program: Program,
    plan: CellPlan,
    segment: Segment,
    sources: Sequence[Source],
    index: int,
    chunk_size: int,
) -> FloatArray:
    """Go on to the end of a segment, or of the run; return the units that each component gave."""
    limits = [(program.axis, following.start) for following in program.segments[index + 1 : index + 2]]
    end = None if program.end is None else (program.end.axis, program.end.at)
    shares: FloatArray = np.array(segment.shares, np.float64) / SCALE
    given = np.zeros(len(shares))
    means = np.array([_mean(plan, source) for source in sources])
    left = np.array([_left(state.drawn_C, plan, source) for source in sources])
    while not state.is_over:
        for k in np.flatnonzero((shares > 0) & (left <= _NOTHING)).tolist():
            state.exhausted.setdefault(program.components[k], state.units)
            if sources[k].on_exhausted is OnExhausted.STOP:
                state.stopped_by, state.is_over = program.components[k], True
            shares[k] = 0.0
        if state.is_over or not shares.any():
            state.is_over = True
            break
        shares = np.asarray(shares / shares.sum(), np.float64)
        per_chunk = chunk_size / (shares[shares > 0] / means[shares > 0]).sum()
        spans = [_units_to_chunk(limit, state, per_chunk) for limit in limits]
        spans += [_units_to(end, state, per_chunk)] if end else []
        with np.errstate(divide="ignore", invalid="ignore"):
            lasts = np.where(shares > 0, left / shares, np.inf)
        span = min([*spans, float(lasts.min())])
        if math.isinf(span):
            state.units, state.chunks, state.is_over = math.inf, math.inf, True
            return given + np.where(shares > 0, np.inf, 0.0)
        given += shares * span
        left = np.where(lasts <= span, 0.0, left - shares * span)
        state.units += span
        state.chunks += span / per_chunk
        if end is not None and _units_to(end, state, per_chunk) <= _NOTHING:
            state.is_over = True
        if any(_units_to_chunk(limit, state, per_chunk) <= _NOTHING for limit in limits):
            break
    for k in np.flatnonzero(given).tolist():
        _take(state.drawn_C, plan, sources[k], float(given[k]))
    return given


def _units_to(limit: tuple[Axis, int], state: _State, per_chunk: float) -> float:
    axis, at = limit
    return max(0.0, (at - state.chunks) * per_chunk if axis is Axis.CHUNKS else at - state.units)


def _units_to_chunk(limit: tuple[Axis, int], state: _State, per_chunk: float) -> float:
    """Return the units up to the end of the chunk in which a limit falls: what changes there changes between chunks."""
    chunks = state.chunks + _units_to(limit, state, per_chunk) / per_chunk
    return max(0.0, (math.ceil(chunks - _PART_OF_CHUNK) - state.chunks) * per_chunk)


def _is_skipped(state: _State, program: Program, index: int) -> bool:
    """Say whether a segment ends in the chunk in which the ones before it did."""
    reached = state.chunks if program.axis is Axis.CHUNKS else state.units
    return index + 1 < len(program.segments) and program.segments[index + 1].start <= reached + _NOTHING


def _sizes(plan: CellPlan, source: Source) -> FloatArray:
    return np.asarray(plan.num_units_C[source.cells] * (1.0 if source.ratio is None else source.ratio), np.float64)


def _mean(plan: CellPlan, source: Source) -> float:
    return float(_sizes(plan, source).sum()) / max(1, int(plan.num_samples_C[source.cells].sum()))


def _mean_units(program: Program, plan: CellPlan, found: dict[int, list[Source]]) -> list[float]:
    """Return the mean units of a component's samples, over all definitions that it has."""
    return [
        max((_mean(plan, sources[k]) for sources in found.values()), default=0.0)
        for k in range(len(program.components))
    ]


def _left(drawn_C: FloatArray, plan: CellPlan, source: Source) -> float:
    """Return how many units a component can still give."""
    sizes = _sizes(plan, source)
    if source.max_passes is None:
        return math.inf if sizes.any() else 0.0
    return float(np.maximum(source.max_passes * sizes - drawn_C[source.cells], 0).sum())


def _passes(drawn_C: FloatArray, plan: CellPlan, source: Source) -> float:
    sizes = _sizes(plan, source)
    return float(drawn_C[source.cells].sum() / sizes.sum()) if sizes.any() else 0.0


def _take(drawn_C: FloatArray, plan: CellPlan, source: Source, amount: float) -> None:
    """Take units from a component's cells: the least often drawn first, of these the first band's."""
    sizes = _sizes(plan, source)
    cells, bands, sizes = source.cells[sizes > 0], source.bands[sizes > 0], sizes[sizes > 0]
    drawn = drawn_C[cells]
    while amount > _NOTHING:
        level = np.floor(drawn / sizes + 1e-9)
        lowest = level.min()
        whole = math.floor(amount / sizes.sum()) if level.max() == lowest else 0
        drawn += whole * sizes
        amount -= whole * float(sizes.sum())
        is_next = level == lowest
        is_next &= bands == bands[is_next].min()
        room = np.where(is_next, (lowest + whole + 1) * sizes - drawn, 0.0)
        part = min(1.0, amount / float(room.sum()))
        drawn += room * part
        amount -= float(room.sum()) * part
    drawn_C[cells] = drawn
