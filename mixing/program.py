"""What a run draws, all declarations resolved: which samples are whose, and in which shares, at every moment.

A program is a list of segments, each with shares that do not change inside it. A stage without a ramp is one segment; a
ramp is a stair of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.mixing.components import OnExhausted
from mixlake.mixing.curriculum import Curriculum, Ramp, Stage
from mixlake.mixing.extents import Axis, Clock, Position
from mixlake.mixing.mixture import Mixture, Unit
from mixlake.mixing.quotas import integer_shares

_MAX_COMPONENTS = 32_767
"""Chunks store component ids in two bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """A component at a catalog version: the samples that match all of some predicates and none of others."""

    name: str
    """Its own name after those of the components around it: ``code.python``."""
    path: str
    """Where it is declared."""
    requires: tuple[str, ...]
    excludes: tuple[str, ...]
    share: float
    on_exhausted: OnExhausted
    max_passes: int | None
    """How often it goes through its samples; None is without end."""
    bands: tuple[str, ...] = ()
    """Predicates that cut its samples into bands: each is in the first that it matches, else in one after the last."""
    is_rest: bool = False
    """Whether it is declared as what the components beside it, which it excludes, leave over."""

    def to_dict(self) -> dict[str, Any]:
        """Return the leaf as JSON can hold it."""
        return {**asdict(self), "on_exhausted": self.on_exhausted.value}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Leaf:
        """Return the leaf that ``to_dict`` gave."""
        lists = {key: tuple(value) for key, value in state.items() if isinstance(value, list)}
        return cls(**{**state, **lists, "on_exhausted": OnExhausted(state["on_exhausted"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What declarations mean at a catalog version; stored with the run."""

    stages: tuple[tuple[Leaf, ...], ...]
    """The components of each stage of the curriculum; without a curriculum there is one stage."""
    filter: str | None
    """What every sample of the run must match."""
    tokens_per_byte: Mapping[str, float] | None
    """By component, where tokens are estimated from bytes."""
    flows: tuple[Mapping[str, Mapping[str, float]], ...] = ()
    """By stage: the components that only the stage before has, and which parts of their units belong to which
    components while a ramp leads from one stage to the other."""
    known: tuple[str, ...] = ()
    """Names of components whose ids are given already: those of a run that this one goes on from."""
    measurement: Mapping[str, Any] | None = None
    """What the ratios rest on, where they were measured: ``tokenizer`` (its name), ``source`` (what it is loaded from;
    None for a function) and ``components`` (by name: num_documents, num_bytes, num_tokens)."""
    units_per_pass: Mapping[str, float] | None = None
    """By component, the units of one pass over all that its stages draw from; of runs that adapt their weights."""
    inherited_step: int = -1
    """The last training step of the run that this one goes on from whose losses its policy knows; -1 for none."""
    cells: tuple[str, ...] | None = None
    """The predicates of the cells of the run that this one goes on from, where it draws from them on as that one did;
    None where it counts what that one has drawn."""

    def to_dict(self) -> dict[str, Any]:
        """Return the resolution as JSON can hold it."""
        stages = [[leaf.to_dict() for leaf in leaves] for leaves in self.stages]
        flows = [dict(flow) for flow in self.flows]
        return {
            "stages": stages,
            "filter": self.filter,
            "tokens_per_byte": self.tokens_per_byte,
            "flows": flows,
            "known": list(self.known),
            "measurement": self.measurement,
            **({} if self.units_per_pass is None else {"units_per_pass": dict(self.units_per_pass)}),
            **({} if self.inherited_step < 0 else {"inherited_step": self.inherited_step}),
            **({} if self.cells is None else {"cells": list(self.cells)}),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Resolution:
        """Return the resolution that ``to_dict`` gave."""
        stages = tuple(tuple(Leaf.from_dict(leaf) for leaf in leaves) for leaves in state["stages"])
        return cls(
            stages=stages,
            filter=state["filter"],
            tokens_per_byte=state["tokens_per_byte"],
            flows=tuple(state["flows"]),
            known=tuple(state.get("known", ())),  # runs of earlier versions have none
            measurement=state.get("measurement"),
            units_per_pass=state.get("units_per_pass"),
            inherited_step=state.get("inherited_step", -1),
            cells=tuple(state["cells"]) if "cells" in state else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of a run in which nothing is changed by its curriculum."""

    start: int
    """On the program's axis."""
    stage: int
    leaves: tuple[Leaf, ...]
    """A sample belongs to the first that it matches. In a ramp the stage's own come first, then those of the stage
    before, so that a name may stand twice."""
    shares: tuple[int, ...]
    """By component of the program, out of `quotas.SCALE`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What a run draws, and when."""

    components: tuple[str, ...]
    """The names that component ids index: those of all stages, in the order in which they come."""
    unit: Unit
    window: int
    filter: str | None
    tokens_per_byte: Mapping[str, float] | None
    stages: tuple[str, ...]
    stage_leaves: tuple[tuple[Leaf, ...], ...]
    axis: Axis
    """What the segments' starts count: chunks, or units given out."""
    segments: tuple[Segment, ...]
    end: Position | None
    """Where the run ends if its samples last so long."""
    units_per_pass: Mapping[str, float] | None = None
    """By component, where it is known (see `Resolution`)."""
    cells: tuple[str, ...] | None = None
    """Predicates of the cells, where they are another run's (see `Resolution`)."""

    @property
    def predicates(self) -> tuple[str, ...]:
        """Every predicate that tells cells apart, each once: those that decide whose a sample is are among them."""
        if self.cells is not None:
            return self.cells
        found: dict[str, None] = {}
        for segment in self.segments:
            for leaf in segment.leaves:
                found.update(dict.fromkeys((*leaf.requires, *leaf.excludes, *leaf.bands)))
        return tuple(found)

    def draws_alike(self, other: Program) -> bool:
        """Say whether the components are those of another program and draw from the same samples, in any shares."""
        return (self.components, self.filter, self._drawn()) == (other.components, other.filter, other._drawn())

    def goes_through(self, other: Program) -> bool:
        """Say whether it can go on in the cells of another program: their predicates tell all that it needs apart."""
        mine, theirs = ((p.filter, p.unit_property, p.window) for p in (self, other))
        return mine == theirs and set(self.predicates) <= set(other.predicates)

    def _drawn(self) -> list[list[tuple[str, tuple[str, ...], tuple[str, ...]]]]:
        return [[(leaf.name, leaf.requires, leaf.excludes) for leaf in leaves] for leaves in self.stage_leaves]

    @property
    def unit_property(self) -> str | None:
        """The property that counts a sample's units, before any estimate; None where every sample counts one."""
        return self.unit.property_name if self.tokens_per_byte is None else Unit.BYTES.property_name

    @property
    def is_shuffled(self) -> bool:
        """Whether samples are drawn and delivered in a seeded order rather than in storage order."""
        return self.window > 0


def make_program(
    mixture: Mixture,
    curriculum: Curriculum | None,
    resolution: Resolution,
    clock: Clock,
) -> Program:
    """Return the program of a run.

    Args:
        mixture: the run's mixture.
        curriculum: its stages, if it has any.
        resolution: what both mean at the run's catalog version.
        clock: the run's time.

    Raises:
        ConfigError: the stages' ends cannot be known, or are not in order.
    """
    names = dict.fromkeys([*resolution.known, *(leaf.name for leaves in resolution.stages for leaf in leaves)])
    if len(names) > _MAX_COMPONENTS:
        raise ConfigError(f"the run has {len(names):,} components; at most {_MAX_COMPONENTS:,} are possible")
    stages = (Stage(name="main", until=None),) if curriculum is None else curriculum.stages
    axis, starts, end = _boundaries(stages, clock)
    segments: list[Segment] = []
    for number, (stage, leaves, start, stop) in enumerate(
        zip(stages, resolution.stages, starts, [*starts[1:], None], strict=True)
    ):
        ramp = _ramp_length(stage, clock, axis, None if stop is None else stop - start)
        if stage.ramp is not None:
            before = resolution.stages[number - 1]
            flows = resolution.flows[number] if resolution.flows else {}
            shares = _ramp_shares(tuple(names), min(stage.ramp.changes, ramp), stage.ramp, before, leaves, flows)
            segments += [
                Segment(start=start + step * ramp // len(shares), stage=number, leaves=(*leaves, *before), shares=row)
                for step, row in enumerate(shares)
            ]
        if stop is None or start + ramp < stop:
            row = _shares(tuple(names), [(1.0, [(leaf.name, leaf.share) for leaf in leaves])])
            segments.append(Segment(start=start + ramp, stage=number, leaves=leaves, shares=row))
    return Program(
        components=tuple(names),
        unit=mixture.unit,
        window=mixture.window,
        filter=resolution.filter,
        tokens_per_byte=resolution.tokens_per_byte,
        stages=tuple(stage.name for stage in stages),
        stage_leaves=resolution.stages,
        axis=axis,
        segments=tuple(segments),
        end=end,
        units_per_pass=resolution.units_per_pass,
        cells=resolution.cells,
    )


def with_shares(leaves: Sequence[Leaf], weights: Mapping[str, float], path: str) -> tuple[Leaf, ...]:
    """Return components of which some have new shares: see `set_shares`."""
    shares = set_shares({leaf.name: leaf.share for leaf in leaves}, weights, path)
    return tuple(replace(leaf, share=shares[leaf.name]) for leaf in leaves)


def set_shares(shares: Mapping[str, float], weights: Mapping[str, float], path: str) -> dict[str, float]:
    """Return shares of which some are set anew; the others share the rest in the proportions that they had.

    A component with others inside it may be named too; they keep their proportions. Where all are named the numbers
    are relative to one another.

    Raises:
        ConfigError: there is no component of a name, or the shares exceed 1 or leave nothing to share.

    >>> set_shares({"a": 0.5, "b.c": 0.25, "b.d": 0.25}, {"b": 0.2}, "weights")
    {'a': 0.8, 'b.c': 0.1, 'b.d': 0.1}
    """
    given: dict[str, float] = {}
    for name, weight in weights.items():
        mine = {leaf: share for leaf, share in shares.items() if leaf == name or leaf.startswith(f"{name}.")}
        if not mine:
            raise ConfigError(f"{path}: no component {name!r}; there are: {listed(shares)}.{nearest(name, shares)}")
        if twice := mine.keys() & given:
            raise ConfigError(f"{path}: {name!r} sets {listed(sorted(twice))} a second time")
        given.update(_in_proportion(mine, weight, f"{path}.{name}"))
    total = math.fsum(given.values())
    others = {leaf: share for leaf, share in shares.items() if leaf not in given}
    if not others:
        return _in_proportion(given, 1.0, path)
    if total > 1:
        raise ConfigError(f"{path}: the shares sum to {total:g}; at most 1 is possible where components are left out")
    given.update(_in_proportion(others, 1 - total, path))
    return {leaf: given[leaf] for leaf in shares}


def _in_proportion(shares: Mapping[str, float], amount: float, path: str) -> dict[str, float]:
    total = math.fsum(shares.values())
    if len(shares) == 1 or not amount:
        return dict.fromkeys(shares, amount)
    if not total:
        raise ConfigError(f"{path}: {amount:g} is left for {listed(shares)}, whose shares are zero; name them too")
    return {leaf: amount * share / total for leaf, share in shares.items()}


def _boundaries(stages: Sequence[Stage], clock: Clock) -> tuple[Axis, list[int], Position | None]:
    """Return the axis of the stages, where each begins, and where the run ends."""
    path = "curriculum.stages.{}.until".format
    ends = [None if s.until is None else clock.position(s.until, path(s.name)) for s in stages]
    length = None if clock.length is None else clock.position(clock.length, "length")
    if length is not None and ends[-1] is not None and ends[-1] != length:
        raise ConfigError(
            f"{path(stages[-1].name)} is {ends[-1].at} {ends[-1].axis}, but the run's length is {length.at} "
            f"{length.axis}; leave one of them out"
        )
    inner = [end for end in ends[:-1] if end is not None]
    axes = {end.axis for end in inner}
    if len(axes) > 1:
        raise ConfigError(
            f"curriculum.stages: some stages end after chunks or samples, others after {clock.unit.value}; which comes "
            "first cannot be known"
        )
    end = ends[-1] or length
    starts = [0]
    for stage, position in zip(stages, inner, strict=False):
        if position.at <= starts[-1]:
            raise ConfigError(
                f"{path(stage.name)} is {position.at} {position.axis}, where the stage has not begun: it begins at "
                f"{starts[-1]}; ends count from the beginning of the run, in whole chunks"
            )
        if end is not None and end.axis is position.axis and position.at >= end.at:
            raise ConfigError(f"{path(stage.name)} is {position.at} {position.axis}, but the run ends at {end.at}")
        starts.append(position.at)
    return (axes.pop() if axes else Axis.CHUNKS), starts, end


def _ramp_length(stage: Stage, clock: Clock, axis: Axis, room: int | None) -> int:
    """Return how long the ramp of a stage takes, on the axis; 0 where it has none."""
    if stage.ramp is None:
        return 0
    path = f"curriculum.stages.{stage.name}.ramp.over"
    position = clock.position(stage.ramp.over, path)
    if position.axis is not axis or (room is not None and position.at > room):
        raise ConfigError(
            f"{path} is {position.at} {position.axis}, the stage has {room or 'any number of'} {axis}; it must fit in"
        )
    return position.at


def _ramp_shares(
    names: Sequence[str],
    num: int,
    ramp: Ramp,
    before: Sequence[Leaf],
    after: Sequence[Leaf],
    flows: Mapping[str, Mapping[str, float]],
) -> list[tuple[int, ...]]:
    """Return the shares of a stair of segments, each those of its middle, so that together they are what the ramp is.

    A sample belongs to the component of the new stage that takes it, else to that of the old one. A component that only
    the old stage has gives its share to those that its samples belong to, in proportion.
    """
    old = [
        (name, leaf.share * part) for leaf in before for name, part in flows.get(leaf.name, {leaf.name: 1.0}).items()
    ]
    new = [(leaf.name, leaf.share) for leaf in after]
    progress = [ramp.shape.at((step + 0.5) / num) for step in range(num)]
    return [_shares(names, [(1 - gone, old), (gone, new)]) for gone in progress]


def _shares(names: Sequence[str], parts: Sequence[tuple[float, Sequence[tuple[str, float]]]]) -> tuple[int, ...]:
    total = dict.fromkeys(names, 0.0)
    for factor, shares in parts:
        for name, share in shares:
            total[name] += factor * share
    return tuple(integer_shares(list(total.values())))
